"""Read the champion and its history, and change it: promote, roll back, hold, release, retire.

`fmnist.registry.records` explains the protocol. A move also raises `StoreError` if others changed
the champion at each of its attempts.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.gate import Verdict, hold_back
from fmnist.registry import keys
from fmnist.registry.records import (
    FORMAT,
    LARGEST_RECORD,
    ChampionRecord,
    Move,
    PromotionResult,
    RetiredError,
    StoredRun,
    checked_run_id,
    from_json,
    to_json,
)
from fmnist.registry.runs import read_file, read_run, record_verdict, run_exists, unknown_run
from fmnist.store.base import Conflict, Store, StoredObject

ATTEMPTS = 10
_LONGEST_PAUSE = 0.2
Decide = Callable[["ChampionRecord | None"], Verdict]


def current_champion(store: Store) -> ChampionRecord | None:
    """The current champion; `None` if no run was ever promoted."""
    return _parse(store, store.get(keys.CHAMPION, LARGEST_RECORD))


def read_champion(store: Store, *names: str) -> tuple[ChampionRecord, Mapping[str, bytes]]:
    """The current champion with these files of its run, or with all of them; checked by digest.

    It is a `StoreError` if there is none.
    """
    while True:
        champion = existing_champion(store)
        try:
            run = read_run(store, champion.run_id, champion.manifest_sha256)
            files = {name: read_file(store, run, name) for name in names or run.manifest.files}
        except DamagedError:
            # It may have been replaced and removed while it was read.
            if current_champion(store) == champion:
                raise
        else:
            return champion, files if names else {**files, keys.MANIFEST: run.content}


def existing_champion(store: Store) -> ChampionRecord:
    """The current champion; a `StoreError` if no run was ever promoted."""
    if (champion := current_champion(store)) is None:
        raise StoreError(f"{store.location(keys.CHAMPION)} is not there: no run was promoted yet")
    return champion


def champion_history(store: Store) -> Iterator[ChampionRecord]:
    """Every champion record from the current one back to the first promotion, read on demand."""
    return _back_from(store, current_champion(store))


def promotion_since(store: Store, run_id: str, generation: int) -> ChampionRecord | None:
    """The latest record after this generation that made the run the champion, if there is one."""
    later = takewhile(lambda move: move.generation > generation, champion_history(store))
    return next((move for move in later if move.run_id == run_id), None)


def generation_of(champion: ChampionRecord | None) -> int:
    """The generation of a champion record; 0 if there is none."""
    return champion.generation if champion else 0


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

    `verdict` was reached against the champion of its generation. If the champion has changed since,
    or nothing was decided yet, `decide` is asked. Safe to repeat: a run that has become the
    champion since that generation is not promoted again, and the result has the verdict that made
    it the champion. A champion that is held is replaced only if `forced` gives a person's reason to
    promote the run whatever the verdict; it stays held then, for the run that replaces it.

    Raises:
        RetiredError: the run has been removed from the store.
    """
    latest = verdict
    made: ChampionRecord | None = None

    def successor(current: ChampionRecord | None) -> ChampionRecord | None:
        nonlocal latest, made
        made = None
        if current and current.run_id == run.run_id:
            made = current
            return None
        if current:
            _refuse_retired(run.run_id, current)
        if generation_of(current) != latest.generation or not latest.decided:
            latest = decide(current)
        if current and current.held:
            latest = hold_back(latest)
        if not latest.promoted and forced is None:
            if current_champion(store) != current:
                # It may have been rejected only because that champion was being removed.
                raise Conflict("the champion was replaced during the comparison")
            record_verdict(store, run, latest)
            return None
        previous = current.run_id if current else None
        overruled = not latest.promoted
        made = ChampionRecord(
            format=FORMAT,
            run_id=run.run_id,
            manifest_sha256=run.sha256,
            accuracy=accuracy,
            moved_at=datetime.now(UTC),
            previous=previous,
            generation=generation_of(current) + 1,
            rollback_to=previous,
            move="forced promotion" if overruled else "promotion",
            reason=latest.reason if forced is None else f"{forced} (verdict: {latest.reason})",
            by=by,
            retired=current.retired if current else (),
            held=current.held if current else False,
            forced=overruled,
        )
        return made

    def done_by(later: ChampionRecord) -> bool:
        nonlocal latest, made
        _refuse_retired(run.run_id, later)
        if later.run_id != run.run_id or later.move not in ("promotion", "forced promotion"):
            return False
        made = later
        if later.generation - 1 != latest.generation or not latest.decided:
            latest = decide(_earlier(store, later))
        if not latest.promoted and forced is None:
            # The comparison cannot be repeated, or a person forced it: the record says why.
            latest = Verdict(True, (), later.reason, later.generation - 1)
        return True

    current = _move(store, verdict.generation, successor, done_by, attempts)
    return PromotionResult(latest, current, made)


def roll_back(
    store: Store, run_id: str | None, *, reason: str, by: str, hold: bool = True
) -> ChampionRecord:
    """Make an earlier champion the champion again: the previous one, or the one named.

    All of its files are read and checked first. Simultaneous rollbacks to one run count as one.
    Unless it is held from then on, the next run that passes the gate replaces it.

    Raises:
        RetiredError: the run has been removed from the store.
        StoreError: there is no previous champion, or the run never was the champion.
    """
    first = existing_champion(store)
    goal = run_id or first.rollback_to
    if goal is None:
        raise StoreError(
            f"there is no champion before {first.run_id} to go back to; `fmnist rollback RUN` "
            "names an earlier one, `fmnist promote RUN` any other run"
        )

    def successor(current: ChampionRecord | None) -> ChampionRecord | None:
        if current is None or current.run_id == goal:
            return None
        earlier = None
        removed = False
        for past in _back_from(store, current):
            removed = removed or goal in past.retired
            if past.run_id == goal:
                earlier = past
                break
        if not (there := run_exists(store, goal)) and removed:
            raise _removed(goal)
        if earlier is None:
            if not there:
                raise unknown_run(store, goal)
            raise StoreError(
                f"{goal} was never the champion; `fmnist promote {goal}` lets the gate decide"
            )
        run = read_run(store, goal, earlier.manifest_sha256)
        for name in run.manifest.files:
            read_file(store, run, name)
        back = earlier.rollback_to
        if back and (back in current.retired or not run_exists(store, back)):
            back = None
        return _next_record(
            current, earlier, rollback_to=back, move="rollback", reason=reason, by=by, held=hold
        )

    def done_by(later: ChampionRecord) -> bool:
        _refuse_retired(goal, later)
        return later.run_id == goal and later.move == "rollback"

    _refuse_retired(goal, first)
    try:
        return _move(store, first.generation, successor, done_by) or first
    except StoreError as error:
        if not error.retryable:
            raise
        # If only the reply was lost, repeating it without a name would go back a second step.
        raise StoreError(
            f"{error}; if you try again, name the run: `fmnist rollback {goal}`", retryable=True
        ) from error


def set_hold(store: Store, *, held: bool, reason: str, by: str) -> ChampionRecord:
    """Hold the champion, so that no run replaces it, or release it; unless it is so already."""
    first = existing_champion(store)
    move: Move = "hold" if held else "release"

    def successor(current: ChampionRecord | None) -> ChampionRecord | None:
        if current is None or current.held == held:
            return None
        return _next_record(current, current, move=move, reason=reason, by=by, held=held)

    def done_by(later: ChampionRecord) -> bool:
        return later.move == move

    return _move(store, first.generation, successor, done_by) or first


def retire(store: Store, run_ids: Sequence[str], *, by: str) -> tuple[str, ...]:
    """Record that runs are being removed, after which none of them can become the champion.

    Returns those that may be removed now: all but the champion and the run to roll back to.

    Raises:
        SettingsError: one is not a run id.
        StoreError: there is no champion yet.
    """
    for run_id in run_ids:
        checked_run_id(run_id)
    first = existing_champion(store)

    def successor(current: ChampionRecord | None) -> ChampionRecord | None:
        if current is None:
            return None
        going = [run for run in run_ids if run not in (current.run_id, current.rollback_to)]
        still = [run for run in current.retired if store.list_names(f"{keys.of_run(run)}/")]
        if set(going) <= set(current.retired):
            return None
        return _next_record(
            current,
            current,
            move="retirement",
            reason="1 run removed" if len(going) == 1 else f"{len(going):,} runs removed",
            by=by,
            retired=tuple(dict.fromkeys([*still, *going])),
        )

    def done_by(later: ChampionRecord) -> bool:
        return later.move == "retirement" and set(run_ids) <= set(later.retired)

    current = _move(store, first.generation, successor, done_by) or first
    return tuple(run for run in run_ids if run in current.retired)


def _next_record(current: ChampionRecord, champion: ChampionRecord, **move: Any) -> ChampionRecord:
    """The record that follows the current one, with the champion of another record."""
    return replace(
        champion,
        format=FORMAT,
        moved_at=datetime.now(UTC),
        previous=current.run_id,
        generation=current.generation + 1,
        **{"retired": current.retired, **move},
    )


def _move(
    store: Store,
    seen_generation: int,
    successor: Callable[[ChampionRecord | None], ChampionRecord | None],
    done_by: Callable[[ChampionRecord], bool],
    attempts: int = ATTEMPTS,
) -> ChampionRecord | None:
    """Replace the champion record by what `successor` makes of it; keep it if that is `None`.

    `done_by` says of a record later than `seen_generation` whether it already is this very move,
    of which only the reply was lost. Returns the record that is current in the end.
    """
    for left in range(attempts, -1, -1):
        stored = store.get(keys.CHAMPION, LARGEST_RECORD)
        current = _parse(store, stored)
        for later in _back_from(store, current):
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
            if stored and current:
                _archive(store, current.generation, stored.content)
            store.compare_and_swap(keys.CHAMPION, stored.version if stored else None, to_json(new))
        except Conflict:
            part_rivals()
            continue
        return new
    raise always_overtaken(store.location(keys.CHAMPION), attempts)


def part_rivals() -> None:
    """Wait for a moment before the next attempt, each rival for another."""
    time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - nothing secret depends on it


def always_overtaken(where: str, attempts: int) -> StoreError:
    """The error that says that others were faster every time."""
    words = f"was changed by others at each of {attempts} attempts; try again later"
    return StoreError(f"{where} {words}", retryable=True)


def _archive(store: Store, generation: int, content: bytes) -> None:
    """Copy a champion record into the history, unless it is there already."""
    key = keys.of_generation(generation)
    try:
        store.put_if_absent(key, content)
    except Conflict as error:
        raise DamagedError(
            f"{store.location(key)} differs from the {keys.CHAMPION} of that generation: "
            "the history is out of order"
        ) from error


def _back_from(store: Store, current: ChampionRecord | None) -> Iterator[ChampionRecord]:
    while current is not None:
        yield current
        current = _earlier(store, current)


def _earlier(store: Store, record: ChampionRecord) -> ChampionRecord | None:
    """The record that this one replaced; `None` before the first promotion."""
    if record.generation == 1:
        return None
    key = keys.of_generation(record.generation - 1)
    content, where = store.read(key, LARGEST_RECORD), store.location(key)
    if content is None:
        raise DamagedError(f"{where} is missing: the history has a gap")
    earlier = from_json(ChampionRecord, content, where)
    if (found := earlier.generation) != record.generation - 1:
        raise DamagedError(f"{where} is of generation {found}: the history is out of order")
    return earlier


def _refuse_retired(run_id: str, record: ChampionRecord) -> None:
    if run_id in record.retired:
        raise _removed(run_id)


def _removed(run_id: str) -> RetiredError:
    why = "was removed by `fmnist prune` and can no longer become the champion; train again"
    return RetiredError(f"{run_id} {why}")


def _parse(store: Store, stored: StoredObject | None) -> ChampionRecord | None:
    if stored is None:
        return None
    return from_json(ChampionRecord, stored.content, store.location(keys.CHAMPION))
