"""Find what belongs to no complete run: leftovers of interrupted writes, removals and uploads."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fmnist.registry import keys
from fmnist.registry.records import StoredRun, is_run_id
from fmnist.registry.runs import readable_run
from fmnist.store.base import Entry, Store
from fmnist.store.folder import FolderStore

GRACE = timedelta(hours=24)
Listing = Mapping[str, Mapping[str, Entry]]


@dataclass(frozen=True)
class Leftover:
    """Something that belongs to no complete run.

    Attributes:
        key: of the object, or ending with `/`, of everything below it.
        size: in bytes.
        modified: when its newest object was written.
        why: what it is, to follow its key in a sentence.
        safe: whether it may be deleted, because nobody can still be writing it.
        run_id: the run it would be, if it is all that exists of one.
    """

    key: str
    size: int
    modified: datetime
    why: str
    safe: bool
    run_id: str | None = None


def by_run(entries: Mapping[str, Entry]) -> Listing:
    """A listing of `runs/` or `verdicts/` by run id, then by the files' names below it."""
    found: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        run_id, _, name = key.partition("/")[2].partition("/")
        if name:
            found.setdefault(run_id, {})[name] = entry
    return found


def find_leftovers(
    store: Store,
    listing: Listing,
    retired: tuple[str, ...],
    inspected: Collection[str],
    now: datetime,
) -> Iterator[Leftover]:
    """Everything that belongs to no complete run.

    `listing` is all of `runs/`, `retired` the runs being removed. Stray files are looked for in the
    `inspected` runs only, since each of them costs a read.
    """
    for run_id, files in sorted(listing.items()):
        key = f"{keys.of_run(run_id)}/"
        if run_id in retired:
            yield _leftover(key, files, "is being removed", safe=True, run_id=run_id)
        elif not is_run_id(run_id):
            yield _leftover(key, files, "is not named as a run is", safe=False)
        elif keys.MANIFEST not in files:
            why = f"has no {keys.MANIFEST}, so it is not a run"
            yield _leftover(key, files, why, safe=is_old(files, now), run_id=run_id)
        elif run_id in inspected and (run := readable_run(store, run_id)):
            yield from find_strays(run, files, now)
    for run_id, files in sorted(by_run(store.list_entries(keys.VERDICTS)).items()):
        if run_id not in listing:
            why = "is about a run that does not exist"
            safe = run_id in retired or is_old(files, now)
            yield _leftover(f"{keys.VERDICTS}{run_id}/", files, why, safe=safe)
    if isinstance(store, FolderStore):
        yield from _interrupted_writes(store, now)


def find_strays(run: StoredRun, files: Mapping[str, Entry], now: datetime) -> Iterator[Leftover]:
    """Files beside a run's own that its manifest does not list."""
    for name in sorted(files.keys() - run.manifest.files.keys() - {keys.MANIFEST}):
        stray = {name: files[name]}
        why = f"is not listed in the run's {keys.MANIFEST}"
        yield _leftover(keys.of_run(run.run_id, name), stray, why, safe=is_old(stray, now))


def _interrupted_writes(store: FolderStore, now: datetime) -> Iterator[Leftover]:
    """Temporary files of killed processes, which no listing of the store shows."""
    root = Path(store.location(""))
    places = [root.glob(".*.part"), root.glob(".probe-*")]
    for folder in (keys.RUNS, keys.HISTORY, keys.VERDICTS, keys.TEST_SETS, keys.FINGERPRINTS):
        places.append((root / folder).rglob(".*.part"))
    for path in sorted(path for place in places for path in place):
        try:
            status = path.lstat()
        except FileNotFoundError:  # The write has finished since.
            continue
        key = path.relative_to(root).as_posix()
        file = {key: Entry(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))}
        yield _leftover(key, file, "is left of an interrupted write", safe=is_old(file, now))


def _leftover(
    key: str, files: Mapping[str, Entry], why: str, *, safe: bool, run_id: str | None = None
) -> Leftover:
    return Leftover(key, size_of(files), _newest(files), why, safe, run_id)


def size_of(files: Mapping[str, Entry]) -> int:
    """How many bytes these files have together."""
    return sum(entry.size for entry in files.values())


def is_old(files: Mapping[str, Entry], now: datetime) -> bool:
    """Whether all of these files were written so long ago that nobody can still be writing."""
    return _newest(files) < now - GRACE


def _newest(files: Mapping[str, Entry]) -> datetime:
    return max(entry.modified for entry in files.values())
