"""Read everything in a store, and report what is wrong with it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from fmnist.errors import DamagedError, StoreError
from fmnist.progress import track
from fmnist.registry import keys
from fmnist.registry.champion import champion_history, generation_of
from fmnist.registry.leftovers import Leftover, by_run, find_leftovers, find_strays
from fmnist.registry.records import (
    LARGEST_RECORD,
    ChampionRecord,
    FingerprintedRun,
    TestSetUsage,
    digest_of,
    from_json,
)
from fmnist.registry.runs import later_verdicts, read_file, read_run, readable_run, run_exists
from fmnist.store.base import Store

_READERS = 8


@dataclass(frozen=True)
class CheckedRun:
    """A run of which every file was read.

    Attributes:
        run_id: the run.
        files: how many files it has.
        size: all of them in bytes.
        problems: one line for each thing that is wrong.
    """

    run_id: str
    files: int
    size: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_store` found.

    Attributes:
        runs: the runs that were read.
        problems: one line for each thing that is wrong outside the runs.
        leftovers: what belongs to no complete run.
    """

    runs: tuple[CheckedRun, ...]
    problems: tuple[str, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def damage(self) -> list[str]:
        """Everything that is wrong, inside the runs and outside; leftovers do not count."""
        return [*self.problems, *(problem for run in self.runs for problem in run.problems)]


def verify_store(
    store: Store, load: Callable[[bytes], object], now: datetime, run_id: str | None = None
) -> VerifyReport:
    """Read every file of one run, or everything in the store.

    `load` gets the bytes of each different model, one at a time, and raises `DamagedError` if they
    hold no network. A store that cannot be read, or has no such run, is a `StoreError`.
    """
    load = _once_for_each(load)
    if run_id is not None:
        return _verify_one(store, load, now, run_id)
    records, problems = _check_history(store)
    for folder, kind in ((keys.TEST_SETS, TestSetUsage), (keys.FINGERPRINTS, FingerprintedRun)):
        for key in store.list_entries(folder):
            with _noted(store, problems):
                if (content := store.read(key, LARGEST_RECORD)) is not None:
                    from_json(kind, content, store.location(key))
    promoted = {record.run_id: record.manifest_sha256 for record in records}
    listing = by_run(store.list_entries(keys.RUNS))
    sealed = sorted(run for run, files in listing.items() if keys.MANIFEST in files)
    if records and records[0].run_id not in sealed:
        where = store.location(keys.of_run(records[0].run_id, keys.MANIFEST))
        problems.append(f"{where} is missing, although the run is the champion")
    checked = []
    with track("verifying", len(sealed)) as advance, ThreadPoolExecutor(_READERS) as readers:
        each = readers.map(lambda run: _check(store, run, load, promoted.get(run)), sealed)
        for number, (run, found) in enumerate(zip(sealed, each, strict=True), 1):
            # A run that a prune has removed in the meantime is not damage.
            if not found.problems or run_exists(store, run):
                checked.append(found)
            advance(number, f"{number:,} of {len(sealed):,} runs")
    retired = records[0].retired if records else ()
    leftovers = find_leftovers(store, listing, retired, sealed, now)
    return VerifyReport(tuple(checked), tuple(problems), tuple(leftovers))


def _once_for_each(load: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Load each different model once: what is wrong with it holds for every run that has it."""
    lock = threading.Lock()
    faults: dict[str, str] = {}

    def load_once(content: bytes) -> None:
        digest = digest_of(content)
        with lock:
            if digest not in faults:
                try:
                    load(content)
                    faults[digest] = ""
                except DamagedError as error:
                    faults[digest] = str(error)
        if fault := faults[digest]:
            raise DamagedError(fault)

    return load_once


def _verify_one(
    store: Store, load: Callable[[bytes], object], now: datetime, run_id: str
) -> VerifyReport:
    listing = by_run(store.list_entries(f"{keys.of_run(run_id)}/"))
    if keys.MANIFEST not in listing.get(run_id, {}):
        read_run(store, run_id)
    records, _ = _check_history(store)
    promoted = {record.run_id: record.manifest_sha256 for record in records}
    checked = _check(store, run_id, load, promoted.get(run_id))
    run = readable_run(store, run_id)
    strays = find_strays(run, listing[run_id], now) if run else ()
    return VerifyReport((checked,), (), tuple(strays))


def _check(
    store: Store, run_id: str, load: Callable[[bytes], object], promoted: str | None
) -> CheckedRun:
    """Read a run; `promoted` is its manifest's digest if it ever was the champion."""
    problems: list[str] = []
    files, size = 0, 0
    with _noted(store, problems):
        run = read_run(store, run_id, promoted)
        files = len(run.manifest.files)
        for name, entry in run.manifest.files.items():
            size += entry.size
            with _noted(store, problems):
                content = read_file(store, run, name)
                if name == keys.MODEL:
                    with _noted(store, problems, f"{store.location(keys.of_run(run_id, name))}: "):
                        load(content)
        if keys.MODEL not in run.manifest.files:
            problems.append(f"{store.location(keys.of_run(run_id))} lists no {keys.MODEL}")
        with _noted(store, problems):
            later_verdicts(store, run_id)
    return CheckedRun(run_id, files, size, tuple(problems))


@contextmanager
def _noted(store: Store, problems: list[str], where: str = "") -> Iterator[None]:
    """Note what is wrong with one object, and continue unless the whole store cannot be read."""
    try:
        yield
    except StoreError as error:
        if not isinstance(error, DamagedError):
            if error.retryable:
                raise
            store.read(keys.CHAMPION, LARGEST_RECORD)
        problems.append(f"{where}{error}")


def _check_history(store: Store) -> tuple[list[ChampionRecord], list[str]]:
    """Every champion record that can be read, latest first, and what is wrong with them."""
    # Listed before the records are read, so that a move in between adds only known ones.
    archived = store.list_entries(keys.HISTORY).keys()
    current = None
    records: list[ChampionRecord] = []
    problems: list[str] = []
    with _noted(store, problems):
        current = store.read(keys.CHAMPION, LARGEST_RECORD)
        records.extend(champion_history(store))
    if problems:
        return records, problems
    generation = generation_of(records[0] if records else None)
    known = {keys.of_generation(number) for number in range(1, generation)}
    for key in sorted(archived - known):
        with _noted(store, problems):
            # An interrupted move leaves a copy of the current record.
            copy = (
                store.read(key, LARGEST_RECORD) if key == keys.of_generation(generation) else None
            )
            if copy is None or copy != current:
                fault = f"is not an earlier version of {keys.CHAMPION}"
                problems.append(f"{store.location(key)} {fault}")
    return records, problems
