"""Look after a store: verify what is in it, remove what is old, bring the champion out of it."""

import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from fmnist import registry
from fmnist.errors import DamagedError, SettingsError, StoreError
from fmnist.gate import Verdict
from fmnist.progress import track
from fmnist.registry import CHAMPION, HISTORY, MANIFEST, RUNS, VERDICTS, Champion, StoredRun, Uses
from fmnist.store import Entry, FolderStore, Store, flush_folder, write_flushed

GRACE = timedelta(hours=24)

_TEST_SETS = "test-sets/"
_RETIRED_AT_ONCE = 100

Listing = Mapping[str, Mapping[str, Entry]]


@dataclass(frozen=True)
class CheckedRun:
    """A run whose every file was read: how many, their bytes, and a line for each thing wrong."""

    run_id: str
    files: int
    size: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Leftover:
    """Something that belongs to no whole run: an object, or with `/` at its end all below a key.

    `why` says what it is; `safe` whether it may be deleted, because nobody can be writing it;
    `run_id` which run it would be, if it is all that there is of one.
    """

    key: str
    size: int
    modified: datetime
    why: str
    safe: bool
    run_id: str | None = None


@dataclass(frozen=True)
class Report:
    """What `verify` found: the runs, a line for each other thing that is wrong, and leftovers."""

    runs: tuple[CheckedRun, ...]
    problems: tuple[str, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def damage(self) -> list[str]:
        """Everything that is wrong; leftovers are not."""
        return [*self.problems, *(problem for run in self.runs for problem in run.problems)]


@dataclass(frozen=True)
class Removal:
    """What a prune would remove or has removed: runs, the oldest first, leftovers, all bytes."""

    runs: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    size: int


@dataclass(frozen=True)
class Pulled:
    """A champion in a folder of this machine; `new` unless it was there already."""

    champion: Champion
    folder: Path
    files: tuple[str, ...]
    new: bool


# ---- verify -------------------------------------------------------------------------------------


def verify(
    store: Store, load: Callable[[bytes], object], now: datetime, run_id: str | None = None
) -> Report:
    """Read every file of one run, or everything that the store holds.

    `load` is given the bytes of each model, and raises `DamagedError` if they hold no network.

    Raises:
        StoreError: the store cannot be read, or holds no such run.
    """
    if run_id is not None:
        return _verify_one(store, load, now, run_id)
    heads, problems = _check_heads(store)
    problems += _check_counts(store)
    promoted = {head.run_id: head.manifest_sha256 for head in heads}
    listing = _by_run(store.entries(RUNS))
    sealed = sorted(run for run, files in listing.items() if MANIFEST in files)
    if heads and heads[0].run_id not in sealed:
        where = store.location(f"{registry.run_key(heads[0].run_id)}/{MANIFEST}")
        problems.append(f"{where} is not there, although the run is the champion")
    checked = []
    with track("verifying", len(sealed)) as advance:
        for number, run in enumerate(sealed, 1):
            found = _check(store, run, load, promoted.get(run))
            # One that a prune removed meanwhile is no damage.
            if not found.problems or registry.is_there(store, run):
                checked.append(found)
            advance(number, f"{number:,} of {len(sealed):,} runs")
    retired = heads[0].retired if heads else ()
    leftovers = _leftovers(store, listing, retired, sealed, now)
    return Report(tuple(checked), tuple(problems), tuple(leftovers))


def _verify_one(
    store: Store, load: Callable[[bytes], object], now: datetime, run_id: str
) -> Report:
    listing = _by_run(store.entries(f"{registry.run_key(run_id)}/"))
    if MANIFEST not in listing.get(run_id, {}):
        registry.read_run(store, run_id)
    heads, _ = _check_heads(store)
    promoted = {head.run_id: head.manifest_sha256 for head in heads}
    checked = _check(store, run_id, load, promoted.get(run_id))
    run = _readable(store, run_id)
    strays = _strays(run, listing[run_id], now) if run else ()
    return Report((checked,), (), tuple(strays))


def _check(
    store: Store, run_id: str, load: Callable[[bytes], object], promoted: str | None
) -> CheckedRun:
    """Read a run; `promoted` is the digest by which a head names its manifest, if one does."""
    problems: list[str] = []
    files, size = 0, 0
    with _noted(store, problems):
        run = registry.read_run(store, run_id, promoted)
        files = len(run.manifest.files)
        for name, entry in run.manifest.files.items():
            size += entry.size
            with _noted(store, problems):
                content = registry.read_file(store, run, name)
                if name == registry.MODEL:
                    _load(load, content, store.location(f"{registry.run_key(run_id)}/{name}"))
        if registry.MODEL not in run.manifest.files:
            problems.append(f"{store.location(registry.run_key(run_id))} lists no {registry.MODEL}")
        with _noted(store, problems):
            registry.later_verdicts(store, run_id)
    return CheckedRun(run_id, files, size, tuple(problems))


def _load(load: Callable[[bytes], object], content: bytes, where: str) -> None:
    try:
        load(content)
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}") from error


@contextmanager
def _noted(store: Store, problems: list[str]) -> Iterator[None]:
    """Note what is wrong with one thing, and go on to the next.

    Raises:
        StoreError: it is the whole store that cannot be read.
    """
    try:
        yield
    except DamagedError as error:
        problems.append(str(error))
    except StoreError as error:
        if error.temporary:
            raise
        store.read(CHAMPION)
        problems.append(str(error))


def _check_heads(store: Store) -> tuple[list[Champion], list[str]]:
    """Every head that can be read, the one in force first, and what is wrong with them."""
    # In this order, whatever moves meanwhile makes only heads that are known in the end.
    archived = store.entries(HISTORY).keys()
    current = store.read(CHAMPION)
    heads: list[Champion] = []
    problems: list[str] = []
    with _noted(store, problems):
        heads.extend(registry.history(store))
    if problems:
        return heads, problems
    generation = registry.generation_of(heads[0] if heads else None)
    known = {registry.history_key(number) for number in range(1, generation)}
    for key in sorted(archived - known):
        # The copy of the head in force is what a move leaves that was cut short.
        if key != registry.history_key(generation) or store.read(key) != current:
            problems.append(f"{store.location(key)} is no earlier head of {CHAMPION}")
    return heads, problems


def _check_counts(store: Store) -> list[str]:
    problems: list[str] = []
    for key in store.entries(_TEST_SETS):
        with _noted(store, problems):
            registry.from_json(Uses, store.read(key) or b"", store.location(key))
    return problems


# ---- leftovers ----------------------------------------------------------------------------------


def _by_run(entries: Mapping[str, Entry]) -> Listing:
    """A listing of `runs/` or `verdicts/` by run: each one's files by their names in it."""
    found: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        run_id, _, name = key.partition("/")[2].partition("/")
        if name:
            found.setdefault(run_id, {})[name] = entry
    return found


def _leftovers(
    store: Store,
    listing: Listing,
    retired: tuple[str, ...],
    looked_into: Collection[str],
    now: datetime,
) -> Iterator[Leftover]:
    """What belongs to no whole run; strays only in those `looked_into`, each of which is a read."""
    for run_id, files in sorted(listing.items()):
        key = f"{registry.run_key(run_id)}/"
        old = _newest(files) < now - GRACE
        if run_id in retired:
            yield _all_of(key, files, "is being removed", safe=True, run_id=run_id)
        elif not _is_run_id(run_id):
            yield _all_of(key, files, "has a name that no run has", safe=False)
        elif MANIFEST not in files:
            why = f"has no {MANIFEST}, so it is no run"
            yield _all_of(key, files, why, safe=old, run_id=run_id)
        elif run_id in looked_into and (run := _readable(store, run_id)):
            yield from _strays(run, files, now)
    for run_id, files in sorted(_by_run(store.entries(VERDICTS)).items()):
        if run_id not in listing:
            old = run_id in retired or _newest(files) < now - GRACE
            why = "is about a run that is not there"
            yield _all_of(f"{VERDICTS}{run_id}/", files, why, safe=old)
    if isinstance(store, FolderStore):
        yield from _cut_off_writes(store, now)


def _strays(run: StoredRun, files: Mapping[str, Entry], now: datetime) -> Iterator[Leftover]:
    for name, entry in sorted(files.items()):
        if name != MANIFEST and name not in run.manifest.files:
            why = f"is not listed in the run's {MANIFEST}"
            safe = entry.modified < now - GRACE
            yield Leftover(
                f"{registry.run_key(run.run_id)}/{name}", entry.size, entry.modified, why, safe
            )


def _cut_off_writes(store: FolderStore, now: datetime) -> Iterator[Leftover]:
    """Files that a killed process left beside what it was writing; they are no objects."""
    root = Path(store.location(""))
    places = [root.glob(".*.part"), root.glob(".probe-*")]
    places += [(root / below).rglob(".*.part") for below in (RUNS, HISTORY, VERDICTS, _TEST_SETS)]
    for path in sorted(path for place in places for path in place):
        try:
            status = path.lstat()
        except FileNotFoundError:  # It was written to its end meanwhile.
            continue
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        key = path.relative_to(root).as_posix()
        why = "is a write that was cut off"
        yield Leftover(key, status.st_size, modified, why, modified < now - GRACE)


def _all_of(
    key: str, files: Mapping[str, Entry], why: str, *, safe: bool, run_id: str | None = None
) -> Leftover:
    return Leftover(key, _size(files), _newest(files), why, safe, run_id)


def _size(files: Mapping[str, Entry]) -> int:
    return sum(entry.size for entry in files.values())


def _newest(files: Mapping[str, Entry]) -> datetime:
    return max(entry.modified for entry in files.values())


def _is_run_id(name: str) -> bool:
    try:
        registry.checked_run_id(name)
    except SettingsError:
        return False
    return True


def _readable(store: Store, run_id: str) -> StoredRun | None:
    """A run whose manifest can be read."""
    try:
        return registry.find_run(store, run_id)
    except DamagedError:
        return None


# ---- prune --------------------------------------------------------------------------------------


def plan(store: Store, keep: int, now: datetime) -> Removal:
    """What `prune` would remove. Before the first promotion that is nothing.

    Kept are the newest `keep` whole runs and whatever is as new as they are; the champion, the last
    `keep` champions before it, and the `keep` that rollbacks one after the other lead to; and what
    may be a run that is being published: stored in the last 24 hours, and either without a manifest
    yet or not rejected.

    Raises:
        DamagedError: the head or its history is damaged, so that nobody knows what must be kept.
        StoreError: the store cannot be read.
    """
    head = registry.champion(store)
    if head is None:
        return Removal((), (), 0)
    listing = _by_run(store.entries(RUNS))
    whole = sorted(
        run_id
        for run_id, files in listing.items()
        if MANIFEST in files and run_id not in head.retired and _is_run_id(run_id)
    )
    newest = list(islice((run for run in reversed(whole) if _readable(store, run)), keep))
    bound = newest[-1] if len(newest) == keep else ""
    protected = _champions_to_keep(store, keep)
    runs = tuple(
        run
        for run in whole
        if run < bound
        and run not in protected
        and not _may_be_promoted_yet(store, run, listing[run], now)
    )
    staying = set(whole).difference(runs)
    leftovers = tuple(
        found for found in _leftovers(store, listing, head.retired, staying, now) if found.safe
    )
    size = sum(_size(listing[run]) for run in runs) + sum(found.size for found in leftovers)
    return Removal(runs, leftovers, size)


def _may_be_promoted_yet(
    store: Store, run_id: str, files: Mapping[str, Entry], now: datetime
) -> bool:
    """Whether a whole run may be on its way to be the champion."""
    if _newest(files) < now - GRACE:
        return False
    try:
        run = registry.find_run(store, run_id)
        verdict = registry.read_record(store, run, registry.VERDICT, Verdict) if run else None
    except DamagedError:
        return True
    return verdict is None or verdict.promoted or not verdict.decided


def _champions_to_keep(store: Store, keep: int) -> set[str]:
    """The champion, the last `keep` before it, and as many as rollbacks lead to."""
    past = registry.history(store)
    head = next(past)
    earlier: dict[str, None] = {}
    steps = [head.rollback_to]
    for champion in past:
        if champion.run_id != head.run_id and len(earlier) < keep:
            earlier[champion.run_id] = None
        if champion.run_id == steps[-1] and len(steps) < keep:
            steps.append(champion.rollback_to)
        if len(earlier) == keep and (len(steps) == keep or steps[-1] is None):
            break
    return {head.run_id, *earlier, *(step for step in steps if step)}


def prune(store: Store, keep: int, now: datetime, *, by: str) -> Removal:
    """Remove what `plan` says, and finish what an earlier prune left; what was removed.

    A run is removed only once the head names it as retired, so that a promotion at the same time
    cannot make it the champion. Its manifest goes first.

    Raises:
        DamagedError: as `plan`.
        StoreError: the store cannot be read or written. What was removed until then is no run any
            more, and another prune finishes it.
    """
    planned = plan(store, keep, now)
    orphans = [found.run_id for found in planned.leftovers if found.run_id]
    removed = _remove_runs(store, [*orphans, *planned.runs], by)
    objects = [found for found in planned.leftovers if not found.run_id]
    for found in objects:
        keys = store.entries(found.key) if found.key.endswith("/") else (found.key,)
        for key in keys:
            store.delete(key)
    return Removal(
        runs=tuple(run for run in planned.runs if run in removed),
        leftovers=tuple(
            found for found in planned.leftovers if not found.run_id or found.run_id in removed
        ),
        size=sum(removed.values()) + sum(found.size for found in objects),
    )


def _remove_runs(store: Store, run_ids: Sequence[str], by: str) -> Mapping[str, int]:
    """Retire and remove runs; those that could be, each with its bytes."""
    removed: dict[str, int] = {}
    with track("removing", len(run_ids)) as advance:
        for start in range(0, len(run_ids), _RETIRED_AT_ONCE):
            batch = run_ids[start : start + _RETIRED_AT_ONCE]
            for run_id in registry.retire(store, batch, by=by):
                if (size := _remove(store, run_id)) is None:
                    continue
                removed[run_id] = size
                advance(len(removed), f"{len(removed):,} of {len(run_ids):,} runs")
    return removed


def _remove(store: Store, run_id: str) -> int | None:
    """Remove a retired run and what was decided of it later; the bytes of the run.

    `None` if it is retired no more: another prune has removed it since, and somebody may have
    published it anew. For that to happen after this look takes two moves of the head and a
    publication within the time of one request.
    """
    below = f"{registry.run_key(run_id)}/"
    files = store.entries(below)
    head = registry.champion(store)
    if head is None or run_id not in head.retired:
        return None
    store.delete(below + MANIFEST)
    for key in (*files, *store.entries(f"{VERDICTS}{run_id}/")):
        store.delete(key)
    return _size(files)


# ---- pull ---------------------------------------------------------------------------------------


def pull(store: Store, folder: Path) -> Pulled:
    """Bring the champion's files into a new folder, all of them or none.

    Raises:
        SettingsError: something else is in the folder's place.
        DamagedError: a file of the champion is damaged, missing or swapped.
        StoreError: there is no champion, the store cannot be read or the folder not written.
    """
    champion, files = registry.read_champion(store)
    pulled = Pulled(champion, folder, tuple(sorted(files)), new=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        if folder.exists() or folder.is_symlink():
            if _holds(folder, files):
                return Pulled(champion, folder, pulled.files, new=False)
            raise SettingsError(
                f"{folder} is there already and is not {champion.run_id}, the champion, whole; "
                "name another folder, or move it away"
            )
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_flushed(temporary / name, content)
        for path in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            flush_folder(path)
        temporary.rename(folder)
        flush_folder(folder.parent)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); free some space, or name "
            "a folder where this user may write"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return pulled


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == content for name, content in files.items())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
