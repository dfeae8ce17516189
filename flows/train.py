"""The training job: fetch, preprocess, train, evaluate, publish, as one Prefect flow.

    python flows/train.py --help

Everything that computes or stores is in the package `fmnist`; here is only what an orchestrator
knows: the order of the stages, retries, progress, artifacts, states, and the command line.
"""

import base64
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast
from uuid import UUID

import httpx
from prefect import flow, runtime, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.exceptions import Abort, PrefectException, TerminationSignal
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Cancelled, Completed
from prefect.utilities.collections import deep_merge
from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fmnist import cli, publication, registry
from fmnist import fetch as fetching
from fmnist import preprocess as preprocessing
from fmnist.config import DataSettings, Settings, SplitSettings
from fmnist.dataset import LabelledImages
from fmnist.environment import describe
from fmnist.errors import ExitCode, JobError, PrefectError, without_credentials
from fmnist.fetch import DataOrigin, FetchedData
from fmnist.history import Epoch, TrainingResult
from fmnist.judging import Bench, Judge, Judgement
from fmnist.preprocess import PreparedData
from fmnist.progress import track
from fmnist.report import Run, classification_table, markdown, summary
from fmnist.store import Store, open_store

logger = logging.getLogger("fmnist.flow")

_PROGRAM = "python flows/train.py"
_LONGEST_SERVER_START = 180
_LONGEST_FIRST_ANSWER = 15
_SECONDS_BETWEEN_UPDATES = 2.0
_SECONDS_BETWEEN_HEARTBEATS = 30


# ---- the stages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What the last two stages need to know of the run, all of it settled before training.

    `since` is the generation of the champion that was met before it.
    """

    run_id: str
    settings: Settings
    data: DataOrigin
    safe_store: bool
    since: int


def _may_pass(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: only after a fault that time can heal."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, JobError) and error.temporary


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def fetch(settings: DataSettings) -> FetchedData:
    """Bring the four data files to this machine, verified."""
    return fetching.fetch(settings)


@task(cache_policy=NO_CACHE)
def preprocess(fetched: FetchedData, settings: SplitSettings, folder: Path) -> PreparedData:
    """Check the data and split them into training, validation and test."""
    return preprocessing.preprocess(fetched, settings, folder)


@task(cache_policy=NO_CACHE)
def train(prepared: PreparedData, settings: Settings, folder: Path) -> TrainingResult:
    """Train and calibrate the network, and save it."""
    # Imported here, since TensorFlow takes seconds that a rejected setting should not cost.
    with cli.native_stderr_silenced():
        from fmnist import training

    with _training_progress(settings.training.epochs) as report:
        return training.train(
            preprocessing.load(prepared.train),
            preprocessing.load(prepared.validation),
            settings.model,
            settings.training,
            _model_file(folder),
            report,
        )


@task(cache_policy=NO_CACHE)
def evaluate(job: _Job, prepared: PreparedData, folder: Path) -> Judgement:
    """Score the saved model once on the test images, and decide about it against the champion."""
    judge = _judge(job, preprocessing.load(prepared.test))
    return judge.judge(_model_file(folder).read_bytes(), job.since)


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def publish(job: _Job, run: Run, folder: Path) -> Run:
    """Put the run's files together, store them, and promote the model if it passed the gate."""
    test, finished = preprocessing.load(run.prepared.test), publication.finished(folder)
    if not (finished / registry.MANIFEST).exists():
        publication.assemble(run, test.images, finished)
    published = publication.publish(run, finished, _judge(job, test))
    logger.info("%s: %s", published.verdict.word, published.verdict.reason)
    return published


def _judge(job: _Job, test: LabelledImages) -> Judge:
    """Who judges a run's model on the test images, by the gate's settings."""
    from fmnist import model

    bench = Bench(
        test.labels, job.settings.data.class_names, job.data.test_set, model.scorer(test.images)
    )
    return Judge(_store(job.settings), bench, job.settings.gate, job.run_id, job.safe_store)


class _AsForm:
    """Gives a parameter the settings' schema, as a form of which every field may be left empty.

    Prefect's UI fills fields in with their defaults and sends them all, which would override the
    environment of the worker. So the defaults go into the descriptions, and the bounds with them.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(Settings.__pydantic_core_schema__)
        settings = {setting.name: setting for setting in cli.all_settings()}
        for section, part in handler.resolve_ref_schema(reference)["properties"].items():
            part.pop("default", None)
            for name, field in handler.resolve_ref_schema(part)["properties"].items():
                field.pop("default", None)
                if field.get("type") == "boolean":
                    # As a switch it could not be left alone, and would be sent as off.
                    del field["type"]
                    field["enum"] = [True, False]
                setting = settings[f"{section}.{name}"]
                allowed = setting.allowed.replace("comma-separated", "values")
                field["description"] = f"{setting.meaning} ({allowed}; default: {setting.default})"
        return reference


@flow(name="fashion-mnist", log_prints=False)
def training_job(settings: Annotated[Any, _AsForm] = {}) -> State[Any]:  # noqa: B006
    """Train on Fashion-MNIST, judge on the test set, publish; promote if the gate is passed.

    A part of the settings is enough: the rest comes from the deployment, then from the environment
    of the process that runs the flow, then from the defaults.
    """
    with _named_run() as (run_id, started_at):
        settings = _complete(settings)
        store = _store(settings)
        safe_store = store.check()
        # Here, so that a damaged champion is found out before training; it is met after that.
        since = registry.generation_of(registry.champion(store))
        code = describe()
        with publication.workspace(settings.store, run_id) as folder:
            fetched = _retried(fetch, settings.data.retry_pauses)(settings.data)
            prepared = preprocess(fetched, settings.split, folder)
            trained = train(prepared, settings, folder)
            job = _Job(run_id, settings, fetched.origin, safe_store, since)
            judged = evaluate(job, prepared, folder)
            run = Run(
                run_id=run_id,
                started_at=started_at,
                location=store.location(registry.run_key(run_id)),
                settings=settings,
                data=fetched.origin,
                prepared=prepared,
                training=trained,
                evaluation=judged.evaluation,
                verdict=judged.verdict,
                environment=code,
                champion_before=judged.champion,
                against=judged.against,
            )
            run = _retried(publish, settings.store.retry_pauses)(job, run, folder)
            # Here and not in the task, so that they stand first among the run's artifacts.
            with _best_effort("the report was not shown in Prefect; it is in the store"):
                _show(run, publication.finished(folder))
        _announce(run.verdict.word, run_id, run.verdict.reason, run)
        with _best_effort("the run was not tagged"):
            _tag(run.verdict.word, "official-data" if fetched.origin.official else "own-data")
        return Completed(name=run.verdict.word.capitalize(), message=run.verdict.reason, data=run)
    return Cancelled(message="interrupted")


# ---- what an orchestrator knows -----------------------------------------------------------------


def _model_file(folder: Path) -> Path:
    return publication.finished(folder) / registry.MODEL


def _store(settings: Settings) -> Store:
    return open_store(settings.store.url, single_publisher=settings.store.single_publisher)


def _retried(stage: Any, pauses: Sequence[float]) -> Any:
    return stage.with_options(retries=len(pauses), retry_delay_seconds=list(pauses) or None)


@contextmanager
def _named_run() -> Iterator[tuple[str, datetime]]:
    """Give this flow run an id of its own, as its name too; say plainly how it failed.

    Ctrl-C ends the block quietly: what follows it marks the run as cancelled.
    """
    _prepare_process()
    started_at = datetime.now(UTC)
    run_id = registry.new_run_id(started_at)
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=run_id)
    try:
        yield run_id, started_at
    except JobError as error:
        error.run_id = run_id
        logger.error("%s", error)
        _announce("failed", run_id, str(error))
        raise
    except KeyboardInterrupt:
        logger.warning("interrupted")
    except Exception as error:
        _announce("failed", run_id, f"{type(error).__name__}: {error}")
        raise


def _complete(given: Settings | Mapping[str, Any]) -> Settings:
    """All settings of the run: those given, the deployment's, the environment's, the defaults.

    Prefect replaces a deployment's parameter as a whole: a run started by hand with one setting
    would lose the deployment's others without a word, its gate among them.

    Raises:
        SettingsError: a wrong name, type or range, or values that do not go together.
    """
    if isinstance(given, Settings):
        return given
    deployed: dict[str, Any] = {}
    if runtime.deployment.id:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment(UUID(runtime.deployment.id))
        deployed = deployment.parameters.get("settings", {})
    merged: dict[str, Any] = deep_merge(deployed, dict(given))
    return cli.complete(merged)


def _announce(what: str, run_id: str, reason: str, run: Run | None = None) -> None:
    """Emit the event `fmnist.run.<what>`, for automations and whoever else listens."""
    before = run.champion_before if run else None
    with _best_effort("the event was not emitted"):
        emit_event(
            f"fmnist.run.{what}",
            {"prefect.resource.id": f"fmnist.run.{run_id}", "prefect.resource.name": run_id},
            payload={
                "run_id": run_id,
                "reason": reason,
                "accuracy": run.evaluation.accuracy if run else None,
                "bound": run.settings.gate.min_accuracy if run else None,
                "champion_before": before.run_id if before else None,
                "champion_after": run.champion_after if run else None,
                "report": f"{run.location}/report.md" if run else None,
            },
        )


@contextmanager
def _best_effort(otherwise: str) -> Iterator[None]:
    """Tell Prefect something that a run can do without: if that fails, only `otherwise` is logged."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("%s (%s)", otherwise, error)


def _tag(*tags: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags={*runtime.flow_run.tags, *tags})


@contextmanager
def _training_progress(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """Report epochs on the terminal or in the log, and in a progress artifact."""
    artifact: UUID | None = None
    with _best_effort("progress is not shown in Prefect"):
        artifact = cast(
            UUID,
            create_progress_artifact(
                0.0, key="training-progress", description="Epochs trained, in percent"
            ),
        )

    def show(percent: float) -> None:
        if artifact:
            with _best_effort("progress was not updated"):
                update_progress_artifact(artifact, percent)

    with track("training", epochs) as advance:
        shown_at = time.monotonic()

        def report(epoch: Epoch) -> None:
            nonlocal shown_at
            advance(
                epoch.number,
                f"epoch {epoch.number}/{epoch.of}, loss {epoch.loss:.4f}, accuracy "
                f"{epoch.accuracy:.4f}, validation {epoch.val_loss:.4f}, {epoch.val_accuracy:.4f}",
            )
            now = time.monotonic()
            if epoch.number == epoch.of or now - shown_at >= _SECONDS_BETWEEN_UPDATES:
                shown_at = now
                show(100 * epoch.number / epoch.of)

        yield report
    show(100.0)


def _show(run: Run, folder: Path) -> None:
    """Put the report, with its figures inside, and the classification table on the run's page."""
    figures = {
        title: "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()
        for title, name in publication.FIGURES.items()
        if (folder / name).exists()
    }
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    create_markdown_artifact(
        markdown(run, figures, files), key="report", description=f"Report of {run.run_id}"
    )
    header, rows = classification_table(run.evaluation)
    create_table_artifact(
        [dict(zip(header, row, strict=True)) for row in rows],
        key="classification-report",
        description=f"Scores on {run.evaluation.images:,} test images",
    )


class _ForeseenErrors(logging.Filter):
    """Drops Prefect's tracebacks of foreseeable errors: the flow has said in a line what it was."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], JobError))


_foreseen_errors = _ForeseenErrors()


def _prepare_process() -> None:
    """Set up what this process needs to run the flow, wherever it was started; may be repeated."""
    # TensorFlow and Keras read these as they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_foreseen_errors)
    library = logging.getLogger("fmnist")
    library.setLevel(logging.INFO)
    for name in ("prefect", "prefect.flow_runs"):
        for handler in logging.getLogger(name).handlers:
            library.addHandler(handler)


# ---- the command line ---------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the job once as the command line says; the last line on standard output sums it up."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        request = cli.parse(sys.argv[1:] if arguments is None else arguments, _PROGRAM)
        if request.show_settings:
            cli.print_settings(request)
            return ExitCode.PROMOTED
        run = _run(request.settings)
    except JobError as error:
        if "\n" in str(error) and not error.run_id:  # Else the flow has logged it.
            print(error, file=sys.stderr)
        return _end(error.exit_code, cli.failed(error))
    except (KeyboardInterrupt, TerminationSignal, Abort):
        seconds = time.monotonic() - start
        return _end(ExitCode.INTERRUPTED, f"interrupted  after {seconds:.0f} s")
    except Exception as error:
        traceback.print_exc()
        return _end(ExitCode.DEFECT, f"defect  {type(error).__name__}: {error}".splitlines()[0])
    code = ExitCode.PROMOTED if run.verdict.promoted else ExitCode.REJECTED
    return _end(code, summary(run, time.monotonic() - start))


def _run(settings: Settings) -> Run:
    """Run the flow in this process, on the configured Prefect server or a temporary one.

    Raises:
        JobError: a foreseeable failure.
        KeyboardInterrupt: the run was interrupted.
    """
    with temporary_settings(_prefect_settings()):
        _check_prefect()
        try:
            state = training_job(settings, return_state=True)
            if state.is_cancelled():
                raise KeyboardInterrupt
            return cast(Run, state.result())
        except (httpx.HTTPError, PrefectException) as error:
            raise PrefectError(
                f"lost the Prefect server at {_server()} ({error}); look at its log, then run again"
            ) from error


def _prefect_settings() -> dict[Any, Any]:
    # Else a server that misses the heartbeat of a deployment's runs would miss this run's too.
    settings: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: _SECONDS_BETWEEN_HEARTBEATS}
    if not PREFECT_API_URL.value():
        settings |= {
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: _LONGEST_SERVER_START,
            # Its telemetry prints a traceback when it meets a locked database at the start.
            PREFECT_SERVER_ANALYTICS_ENABLED: False,
        }
    return settings


def _check_prefect() -> None:
    """Ask the configured Prefect server something, or start the temporary one.

    Raises:
        PrefectError: no server answers as it should.
    """
    patience = {
        PREFECT_API_REQUEST_TIMEOUT: _LONGEST_FIRST_ANSWER,
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    try:
        with (
            temporary_settings(patience if PREFECT_API_URL.value() else {}),
            _interrupts_held_back(),
            get_client(sync_client=True) as client,
        ):
            client.read_flows(limit=1)
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrefectError(
            f"no Prefect server answers at {_server()} ({reason}); start it or correct "
            "PREFECT_API_URL, or unset that to use a temporary server"
        ) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start no process that a terminal's Ctrl-C reaches.

    It goes to every process of the command. The temporary server, started in here, inherits the
    block and stays to record that the run was cancelled; its parent ends it after that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def _server() -> str:
    return without_credentials(PREFECT_API_URL.value() or "a temporary address")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(code: ExitCode, line: str) -> ExitCode:
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
