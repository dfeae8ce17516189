"""The command line of the training job."""

import time
from collections.abc import Callable
from typing import Annotated

from cyclopts import App

from fmnist.cli.command import Context, Result, make_app
from fmnist.cli.options import flag, settings_with_origin, takes_settings
from fmnist.errors import ExitCode
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.markdown import summary
from fmnist.report.run import Run
from fmnist.settings import Settings, sections


def training_app(run_job: Callable[[Settings], Run | Unchanged]) -> App:
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
        start = time.monotonic()
        result = run_job(context.settings)
        seconds = time.monotonic() - start
        if isinstance(result, Unchanged):
            judged = result.verdict.promoted or not result.judged_again
            code = ExitCode.OK if judged else ExitCode.REJECTED
            line = f"{result.reason}  {seconds:.0f} s  {result.location}/report.md"
            return Result(code, (line,))
        code = ExitCode.OK if result.verdict.promoted else ExitCode.REJECTED
        return Result(code, (summary(result, seconds),))

    app = make_app(
        "python flows/train.py",
        "Train on Fashion-MNIST, judge on the test set, publish; promote if the gate is passed.\n\n"
        "Each setting is an option, an environment variable, or a line of that form in a file .env "
        "in the current folder; the first of these that is given counts.",
        usage="Usage: python flows/train.py [--section.name VALUE ...] [--show-settings]",
    )
    app.default(train)
    return app
