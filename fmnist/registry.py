"""Runs and the champion, on any store: the commit protocol.

Layout, below the store's location:

    runs/<run id>/...                   a run's files, each created once and never changed
    runs/<run id>/manifest.json         written last: every other file's size and SHA-256
    champion.json                       the head: the champion in force, and how it came to be
    history/<generation>.json           every head that was replaced, byte for byte
    verdicts/<run id>/<generation>-*    what was decided of a run later, when it was not promoted
    test-sets/<digest>.json             how many models this test set has judged

Invariants, at every moment and for every reader, whatever was killed, lost or raced:

1. A run without its manifest does not exist; one with it is whole and never changes.
2. `champion.json` names a whole run and the digest of its manifest. It is the one object that
   decides which model is in force, and only a compare-and-swap on what was read changes it.
3. `generation` rises by one with each change of `champion.json`. `history/` holds every earlier
   generation, without a gap, and no generation twice.
4. A reader that follows champion.json -> manifest -> file by the digests gets the champion's own
   bytes or an error that names the object, never other bytes.

Publishing a run is:

1. Create each of its files, then its manifest; what is there already must be the very same.
2. List them: each must be there in its size.
3. Read the model back, check its digest, load it, and ask it the test images: it must predict what
   it predicted when it was judged.
4. Move the head to the run, if the verdict says so.

A move of the head, be it a promotion, a rollback or the retirement of old runs, is:

1. Read the head, and decide against it.
2. Copy it, as it was read, to `history/<its generation>.json` (create; harmless to repeat).
3. Swap `champion.json` from the version read to the new head, whose generation is one higher.
4. If the swap was refused, read the head anew. A head of a later generation may stand on this
   very move, when only the answer to it was lost: `history/` tells. Otherwise somebody else moved:
   decide again, a bounded number of times.

A run is removed only after a head has named it among `retired`; no head makes a retired run the
champion, and no head retires its own champion, so removing and promoting cannot cross. The
manifest goes first: what is left of a removal that was cut short is no run. (The limit of this: of
two removals of one run at a time, the slower one would take files of it that were published anew,
if all of that, with the promotion, fell within one of its requests.)

A publisher that dies leaves a run without manifest, or a whole run that nobody promoted: both are
harmless, and publishing the same run again finishes it.
"""

import functools
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, AwareDatetime, Field, TypeAdapter, ValidationError

from fmnist.errors import DamagedError, SettingsError, StoreError, without_credentials
from fmnist.gate import Verdict
from fmnist.store import Conflict, Store, Stored, whole_file

MANIFEST = "manifest.json"
CHAMPION = "champion.json"
MODEL = "model.keras"
EVALUATION = "evaluation.json"
VERDICT = "verdict.json"
DATA = "data.json"
SETTINGS = "settings.json"
RUNS = "runs/"
HISTORY = "history/"
VERDICTS = "verdicts/"
FORMAT: Literal[2] = 2
ATTEMPTS = 10

_COUNT_ATTEMPTS = 50
_REMEMBERED = 100
_LONGEST_PAUSE = 0.2

Record = TypeVar("Record")
# What can stand in a key without leading anywhere else.
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
FileName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", max_length=200),
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Move = Literal["promotion", "forced promotion", "rollback", "retirement"]
Decide = Callable[["Champion | None"], Verdict]

# Made once for each kind of record: making one takes longer than reading with it.
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


@dataclass(frozen=True)
class FileEntry:
    """One file of a run: its size in bytes and its SHA-256 in hexadecimal."""

    size: Annotated[int, Field(ge=0)]
    sha256: Digest


@dataclass(frozen=True)
class Manifest:
    """Every file of a run but the manifest itself, by its path relative to the run."""

    format: Literal[1, 2]
    run_id: RunId
    created_at: AwareDatetime
    files: Mapping[FileName, FileEntry]


@dataclass(frozen=True)
class StoredRun:
    """A whole run in the store: its manifest, and the bytes that the manifest was read from."""

    manifest: Manifest
    content: bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, by which a head names it."""
        return _digest(self.content)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.manifest.run_id


@dataclass(frozen=True)
class Champion:
    """A head: the run in force, and the move that brought it about.

    `previous` is the champion before the move; `rollback_to` the one that a rollback goes back to;
    `moved_at`, `reason` and `by` say when, why and by which program; `retired` are runs being
    removed. The fields with defaults are those that format 1 did not have.
    """

    format: Literal[1, 2]
    run_id: RunId
    manifest_sha256: Digest
    accuracy: float
    # Format 1 knew no other move, and called it so.
    moved_at: Annotated[
        AwareDatetime, Field(validation_alias=AliasChoices("moved_at", "promoted_at"))
    ]
    previous: RunId | None
    generation: Annotated[int, Field(ge=1)] = 1
    rollback_to: RunId | None = None
    move: Move = "promotion"
    reason: str = ""
    by: str = ""
    retired: tuple[RunId, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a promotion ended: the verdict that counted, and the champion in force after it.

    `made` is the head that made the run the champion, `None` if it was not promoted; others may
    have moved the head since.
    """

    verdict: Verdict
    champion: Champion | None
    made: Champion | None = None


class RetiredError(StoreError):
    """A run was taken out of the store, so that it cannot be the champion any more."""


@dataclass(frozen=True)
class Uses:
    """How many models a test set has judged in a store, and the ids of the latest of them."""

    format: Literal[1, 2]
    models: Annotated[int, Field(ge=0)]
    latest: tuple[RunId, ...]


@dataclass(frozen=True)
class _Head:
    """The head as it was read: its record, its bytes and the version to swap."""

    champion: Champion
    stored: Stored


# ---- ids, keys and records ----------------------------------------------------------------------


def new_run_id(now: datetime) -> str:
    """An id that sorts by time (UTC) and does not collide between machines."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def checked_run_id(text: str) -> str:
    """A run id as somebody gave it.

    Raises:
        SettingsError: it is none, and may lead elsewhere.
    """
    try:
        run_id: str = _adapter(RunId).validate_python(text)
    except ValidationError as error:
        raise SettingsError(
            f"{without_credentials(text)[:100]!r} is no run id; `fmnist runs` lists those of the store"
        ) from error
    return run_id


def run_key(run_id: str) -> str:
    """The store's key below which a run's files lie."""
    return f"{RUNS}{run_id}"


def history_key(generation: int) -> str:
    """The store's key of a head that was replaced."""
    return f"{HISTORY}{generation:08d}.json"


def to_json(record: object) -> bytes:
    """A record as indented JSON, readable by `from_json`."""
    return _adapter(type(record)).dump_json(record, indent=2) + b"\n"


def from_json(kind: type[Record], content: bytes, where: str) -> Record:
    """Read a record of that kind.

    Raises:
        DamagedError: the content is not such a record; the message names `where` it lies.
    """
    try:
        record: Record = _adapter(kind).validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))[:100] or "its content"
        raise DamagedError(
            f"{where} cannot be read: {place}: {fault['msg'][:200]}; it was damaged or written by "
            "another version"
        ) from error
    return record


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- runs ---------------------------------------------------------------------------------------


def seal(folder: Path, run_id: str, now: datetime) -> Manifest:
    """Write the manifest of a finished run's folder, after which nothing in it may change."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(
            path.stat().st_size, _digest(path.read_bytes())
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = Manifest(FORMAT, run_id, now, files)
    with whole_file(folder / MANIFEST, to_json(manifest)) as written:
        written.replace(folder / MANIFEST)
    return manifest


def publish(store: Store, folder: Path) -> StoredRun:
    """Copy a sealed run into the store, its manifest last; harmless to repeat.

    Raises:
        DamagedError: a file of the folder is not what its manifest says; nothing is stored then.
        StoreError: the store cannot be written, or holds another run of this id.
    """
    sealed, contents = _read_sealed(folder)
    manifest = from_json(Manifest, sealed, str(folder / MANIFEST))
    for name, content in contents.items():
        store.create(f"{run_key(manifest.run_id)}/{name}", content)
    store.create(f"{run_key(manifest.run_id)}/{MANIFEST}", sealed)
    _check_whole(store, manifest)
    return StoredRun(manifest, sealed)


def _read_sealed(folder: Path) -> tuple[bytes, Mapping[str, bytes]]:
    """The bytes of a folder's manifest and of the files that it lists, checked."""
    where = folder / MANIFEST
    try:
        sealed = where.read_bytes()
        manifest = from_json(Manifest, sealed, str(where))
        contents = {name: (folder / name).read_bytes() for name in manifest.files}
    except OSError as error:
        raise DamagedError(
            f"{error.filename} cannot be read ({error.strerror}), so {folder} is no finished run; "
            "nothing is published"
        ) from error
    for name, content in contents.items():
        if not _is(content, manifest.files[name]):
            raise DamagedError(
                f"{folder / name} is not the file that {MANIFEST} lists; nothing is published"
            )
    return sealed, contents


def _check_whole(store: Store, manifest: Manifest) -> None:
    """Make sure that the store lists every file in its size: one may have been removed meanwhile.

    Raises:
        DamagedError: one is not there, or has another size.
    """
    key = run_key(manifest.run_id)
    listed = store.entries(f"{key}/")
    for name, entry in manifest.files.items():
        found = listed.get(f"{key}/{name}")
        if found is None or found.size != entry.size:
            raise DamagedError(
                f"{store.location(f'{key}/{name}')} was stored but is not listed in its size; "
                "publish the run again"
            )


def run_ids(store: Store) -> list[str]:
    """Every id below `runs/`, the newest first; what has no manifest is among them."""
    names = store.names(RUNS)
    return sorted((name.rstrip("/") for name in names if name.endswith("/")), reverse=True)


def is_there(store: Store, run_id: str) -> bool:
    """Whether the store has a run of this id, damaged or not.

    Raises:
        StoreError: the store cannot be read.
    """
    return store.read(f"{run_key(run_id)}/{MANIFEST}") is not None


def find_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun | None:
    """A run of the store by its id; `None` if there is no such run.

    Raises:
        DamagedError: its manifest is damaged, is another run's, or has another digest than `sha256`.
        StoreError: the store cannot be read.
    """
    key = f"{run_key(run_id)}/{MANIFEST}"
    content = store.read(key)
    if content is None:
        return None
    if sha256 is not None and _digest(content) != sha256:
        raise DamagedError(
            f"{store.location(key)} is not the manifest that was promoted (its SHA-256 differs); "
            "`fmnist rollback` goes back to the champion before"
        )
    manifest = from_json(Manifest, content, store.location(key))
    if manifest.run_id != run_id:
        raise DamagedError(f"{store.location(key)} is the manifest of another run")
    return StoredRun(manifest, content)


def read_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun:
    """A run that must be there.

    Raises:
        DamagedError: as `find_run`, or it is not there although a digest is known.
        StoreError: the store holds no such run, or cannot be read.
    """
    run = find_run(store, run_id, sha256)
    if run is None:
        where = store.location(f"{run_key(run_id)}/{MANIFEST}")
        if sha256 is not None:
            raise DamagedError(f"{where} is not there, although the run was promoted")
        raise StoreError(
            f"{where} is not there: {run_id} is no run of this store; `fmnist runs` lists them"
        )
    return run


def read_file(store: Store, run: StoredRun, name: str) -> bytes:
    """A file of a run, checked by size and digest.

    Raises:
        DamagedError: it is not there, or is not the file that the manifest lists.
        StoreError: the store cannot be read.
    """
    where = store.location(f"{run_key(run.run_id)}/{name}")
    entry = run.manifest.files.get(name)
    if entry is None:
        raise DamagedError(f"{where} is not listed in the run's {MANIFEST}")
    content = store.read(f"{run_key(run.run_id)}/{name}")
    if content is None:
        raise DamagedError(f"{where} is not there, although {MANIFEST} lists it")
    if not _is(content, entry):
        raise DamagedError(f"{where} is not the file that {MANIFEST} lists (its SHA-256 differs)")
    return content


def read_record(store: Store, run: StoredRun, name: str, kind: type[Record]) -> Record:
    """A file of a run, checked, as a record of that kind.

    Raises:
        DamagedError: as `read_file`, or it holds no such record.
        StoreError: the store cannot be read.
    """
    where = store.location(f"{run_key(run.run_id)}/{name}")
    return from_json(kind, read_file(store, run, name), where)


def _is(content: bytes, entry: FileEntry) -> bool:
    return len(content) == entry.size and _digest(content) == entry.sha256


# ---- the head -----------------------------------------------------------------------------------


def champion(store: Store) -> Champion | None:
    """The champion in force; `None` where no run was ever promoted.

    Raises:
        DamagedError: `champion.json` cannot be read as such.
        StoreError: the store cannot be read.
    """
    head = _read_head(store)
    return head.champion if head else None


def read_champion(store: Store, *names: str) -> tuple[Champion, Mapping[str, bytes]]:
    """The champion in force, with these files of its run, or with all of them; checked by digest.

    Raises:
        DamagedError: `champion.json`, the manifest or a file is damaged, missing or swapped.
        StoreError: there is no champion, or the store cannot be read.
    """
    while True:
        found = champion(store)
        if found is None:
            raise StoreError(f"{store.location(CHAMPION)} is not there: no run was promoted yet")
        try:
            run = read_run(store, found.run_id, found.manifest_sha256)
            files = {name: read_file(store, run, name) for name in names or run.manifest.files}
        except DamagedError:
            # A champion of before may have been removed while it was read.
            if champion(store) == found:
                raise
        else:
            return found, files if names else {**files, MANIFEST: run.content}


def history(store: Store) -> Iterator[Champion]:
    """Every head, the one in force first, back to the first promotion; read as it is asked for.

    Raises:
        DamagedError: one is missing, damaged, or of another generation than its place.
        StoreError: the store cannot be read.
    """
    return _heads(store, champion(store))


def _heads(store: Store, current: Champion | None) -> Iterator[Champion]:
    while current is not None:
        yield current
        current = _earlier(store, current)


def _earlier(store: Store, head: Champion) -> Champion | None:
    """The head that this one replaced; `None` before the first promotion."""
    if head.generation == 1:
        return None
    key = history_key(head.generation - 1)
    content = store.read(key)
    if content is None:
        raise DamagedError(f"{store.location(key)} is not there: the history has a gap")
    earlier = from_json(Champion, content, store.location(key))
    if earlier.generation != head.generation - 1:
        raise DamagedError(
            f"{store.location(key)} is of generation {earlier.generation}: the history is "
            "out of order"
        )
    return earlier


def promote(
    store: Store,
    run: StoredRun,
    accuracy: float,
    verdict: Verdict,
    decide: Decide,
    *,
    by: str,
    forced: str | None = None,
    attempts: int = ATTEMPTS,
) -> Outcome:
    """Make a run the champion, if its verdict says so.

    `verdict` is what was decided against the head of its generation; if that is no longer the head,
    or nothing was decided yet, `decide` is asked. Harmless to repeat: a run that became the
    champion since that generation is not promoted again, and the outcome has the verdict that made
    it the champion. `forced` is a person's reason to promote it whatever the verdict.

    Raises:
        RetiredError: the run was taken out of the store.
        StoreError: others moved the champion at every attempt, or the store cannot be read or
            written.
    """
    latest = verdict
    made: Champion | None = None

    def successor(head: Champion | None) -> Champion | None:
        nonlocal latest, made
        made = None
        if head and head.run_id == run.run_id:
            made = head
            return None
        if head:
            _refuse_retired(run.run_id, head)
        if generation_of(head) != latest.generation or not latest.decided:
            latest = decide(head)
        if not latest.promoted and forced is None:
            if champion(store) != head:
                # It may have lost to what was removed while it was asked, and not to a model.
                raise Conflict("the champion was replaced while it was compared with")
            record_verdict(store, run, latest)
            return None
        before = head.run_id if head else None
        made = Champion(
            format=FORMAT,
            run_id=run.run_id,
            manifest_sha256=run.sha256,
            accuracy=accuracy,
            moved_at=datetime.now(UTC),
            previous=before,
            generation=generation_of(head) + 1,
            rollback_to=before,
            move="promotion" if forced is None else "forced promotion",
            reason=latest.reason if forced is None else f"{forced} (verdict: {latest.reason})",
            by=by,
            retired=head.retired if head else (),
        )
        return made

    def done_by(head: Champion) -> bool:
        nonlocal latest, made
        _refuse_retired(run.run_id, head)
        if head.run_id != run.run_id or head.move not in ("promotion", "forced promotion"):
            return False
        made = head
        if head.generation - 1 != latest.generation or not latest.decided:
            latest = decide(_earlier(store, head))
        if not latest.promoted and forced is None:
            # What it met then can no longer be asked, or a person forced it: the head tells why.
            latest = Verdict(True, (), head.reason, head.generation - 1)
        return True

    in_force = _move(store, verdict.generation, successor, done_by, attempts)
    return Outcome(latest, in_force, made)


def rollback(store: Store, run_id: str | None, *, reason: str, by: str) -> Champion:
    """Make an earlier champion the champion again: the one before, or a named one.

    All of its files are read and checked first. Two rollbacks to the same run at a time are one.

    Raises:
        DamagedError: a file of that run is damaged or missing.
        RetiredError: the run was taken out of the store.
        StoreError: there is no champion before, or the run never was the champion; or the store
            cannot be read or written.
    """
    first = champion(store)
    if first is None:
        raise StoreError(
            f"{store.location(CHAMPION)} is not there: there is no champion to replace"
        )
    goal = run_id or first.rollback_to
    if goal is None:
        raise StoreError(
            f"no champion before {first.run_id} is left to go back to; `fmnist rollback RUN` names "
            "an earlier one, `fmnist promote RUN` any other run"
        )

    def successor(head: Champion | None) -> Champion | None:
        if head is None or head.run_id == goal:
            return None
        earlier = next((past for past in _heads(store, head) if past.run_id == goal), None)
        if earlier is None:
            raise StoreError(
                f"the history has no champion {goal}: `fmnist promote {goal}` asks the gate first"
            )
        run = read_run(store, goal, earlier.manifest_sha256)
        for name in run.manifest.files:
            read_file(store, run, name)
        back = earlier.rollback_to
        if back and (back in head.retired or not is_there(store, back)):
            back = None
        return replace(
            earlier,
            format=FORMAT,
            moved_at=datetime.now(UTC),
            previous=head.run_id,
            generation=head.generation + 1,
            rollback_to=back,
            move="rollback",
            reason=reason,
            by=by,
            retired=head.retired,
        )

    def done_by(head: Champion) -> bool:
        _refuse_retired(goal, head)
        return head.run_id == goal and head.move == "rollback"

    _refuse_retired(goal, first)
    try:
        in_force = _move(store, first.generation, successor, done_by, ATTEMPTS)
    except StoreError as error:
        if not error.temporary:
            raise
        # Without a name a second try would go back twice, if only the answer to the first was lost.
        raise StoreError(
            f"{error}; to try again, name the run: `fmnist rollback {goal}`", temporary=True
        ) from error
    return in_force or first


def retire(store: Store, run_ids: Sequence[str], *, by: str) -> tuple[str, ...]:
    """Name runs as being removed, after which no move can make them the champion.

    Returns those of them that may be removed now: all but the champion and the one to go back to.

    Raises:
        SettingsError: one is no run id.
        StoreError: there is no champion yet, or the store cannot be read or written.
    """
    for run_id in run_ids:
        checked_run_id(run_id)
    first = champion(store)
    if first is None:
        raise StoreError(
            f"{store.location(CHAMPION)} is not there: nothing is removed from a store before its "
            "first promotion"
        )

    def successor(head: Champion | None) -> Champion | None:
        if head is None:
            return None
        going = [run for run in run_ids if run not in (head.run_id, head.rollback_to)]
        still = [run for run in head.retired if store.names(f"{run_key(run)}/")]
        if set(going) <= set(head.retired):
            return None
        return replace(
            head,
            format=FORMAT,
            moved_at=datetime.now(UTC),
            previous=head.run_id,
            generation=head.generation + 1,
            move="retirement",
            reason=f"{len(going)} runs removed",
            by=by,
            retired=tuple(dict.fromkeys([*still, *going])),
        )

    def done_by(head: Champion) -> bool:
        return head.move == "retirement" and set(run_ids) <= set(head.retired)

    in_force = _move(store, first.generation, successor, done_by, ATTEMPTS) or first
    return tuple(run for run in run_ids if run in in_force.retired)


def _move(
    store: Store,
    since: int,
    successor: Callable[[Champion | None], Champion | None],
    done_by: Callable[[Champion], bool],
    attempts: int,
) -> Champion | None:
    """Move the head to what `successor` makes of it, or leave it where that is `None`.

    `done_by` is asked of every head of a later generation than `since`: whether it is this very
    move, to which only the answer was lost. Returns the head that is in force then.

    Raises:
        StoreError: others moved the head at every attempt; or as `successor` and `done_by` say.
    """
    for left in range(attempts, -1, -1):
        head = _read_head(store)
        current = head.champion if head else None
        for later in _heads(store, current):
            if later.generation <= since:
                break
            if done_by(later):
                return current
        if not left:
            break
        try:
            new = successor(current)
            if new is None:
                return current
            if head:
                _archive(store, head)
            store.swap(CHAMPION, head.stored.version if head else None, to_json(new))
        except Conflict:
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - only to part the rivals
            continue
        return new
    raise StoreError(
        f"{store.location(CHAMPION)} was changed by others at each of {attempts} attempts; try "
        "again later",
        temporary=True,
    )


def _archive(store: Store, head: _Head) -> None:
    """Copy a head into the history, where it may be already."""
    key = history_key(head.champion.generation)
    try:
        store.create(key, head.stored.content)
    except Conflict as error:
        raise DamagedError(
            f"{store.location(key)} is another head than {CHAMPION}: the history is out of order"
        ) from error


def generation_of(head: Champion | None) -> int:
    """The generation of a head; 0 where there is none."""
    return head.generation if head else 0


def _refuse_retired(run_id: str, head: Champion) -> None:
    if run_id in head.retired:
        raise RetiredError(
            f"{run_id} was taken out of the store by `fmnist prune` and cannot become the champion "
            "any more; train again"
        )


def _read_head(store: Store) -> _Head | None:
    stored = store.look(CHAMPION)
    if stored is None:
        return None
    return _Head(from_json(Champion, stored.content, store.location(CHAMPION)), stored)


# ---- what the store knows beside runs and head --------------------------------------------------


def record_verdict(store: Store, run: StoredRun, verdict: Verdict) -> None:
    """Keep a verdict that was passed on a stored run later than its own, and did not promote it.

    Raises:
        StoreError: the store cannot be written.
    """
    content = to_json(verdict)
    key = f"{VERDICTS}{run.run_id}/{verdict.generation:08d}-{_digest(content)[:8]}.json"
    store.create(key, content)


def later_verdicts(store: Store, run_id: str) -> list[Verdict]:
    """The verdicts that `record_verdict` kept of a run, by the generation they were passed against.

    Raises:
        DamagedError: one cannot be read as such.
        StoreError: the store cannot be read.
    """
    found = []
    for name in store.names(f"{VERDICTS}{run_id}/"):
        key = f"{VERDICTS}{run_id}/{name}"
        if (content := store.read(key)) is not None:
            found.append(from_json(Verdict, content, store.location(key)))
    return found


def count_judged(store: Store, test_set: str, run_id: str) -> int:
    """Count one more model that this test set (a digest) has judged; the number so far.

    The same run is counted once, so that a repeat is harmless.

    Raises:
        DamagedError: the count cannot be read as such.
        StoreError: the store cannot be read or written.
    """
    key = f"test-sets/{test_set}.json"
    for _ in range(_COUNT_ATTEMPTS):
        stored = store.look(key)
        uses = (
            from_json(Uses, stored.content, store.location(key)) if stored else Uses(FORMAT, 0, ())
        )
        if run_id in uses.latest:
            return uses.models
        latest = (*uses.latest, run_id)[-_REMEMBERED:]
        counted = Uses(FORMAT, uses.models + 1, latest)
        try:
            store.swap(key, stored.version if stored else None, to_json(counted))
        except Conflict:
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - only to part the rivals
            continue
        return counted.models
    raise StoreError(
        f"{store.location(key)} was changed by others at each of {_COUNT_ATTEMPTS} attempts; try "
        "again later",
        temporary=True,
    )
