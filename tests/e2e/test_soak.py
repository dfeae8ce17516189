"""Scheduled runs in a row: `SOAK_RUNS=20 make e2e ARGS="-k soak"` for the long one."""

import itertools
import json
import os
import statistics
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun

from fmnist.registry import keys
from tests.e2e.conftest import PROMOTED, REJECTED, Operator, outcome_of, run_id_of

RUNS = int(os.environ.get("SOAK_RUNS", "3"))

pytestmark = pytest.mark.timeout(300 + 120 * RUNS)


@dataclass(frozen=True)
class Start:
    """How long a run took to its first epoch, in seconds, part by part."""

    process: float
    begun: float
    data: float
    epoch: float
    whole: float


HEADER = (
    "taken by the worker to flow begun: process and imports, from up to 10 s before it is due",
    "due to flow begun",
    "flow begun to data ready: checks of the store, fetch, split",
    "data ready to first epoch: TensorFlow, compilation, the epoch",
    "due to first epoch",
)


def start_of(operator: Operator, run_id: UUID, due: datetime) -> Start:
    """The parts of a run's start, from its states, tasks and log."""
    client = operator.client
    states = {state.name: state.timestamp for state in client.read_flow_run_states(run_id)}
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run_id]}))
    log = client.read_logs(LogFilter(flow_run_id={"any_": [run_id]}), limit=200)
    prepared = next(task.end_time for task in tasks if task.name.startswith("preprocess-"))
    epoch = min(line.timestamp for line in log if "training: epoch" in line.message)
    moments = [states["Pending"], states["Running"], prepared, epoch]
    process, data, first = (
        (later - sooner).total_seconds() for sooner, later in itertools.pairwise(moments)
    )
    begun = (states["Running"] - due).total_seconds()
    return Start(process, begun, data, first, (epoch - due).total_seconds())


def table(starts: list[Start]) -> str:
    """Minimum, median and maximum of each part."""
    columns = list(zip(*map(astuple, starts), strict=True))
    rows = [
        f"| {name} | {min(column):.1f} | {statistics.median(column):.1f} | {max(column):.1f} |"
        for name, column in zip(HEADER, columns, strict=True)
    ]
    head = f"| seconds, {len(starts)} scheduled runs | minimum | median | maximum |"
    return "\n".join([head, "| --- | ---: | ---: | ---: |", *rows]) + "\n"


def test_scheduled_runs_leave_nothing_behind(operator: Operator, promoted: FlowRun) -> None:
    """Each ends in its proper state; no process, temporary file or half a run is left by any."""

    def left() -> tuple[int, set[str]]:
        files = {str(path) for path in operator.work.iterdir()}
        files |= {path.name for path in operator.temporary.iterdir()}
        return len(operator.processes("worker")), files

    operator.wait_until_idle()
    before, champion, starts = left(), operator.champion().run_id, []
    for number in range(RUNS):
        settings = REJECTED if number % 4 == 3 else PROMOTED
        run_id, due = operator.schedule(settings)
        run = operator.wait(run_id)
        assert outcome_of(run) == ("rejected" if settings is REJECTED else "promoted")
        champion = champion if settings is REJECTED else run_id_of(run)
        assert operator.champion().run_id == champion
        starts.append(start_of(operator, run_id, due))
    operator.wait_until_idle()
    assert left() == before
    stored = operator.stored()
    runs = {key.split("/")[1] for key in stored if key.startswith("runs/")}
    for name in runs:
        key = f"runs/{name}/{keys.MANIFEST}"
        manifest = json.loads(operator.read_object(key))
        files = {f"runs/{name}/{file}" for file in manifest["files"]}
        assert files | {key} == {found for found in stored if found.startswith(f"runs/{name}/")}
    print(table(starts))  # noqa: T201 - the measurement
    if output := os.environ.get("SCREENSHOTS"):
        Path(output).mkdir(parents=True, exist_ok=True)
        (Path(output) / "schedule.md").write_text(table(starts))
