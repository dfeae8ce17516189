"""The command line of the training job."""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App

from fmnist import process
from fmnist.cli.command import Context, Result, make_app, run
from fmnist.cli.options import flag, settings_with_origin, takes_settings
from fmnist.errors import ExitCode
from fmnist.orchestration.temporary_server import temporary_server
from fmnist.prefect_import import prefect_import
from fmnist.settings import Settings, sections
from fmnist.tensorflow_import import quiet_tensorflow_import


def main(flow_file: str, arguments: Sequence[str] | None = None) -> ExitCode:
    """Run a file's flow `training_job` once as the command line says.

    The last line on standard output sums it up. Nothing of what takes seconds to import is imported
    before the arguments are known to be right.
    """
    return run(training_app(Path(flow_file)), arguments, json=False)


def training_app(flow_file: Path) -> App:
    """The command line of the job: every setting is an option."""

    @takes_settings(*sections(), json=False)
    def train(
        context: Context,
        *,
        show_settings: Annotated[
            bool, flag("Print the settings and where each comes from; train nothing.")
        ] = False,
    ) -> Result:
        if show_settings:
            context.say(*settings_with_origin(context.settings, context.overrides))
            return Result()
        return _train(flow_file, context.settings)

    app = make_app(
        "python flows/train.py",
        "Train on Fashion-MNIST, judge on the test set, publish; promote if the gate is passed.\n\n"
        "Each setting is an option, an environment variable, or a line of that form in a file .env "
        "in the current folder; the first of these that is given counts.",
        usage="Usage: python flows/train.py [--section.name VALUE ...] [--show-settings]",
    )
    app.default(train)
    return app


def _train(flow_file: Path, settings: Settings) -> Result:
    start = time.monotonic()
    process.end_at_once()
    # Nothing of what is imported is garbage, and looking for it takes a fifth of the time.
    gc.disable()
    with temporary_server() as server:
        with prefect_import():
            from fmnist.orchestration.server import run_flow
            from fmnist.promotion.unchanged import Unchanged
            from fmnist.report.markdown import summary
        result = run_flow(lambda: _load(flow_file), settings, server)
    seconds = time.monotonic() - start
    if isinstance(result, Unchanged):
        judged = result.verdict.promoted or not result.judged_again
        code = ExitCode.OK if judged else ExitCode.REJECTED
        line = f"{result.reason}  {seconds:.0f} s  {result.location}/report.md"
        return Result(code, (line,))
    code = ExitCode.OK if result.verdict.promoted else ExitCode.REJECTED
    return Result(code, (summary(result, seconds),))


def _load(flow_file: Path) -> Callable[..., Any]:
    from fmnist.orchestration.server import load_flow

    flow = load_flow(flow_file)
    # It will need TensorFlow, whose import takes as long as the server takes to start.
    with quiet_tensorflow_import():
        import fmnist.training.model_file  # noqa: F401
    gc.freeze()
    gc.enable()
    return flow
