"""The flow run around the stages: its name, settings, retries, events, tags and final state."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import coolname.data
import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed
from prefect.utilities.collections import deep_merge

from fmnist import process
from fmnist.configure import load_settings
from fmnist.data.records import DataOrigin, PreparedData
from fmnist.environment import Environment, describe_environment, precision_here
from fmnist.errors import JobError
from fmnist.orchestration.link import bound_waits, end_if_lost, settle
from fmnist.promotion.judge import Decision
from fmnist.promotion.unchanged import Unchanged, fingerprint_of
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, generation_of
from fmnist.registry.records import new_run_id
from fmnist.report.run import Run
from fmnist.settings import Settings
from fmnist.store.base import open_store
from fmnist.training.records import TrainingResult

logger = logging.getLogger("fmnist.flow")


@dataclass(frozen=True)
class Job:
    """What is known about a run before it trains.

    Attributes:
        run_id: the run's id.
        named: whether a person has named the flow run; otherwise its name begins with the run id.
        started_at: when the flow started, in UTC.
        settings: the run's complete settings.
        conditional_writes: whether the store honours conditional writes; `check_store` finds out.
        seen_generation: the champion's generation before training; 0 if there was no champion.
        environment: code, machine and versions.
        location: where the run's files will be in the store.
    """

    run_id: str
    named: bool
    started_at: datetime
    settings: Settings
    seen_generation: int
    environment: Environment
    location: str
    conditional_writes: bool = False


@contextmanager
def started_job(parameters: Settings | Mapping[str, Any]) -> Iterator[Job]:
    """Name this flow run, complete its settings and read its store; announce a failure.

    Ctrl-C or SIGTERM raises `KeyboardInterrupt`, also while the block is entered.
    """
    _set_up_logging()
    bound_waits()
    started_at = datetime.now(UTC)
    run_id = new_run_id(started_at)
    named = not _is_generated(runtime.flow_run.name)
    with get_client(sync_client=True) as client:
        if named:
            client.update_flow_run(runtime.flow_run.id, tags={*runtime.flow_run.tags, run_id})
        else:
            client.update_flow_run(runtime.flow_run.id, name=run_id)
    try:
        with process.interruptible():
            settings = for_this_machine(complete_settings(parameters))
            store = open_store(settings.store.url, single_publisher=settings.store.single_publisher)
            # Read now, to notice a damaged champion before training.
            seen_generation = generation_of(current_champion(store))
            yield Job(
                run_id,
                named,
                started_at,
                settings,
                seen_generation,
                describe_environment(),
                store.location(keys.of_run(run_id)),
            )
    except JobError as error:
        error.run_id = run_id
        logger.error("%s", error)
        settle(error)
        end_if_lost()
        _announce("failed", run_id, str(error))
        raise
    except KeyboardInterrupt:
        logger.warning("interrupted")
        raise
    except Exception as error:
        _announce("failed", run_id, f"{type(error).__name__}: {error}")
        raise


def check_store(job: Job) -> Job:
    """Check that the store can be written, before time is spent on training."""
    settings = job.settings.store
    store = open_store(settings.url, single_publisher=settings.single_publisher)
    return replace(job, conditional_writes=store.check())


def describe_run(
    job: Job, data: DataOrigin, prepared: PreparedData, trained: TrainingResult, decision: Decision
) -> Run:
    """Combine the results of the stages into the record that reports are made from."""
    return Run(
        run_id=job.run_id,
        started_at=job.started_at,
        location=job.location,
        settings=job.settings,
        fingerprint=fingerprint_of(job.settings, data, job.environment),
        data=data,
        prepared=prepared,
        training=trained,
        environment=job.environment,
        evaluation=decision.evaluation,
        verdict=decision.verdict,
        champion_before=decision.champion_before,
        against=decision.against,
        data_change=decision.data_change,
    )


def final_state(job: Job, run: Run) -> State[Any]:
    """Announce a judged run, and write its verdict into its name, tags and final message.

    Prefect's lists, filters and automations pass over states with names of their own.
    """
    end_if_lost()
    verdict = run.verdict
    _announce(verdict.word, run.run_id, verdict.reason, run)
    data = "official-data" if run.data.official else "own-data"
    _label(job, f"{verdict.word} {run.evaluation.accuracy:.4f}", verdict.word, data)
    return Completed(message=f"{verdict.word}: {verdict.reason}", data=run)


def unchanged_state(job: Job, found: Unchanged) -> State[Any]:
    """Announce a run that had nothing to train, and label it like a judged one."""
    end_if_lost()
    logger.info("%s", found.reason)
    word = found.verdict.word if found.judged_again else "unchanged"
    _announce(word, found.run_id, found.reason)
    _label(job, "unchanged", "unchanged", *([found.verdict.word] if found.judged_again else []))
    return Completed(message=found.reason, data=found)


def _label(job: Job, words: str, *tags: str) -> None:
    """Add to the flow run's tags and, unless a person has named it, to its name."""
    with best_effort("the run was not tagged"), get_client(sync_client=True) as client:
        everything = {*client.read_flow_run(UUID(runtime.flow_run.id)).tags, *tags}
        if job.named:
            client.update_flow_run(runtime.flow_run.id, tags=everything)
        else:
            name = f"{job.run_id} {words}"
            client.update_flow_run(runtime.flow_run.id, name=name, tags=everything)


def _is_generated(name: str) -> bool:
    """Whether Prefect made up this name of a flow run: two words of the package coolname."""
    lists: Any = coolname.data.config.values()
    known = {word for found in lists if found["type"] == "words" for word in found["words"]}
    return {*name.split("-")} <= known


def is_retryable(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: only after a failure that may pass by itself."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, JobError) and error.retryable


def retrying(stage: Any, delays: Sequence[float]) -> Any:
    """The task with one retry for each of these delays, in seconds."""
    return stage.with_options(retries=len(delays), retry_delay_seconds=list(delays) or None)


@contextmanager
def best_effort(warning: str) -> Iterator[None]:
    """Make a call to Prefect that the run can do without; if it fails, log the warning."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("%s (%s)", warning, error)


def complete_settings(parameters: Settings | Mapping[str, Any]) -> Settings:
    """Fill in what the run's parameters leave out: deployment first, environment, then defaults.

    Prefect would let the run's parameters replace all of the deployment's: a run started by hand
    with one setting would silently lose the others, the gate among them.
    """
    if isinstance(parameters, Settings):
        return parameters
    deployed: dict[str, Any] = {}
    if runtime.deployment.id:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment(UUID(runtime.deployment.id))
        deployed = deployment.parameters.get("settings", {})
    merged: dict[str, Any] = deep_merge(deployed, dict(parameters))
    return load_settings(merged)


def for_this_machine(settings: Settings) -> Settings:
    """The settings as they are recorded: with the precision that this machine trains in."""
    precision = precision_here(settings.training.precision)
    training = settings.training.model_copy(update={"precision": precision})
    return settings.model_copy(update={"training": training})


def _announce(what: str, run_id: str, reason: str, run: Run | None = None) -> None:
    """Emit the event `fmnist.run.<what>`, for automations and anyone else who listens."""
    before = run.champion_before if run else None
    with best_effort("the event was not emitted"):
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


def _is_not_foreseen(record: logging.LogRecord) -> bool:
    """Drops what Prefect says of a foreseeable error or an interrupt: the flow logs one line."""
    if record.msg.startswith("Crash detected!"):
        return not isinstance(sys.exc_info()[1], KeyboardInterrupt)
    if not record.exc_info:
        return True
    foreseen = (JobError, httpx.HTTPError, PrefectException)
    return not (process.is_asked_to_end() or isinstance(record.exc_info[1], foreseen))


def _is_of_no_use(_record: logging.LogRecord) -> bool:
    """Drops what Prefect's background threads say, instead of which one line is logged."""
    return False


def _is_of_a_run(_record: logging.LogRecord) -> bool:
    """Drops what is logged outside a run, about which Prefect would complain, from what is sent."""
    return bool(FlowRunContext.get() or TaskRunContext.get())


def _set_up_logging() -> None:
    """Send the package's log lines where Prefect sends its own; safe to repeat."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_is_not_foreseen)
    # What runs in the background complains at length while the server is away.
    background = ("events.clients", "_internal.concurrency", "concurrency")
    for name in ("EventsWorker", *(f"prefect.{name}" for name in background)):
        logging.getLogger(name).addFilter(_is_of_no_use)
    # Then logs that cannot be sent are dropped without a word, as in any program at work.
    logging.raiseExceptions = False
    library = logging.getLogger("fmnist")
    library.setLevel(logging.INFO)
    for name in ("prefect", "prefect.flow_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, APILogHandler):
                handler.addFilter(_is_of_a_run)
            library.addHandler(handler)
