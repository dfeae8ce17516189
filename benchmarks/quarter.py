"""Ninety nights on the real stack, with what happens in a quarter: what each came to, what is left.

    PYTHONPATH=.:deployments python benchmarks/quarter.py > benchmarks/results/quarter.md

PostgreSQL, the Prefect server, MinIO and the worker are those of `deployments/stack.py`, in a
temporary folder. Each night is a scheduled run of the nightly deployment, due as soon as the one
before it has ended. The data are small, and come from a web server that can be made to wait. Ends
with exit code 1 if a run is not in the state that it should be in, if there were more trainings
than `MOST_TRAININGS`, or if anything is left that the tables do not explain. `--nights 20` plays a
short one.
"""

import argparse
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import conditions
import numpy as np
import psutil

from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from fmnist.registry import keys
from tests.e2e.conftest import Operator, listening_webhook, running_stack
from tests.support.mirrors import Contents, Mirror, Mirrors, Reply, honest, idx, with_sums
from tests.support.processes import kept_run

MOST_TRAININGS = 10
CLASSES = 10
SETTINGS = {"training": {"epochs": 20, "batch_size": 64}, "gate": {"min_accuracy": 0.8}}
# A job reads these; the first lets the worker ask for runs more often than every ten seconds, the
# last lets a run that fetches wait for as long as it takes to stop a server on a busy machine.
JOB = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "FMNIST_STORE__RETRY_PAUSES": "1,3",
    "FMNIST_DATA__TIMEOUT": "300",
}
OUTAGE = 20.0  # seconds
LONGEST_RUN = 900.0
# Nights in which something happens, and the pauses between these.
EVENTFUL, PAUSES = 13, 8
VERDICTS = {"promoted", "rejected", "unchanged"}


def patterns(version: int, *, senseless: bool = False) -> Contents:
    """600 training and 200 test images of ten patterns; other images for each version.

    The training labels mean nothing if they are `senseless`.
    """
    shapes = np.random.default_rng(0).integers(0, 200, (CLASSES, 28, 28))
    noise = np.random.default_rng(version + 1)

    def images(labels: Any) -> Any:
        return np.clip(shapes[labels] + noise.normal(0, 40, (len(labels), 28, 28)), 0, 255)

    train, test = (noise.permutation(np.arange(count) % CLASSES) for count in (600, 200))
    files = {TRAIN_IMAGES: idx(images(train)), TEST_IMAGES: idx(images(test))}
    labels = noise.permutation(train) if senseless else train
    return with_sums({**files, TRAIN_LABELS: idx(labels), TEST_LABELS: idx(test)})


@dataclass
class Source:
    """The web server with the data: which version it has, and whether it answers or waits."""

    url: str
    files: Contents
    open: threading.Event
    version: int = 0

    def change(self, *, senseless: bool = False) -> None:
        """From now on, have the next version of the data."""
        self.version += 1
        self.files.update(patterns(self.version, senseless=senseless))


@contextlib.contextmanager
def data_source() -> Iterator[Source]:
    """A web server with the first version of the data."""
    files, is_open = patterns(0), threading.Event()
    is_open.set()

    def answer(mirror: Mirror, reply: Reply) -> None:
        is_open.wait()
        honest(mirror, reply)

    with contextlib.ExitStack() as running:
        yield Source(Mirrors(running).start(answer, files).url, files, is_open)


@dataclass(frozen=True)
class Night:
    """One night's run.

    Attributes:
        number: counts from 1.
        event: what happened; empty if nothing did.
        expected: the outcome that it should have.
        name: the run's name, which begins with its id.
        outcome: the verdict of a completed run, else its state.
        message: what its state says.
        seconds: from the moment when it was due to its end.
        trained: whether it began to train.
    """

    number: int
    event: str
    expected: str
    name: str
    outcome: str
    message: str
    seconds: float
    trained: bool


@dataclass
class Quarter:
    """The nights so far, and what can happen in one.

    Attributes:
        operator: the stack.
        source: where the data come from.
        quiet: how many nights in which nothing happens follow each event.
        nights: those that have ended.
    """

    operator: Operator
    source: Source
    quiet: int
    nights: list[Night] = field(default_factory=list)

    def play(self, nights: int) -> None:
        """Play them all: those in which something happens, each followed by quiet ones."""
        self.night("the first data", "promoted")
        self.quiet_nights()
        self.source.change()
        self.night("new data; the server is lost while it trains", "promoted", self._lose_server)
        self.quiet_nights()
        self.night("killed while it fetches", "crashed", self._kill_fetching)
        self.quiet_nights()
        self.source.change()
        self.night("new data; killed while it trains", "crashed", self._kill_training)
        self.night("trains again", "promoted")
        self.quiet_nights()
        self._nights_without_server()
        self.quiet_nights()
        self.source.change(senseless=True)
        self.night("new data, whose labels mean nothing", "rejected")
        self.quiet_nights()
        self.source.change()
        self.night("new data; the store is lost while it trains", "failed", self._lose_store)
        self.operator.fmnist("publish", str(kept_run(self.nights[-1].message)))
        self.night("`fmnist publish` has published what was kept", "unchanged")
        self.quiet_nights()
        self.source.change()
        self.night("new data; killed while it publishes", "crashed", self._kill_publishing)
        self.night("trains again", "promoted")
        self.quiet_nights(nights - len(self.nights))

    def quiet_nights(self, count: int | None = None) -> None:
        """Nights in which nothing happens."""
        for _ in range(self.quiet if count is None else count):
            self.night("", "unchanged")

    def night(
        self, event: str, expected: str, meanwhile: Callable[[UUID], None] | None = None
    ) -> None:
        """One night, and what happens while its run is active."""
        run_id = self.operator.schedule_in(0, SETTINGS)
        if meanwhile:
            meanwhile(run_id)
        self._record(run_id, event, expected)

    def _record(self, run_id: UUID, event: str, expected: str) -> None:
        run = self.operator.wait(run_id, seconds=LONGEST_RUN)
        verdicts = VERDICTS.intersection(run.tags)
        completed = run.state_name == "Completed" and len(verdicts) == 1
        night = Night(
            number=len(self.nights) + 1,
            event=event,
            expected=expected,
            name=run.name,
            outcome=verdicts.pop() if completed else run.state_name.lower(),
            message=run.state.message or "",
            seconds=(run.end_time - run.expected_start_time).total_seconds(),
            trained="train" in self.operator.tasks(run_id),
        )
        self.nights.append(night)
        print(f"night {night.number}: {night.outcome}, {night.seconds:.0f} s", file=sys.stderr)

    def _job(self) -> psutil.Process:
        """The process of the active run."""
        (job,) = (p for p in self.operator.processes("worker") if "prefect.engine" in p.cmdline())
        return job

    def _kill_fetching(self, run_id: UUID) -> None:
        self.source.open.clear()
        self.operator.wait_for_task(run_id, "fetch", "Running", LONGEST_RUN)
        self._job().kill()
        self.source.open.set()

    def _kill_training(self, run_id: UUID) -> None:
        self.operator.wait_for_task(run_id, "train", "Running", LONGEST_RUN)
        self._job().kill()

    def _kill_publishing(self, run_id: UUID) -> None:
        """Kill the job when some of the run's files are in the store."""
        bucket, key = self.operator.s3(), f"fashion-mnist/{keys.RUNS}"

        def files() -> int:
            return int(bucket.list_objects_v2(Bucket="models", Prefix=key)["KeyCount"])

        def sealed() -> set[Path]:
            return set(self.operator.work.glob(f"*/run/{keys.MANIFEST}"))

        stored, kept = files(), sealed()
        self.operator.wait_for_task(run_id, "train", "Running", LONGEST_RUN)
        job = self._job()
        while sealed() == kept:
            time.sleep(0.005)
        job.suspend()
        while files() == stored:
            job.resume()
            time.sleep(0.01)
            job.suspend()
        job.kill()

    def _lose_server(self, run_id: UUID) -> None:
        self.operator.wait_for_task(run_id, "train", "Running", LONGEST_RUN)
        self.operator.stop("prefect")
        time.sleep(OUTAGE)
        self.operator.start("prefect")

    def _nights_without_server(self) -> None:
        """Lose the server while a run fetches; two more are due before it is back."""
        self.source.open.clear()
        late = [self.operator.schedule_in(seconds, SETTINGS) for seconds in (0, OUTAGE / 2, OUTAGE)]
        self.operator.wait_for_task(late[0], "fetch", "Running", LONGEST_RUN)
        self.operator.stop("prefect")
        self.source.open.set()
        time.sleep(OUTAGE)
        self.operator.start("prefect")
        self._record(late[0], "the server is lost while it fetches", "unchanged")
        for run_id in late[1:]:
            self._record(run_id, "due while the server was lost, so it runs late", "unchanged")

    def _lose_store(self, run_id: UUID) -> None:
        self.operator.wait_for_task(run_id, "train", "Running", LONGEST_RUN)
        self.operator.stop("minio")
        self.operator.wait(run_id, seconds=LONGEST_RUN)
        self.operator.start("minio")


@dataclass(frozen=True)
class Use:
    """One line of the table of what is left at the end.

    Attributes:
        where: the place.
        count: how many files, objects or rows.
        size: in bytes.
        why: why they are there, and what bounds them; empty if nothing explains them.
    """

    where: str
    count: int
    size: int
    why: str

    def row(self) -> str:
        """Its row of the table."""
        return f"| {self.where} | {self.count:,} | {self.size / 1e6:,.2f} | {self.why or '?'} |"


# What may be there and why, by how its path begins.
WORKER = {
    ".cache/fmnist/data/": "the data, verified: four files for each version; the user may delete it",
    ".cache/fmnist/work/": "the finished run of the night that was killed while it published: "
    "`fmnist doctor` names it, `fmnist publish` finishes it",
    ".cache/matplotlib/": "Matplotlib's list of fonts, written once",
    ".config/matplotlib": "Matplotlib's empty folder",
    ".prefect/storage/": "the error of each run that failed, as Prefect keeps it",
    ".keras/": "Keras's configuration, written once",
}
TEMPORARY = {"runner_storage/": "an empty folder of Prefect's worker, as long as it runs"}
STORE = {
    "runs/ (complete)": "every run that trained to its end; `fmnist prune` bounds them",
    "runs/ (without manifest)": "the night that was killed while it published: `fmnist prune` "
    "removes it after a day, `fmnist publish` completes it",
    "champion.json": "the current champion",
    keys.HISTORY: "every earlier champion",
    keys.FINGERPRINTS: "one for each combination of data, settings, code and versions",
    keys.TEST_SETS: "one for each test set: how many models it has judged",
    keys.VERDICTS: "one for each later decision about a stored run",
    ".probe": "of the check before each training",
}
DATABASE = {
    "flow_run": "runs with their states",
    "task_run": "tasks with their states",
    "artifact": "what the runs' pages show",
    "log": "the runs' logs",
    "event": "events: changes of state, heartbeats, verdicts",
}


def worker_uses(operator: Operator) -> Iterator[Use]:
    """The files of the worker and its jobs: in their home, and the temporary ones."""
    for name, folder, reasons in (
        ("worker's home", operator.work.parents[2], WORKER),
        ("worker's temporary files", _temporary_files(operator), TEMPORARY),
    ):
        entries = {
            path.relative_to(folder).as_posix(): path.stat().st_size if path.is_file() else 0
            for path in folder.rglob("*")
            if path.is_file() or not any(path.iterdir())
        }
        yield from _grouped(name, entries, reasons)


def _temporary_files(operator: Operator) -> Path:
    return Path(operator.processes("worker")[1].environ()["TMPDIR"])


def store_uses(operator: Operator) -> Iterator[Use]:
    """The objects of the store."""
    pages = operator.s3().get_paginator("list_objects_v2")
    sizes = {
        item["Key"].removeprefix("fashion-mnist/"): item["Size"]
        for page in pages.paginate(Bucket="models", Prefix="fashion-mnist/")
        for item in page["Contents"]
    }
    complete = {Path(key).parent.name for key in sizes if Path(key).name == keys.MANIFEST}
    named = {}
    for key, size in sizes.items():
        if key.startswith(keys.RUNS):
            state = "complete" if key.split("/")[1] in complete else "without manifest"
            key = f"runs/ ({state}) {key}"
        named[key] = size
    yield from _grouped("store", named, STORE)


def _grouped(where: str, sizes: Mapping[str, int], reasons: Mapping[str, str]) -> Iterator[Use]:
    """The entries together that begin alike, and each that has no reason by itself."""
    groups: dict[str, list[int]] = {}
    for name, size in sorted(sizes.items()):
        group = next((start for start in reasons if name.startswith(start)), name)
        groups.setdefault(group, []).append(size)
    for group, found in groups.items():
        yield Use(f"{where}: `{group}`", len(found), sum(found), reasons.get(group, ""))


def database_uses(operator: Operator, size_before: int) -> Iterator[Use]:
    """What the tables of Prefect's database take, their indexes included."""
    tables = query(
        operator,
        "SELECT relname, pg_total_relation_size(relid), (xpath('/row/c/text()', "
        "query_to_xml(format('SELECT count(*) AS c FROM %I', relname), false, true, '')))[1] "
        "FROM pg_stat_user_tables",
    )
    rest = database_size(operator)
    for start, why in DATABASE.items():
        of_kind = [table for table in tables if table[0].startswith(start)]
        size = sum(int(table[1]) for table in of_kind)
        rest -= size
        rows = sum(int(table[2]) for table in of_kind)
        yield Use(f"database: `{start}`", rows, size, f"{why}; deleted after 90 days")
    why = f"catalogue and other tables; the empty database has {size_before / 1e6:.2f} MB"
    yield Use("database: the rest", 0, rest, why)


def database_size(operator: Operator) -> int:
    """The size of Prefect's database in bytes."""
    return int(query(operator, "SELECT pg_database_size('prefect')")[0][0])


def query(operator: Operator, sql: str) -> list[list[str]]:
    """The rows that PostgreSQL answers with."""
    port, password = (operator.variables[f"POSTGRES_{name}"] for name in ("PORT", "PASSWORD"))
    address = f"postgresql://prefect:{password}@127.0.0.1:{port}/prefect"
    output = operator.succeed("psql", address, "--tuples-only", "--no-align", "--command", sql)
    return [line.split("|") for line in output.splitlines()]


def faults(operator: Operator, quarter: Quarter, uses: Iterable[Use]) -> Iterator[str]:
    """What is not as it should be."""
    for night in quarter.nights:
        if night.outcome != night.expected:
            wrong = f"night {night.number} is {night.outcome}, not {night.expected}"
            yield f"{wrong}: {night.message}"
    if (trainings := sum(night.trained for night in quarter.nights)) > MOST_TRAININGS:
        yield f"{trainings} trainings"
    yield from (f"{use.where} is not explained" for use in uses if not use.why)
    left = [folder.name for folder in operator.work.iterdir()]
    if len(left) > 1:
        yield f"the worker keeps {len(left)} work folders"
    if jobs := operator.processes("worker")[2:]:
        yield f"the worker still has {len(jobs)} processes"
    if len(operator.runs_by_hand()) != len(quarter.nights):
        yield "there are other runs than those of the nights"
    *_, last = (night for night in quarter.nights if night.outcome == "promoted")
    if not last.name.startswith(operator.champion().run_id):
        yield f"the champion is not the run of night {last.number}, the last to be promoted"
    operator.fmnist("verify")


def print_tables(quarter: Quarter, uses: Sequence[Use], minutes: float) -> None:
    """Print what happened, what it came to, and what is left."""
    nights = quarter.nights
    print(f"{len(nights)} nights in {minutes:.0f} minutes. {conditions.line()}.\n")
    print(
        "Every night is a scheduled run of the nightly deployment, with `training.when: changed`, on "
        "the stack of `deployments/stack.py`: PostgreSQL, Prefect server, MinIO, worker. Data: 600 "
        "training and 200 test images.\n"
    )
    print("| outcome | nights | of them trained | median s, due to end |\n|---|---:|---:|---:|")
    for outcome in sorted({night.outcome for night in nights}):
        of_kind = [night for night in nights if night.outcome == outcome]
        trained = sum(night.trained for night in of_kind)
        median = statistics.median(night.seconds for night in of_kind)
        print(f"| {outcome} | {len(of_kind)} | {trained} | {median:.0f} |")
    print(f"| all | {len(nights)} | {sum(night.trained for night in nights)} | |\n")
    print("The nights in which something happened; the others ended unchanged.\n")
    print("| night | what happened | outcome |\n|---:|---|---|")
    for night in nights:
        if night.event:
            print(f"| {night.number} | {night.event} | {night.outcome} |")
    print("\nWhat is there at the end.\n")
    print("| where | files, objects or rows | MB | why |\n|---|---:|---:|---|")
    for use in uses:
        print(use.row())


def main() -> int:
    """Play the quarter and print its tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=90)
    nights = parser.parse_args().nights
    started = time.monotonic()
    with (
        contextlib.redirect_stdout(sys.stderr),
        listening_webhook() as webhook,
        data_source() as source,
        running_stack({**JOB, "FMNIST_DATA__SOURCE": source.url}, webhook) as operator,
    ):
        size_before = database_size(operator)
        quarter = Quarter(operator, source, quiet=(nights - EVENTFUL) // PAUSES)
        quarter.play(nights)
        minutes = (time.monotonic() - started) / 60
        operator.wait_until_idle()
        uses = [
            *worker_uses(operator),
            *store_uses(operator),
            *database_uses(operator, size_before),
        ]
        found = list(faults(operator, quarter, uses))
    print_tables(quarter, uses, minutes)
    for fault in found:
        print(f"\nWRONG: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
