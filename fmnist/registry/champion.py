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

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.registry.records import (
    CHAMPION,
    FORMAT,
    MANIFEST,
    ChampionRecord,
    PromotionResult,
    RetiredError,
    StoredRun,
    checked_run_id,
    from_json,
    history_key,
    run_key,
    to_json,
)
from fmnist.registry.runs import read_file, read_run, record_verdict, run_exists
from fmnist.store.base import Conflict, Store, StoredObject

ATTEMPTS = 10
_LONGEST_PAUSE = 0.2
Decide = Callable[["ChampionRecord | None"], Verdict]


@dataclass(frozen=True)
class _Head:
    """The head as it was read: its record, its bytes and the version to swap."""

    champion: ChampionRecord
    stored: StoredObject


def current_champion(store: Store) -> ChampionRecord | None:
    """The champion in force; `None` where no run was ever promoted.

    Raises:
        DamagedError: `champion.json` cannot be read as such.
        StoreError: the store cannot be read.
    """
    head = _read_head(store)
    return head.champion if head else None


def read_champion(store: Store, *names: str) -> tuple[ChampionRecord, Mapping[str, bytes]]:
    """The champion in force, with these files of its run, or with all of them; checked by digest.

    Raises:
        DamagedError: `champion.json`, the manifest or a file is damaged, missing or swapped.
        StoreError: there is no champion, or the store cannot be read.
    """
    while True:
        found = current_champion(store)
        if found is None:
            raise StoreError(f"{store.location(CHAMPION)} is not there: no run was promoted yet")
        try:
            run = read_run(store, found.run_id, found.manifest_sha256)
            files = {name: read_file(store, run, name) for name in names or run.manifest.files}
        except DamagedError:
            # A champion of before may have been removed while it was read.
            if current_champion(store) == found:
                raise
        else:
            return found, files if names else {**files, MANIFEST: run.content}


def champion_history(store: Store) -> Iterator[ChampionRecord]:
    """Every head, the one in force first, back to the first promotion; read as it is asked for.

    Raises:
        DamagedError: one is missing, damaged, or of another generation than its place.
        StoreError: the store cannot be read.
    """
    return _heads(store, current_champion(store))


def _heads(store: Store, current: ChampionRecord | None) -> Iterator[ChampionRecord]:
    while current is not None:
        yield current
        current = _earlier(store, current)


def _earlier(store: Store, head: ChampionRecord) -> ChampionRecord | None:
    """The head that this one replaced; `None` before the first promotion."""
    if head.generation == 1:
        return None
    key = history_key(head.generation - 1)
    content = store.read(key)
    if content is None:
        raise DamagedError(f"{store.location(key)} is not there: the history has a gap")
    earlier = from_json(ChampionRecord, content, store.location(key))
    if earlier.generation != head.generation - 1:
        raise DamagedError(
            f"{store.location(key)} is of generation {earlier.generation}: the history is "
            "out of order"
        )
    return earlier


def promote_run(
    store: Store,
    run: StoredRun,
    accuracy: float,
    verdict: Verdict,
    decide: Decide,
    *,
    by: str,
    forced: str | None = None,
    attempts: int = ATTEMPTS,
) -> PromotionResult:
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
    made: ChampionRecord | None = None

    def successor(head: ChampionRecord | None) -> ChampionRecord | None:
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
            if current_champion(store) != head:
                # It may have lost to what was removed while it was asked, and not to a model.
                raise Conflict("the champion was replaced while it was compared with")
            record_verdict(store, run, latest)
            return None
        before = head.run_id if head else None
        made = ChampionRecord(
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

    def done_by(head: ChampionRecord) -> bool:
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
    return PromotionResult(latest, in_force, made)


def roll_back(store: Store, run_id: str | None, *, reason: str, by: str) -> ChampionRecord:
    """Make an earlier champion the champion again: the one before, or a named one.

    All of its files are read and checked first. Two rollbacks to the same run at a time are one.

    Raises:
        DamagedError: a file of that run is damaged or missing.
        RetiredError: the run was taken out of the store.
        StoreError: there is no champion before, or the run never was the champion; or the store
            cannot be read or written.
    """
    first = current_champion(store)
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

    def successor(head: ChampionRecord | None) -> ChampionRecord | None:
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
        if back and (back in head.retired or not run_exists(store, back)):
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

    def done_by(head: ChampionRecord) -> bool:
        _refuse_retired(goal, head)
        return head.run_id == goal and head.move == "rollback"

    _refuse_retired(goal, first)
    try:
        in_force = _move(store, first.generation, successor, done_by, ATTEMPTS)
    except StoreError as error:
        if not error.retryable:
            raise
        # Without a name a second try would go back twice, if only the answer to the first was lost.
        raise StoreError(
            f"{error}; to try again, name the run: `fmnist rollback {goal}`", retryable=True
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
    first = current_champion(store)
    if first is None:
        raise StoreError(
            f"{store.location(CHAMPION)} is not there: nothing is removed from a store before its "
            "first promotion"
        )

    def successor(head: ChampionRecord | None) -> ChampionRecord | None:
        if head is None:
            return None
        going = [run for run in run_ids if run not in (head.run_id, head.rollback_to)]
        still = [run for run in head.retired if store.list_names(f"{run_key(run)}/")]
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

    def done_by(head: ChampionRecord) -> bool:
        return head.move == "retirement" and set(run_ids) <= set(head.retired)

    in_force = _move(store, first.generation, successor, done_by, ATTEMPTS) or first
    return tuple(run for run in run_ids if run in in_force.retired)


def _move(
    store: Store,
    seen_generation: int,
    successor: Callable[[ChampionRecord | None], ChampionRecord | None],
    done_by: Callable[[ChampionRecord], bool],
    attempts: int,
) -> ChampionRecord | None:
    """Move the head to what `successor` makes of it, or leave it where that is `None`.

    `done_by` is asked of every head of a later generation than `seen_generation`: whether it is this very
    move, to which only the answer was lost. Returns the head that is in force then.

    Raises:
        StoreError: others moved the head at every attempt; or as `successor` and `done_by` say.
    """
    for left in range(attempts, -1, -1):
        head = _read_head(store)
        current = head.champion if head else None
        for later in _heads(store, current):
            if later.generation <= seen_generation:
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
            store.compare_and_swap(CHAMPION, head.stored.version if head else None, to_json(new))
        except Conflict:
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - only to part the rivals
            continue
        return new
    raise StoreError(
        f"{store.location(CHAMPION)} was changed by others at each of {attempts} attempts; try "
        "again later",
        retryable=True,
    )


def _archive(store: Store, head: _Head) -> None:
    """Copy a head into the history, where it may be already."""
    key = history_key(head.champion.generation)
    try:
        store.put_if_absent(key, head.stored.content)
    except Conflict as error:
        raise DamagedError(
            f"{store.location(key)} is another head than {CHAMPION}: the history is out of order"
        ) from error


def generation_of(head: ChampionRecord | None) -> int:
    """The generation of a head; 0 where there is none."""
    return head.generation if head else 0


def _refuse_retired(run_id: str, head: ChampionRecord) -> None:
    if run_id in head.retired:
        raise RetiredError(
            f"{run_id} was taken out of the store by `fmnist prune` and cannot become the champion "
            "any more; train again"
        )


def _read_head(store: Store) -> _Head | None:
    stored = store.get(CHAMPION)
    if stored is None:
        return None
    return _Head(from_json(ChampionRecord, stored.content, store.location(CHAMPION)), stored)
