"""Remove old runs and leftovers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from fmnist.errors import DamagedError
from fmnist.evaluation.gate import Verdict
from fmnist.progress import track
from fmnist.registry.champion import champion_history, current_champion, retire
from fmnist.registry.leftovers import (
    GRACE,
    Leftover,
    by_run,
    find_leftovers,
    is_run_id,
    newest_of,
    readable_run,
    size_of,
)
from fmnist.registry.records import MANIFEST, RUNS, VERDICT, VERDICTS, run_key
from fmnist.registry.runs import find_run, read_record
from fmnist.store.base import Entry, Store

_RETIRED_AT_ONCE = 100


@dataclass(frozen=True)
class Removal:
    """What a prune would remove or has removed: runs, the oldest first, leftovers, all bytes."""

    runs: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    size: int


def plan_prune(store: Store, keep: int, now: datetime) -> Removal:
    """What `prune` would remove. Before the first promotion that is nothing.

    Kept are the newest `keep` whole runs and whatever is as new as they are; the champion, the last
    `keep` champions before it, and the `keep` that rollbacks one after the other lead to; and what
    may be a run that is being published: stored in the last 24 hours, and either without a manifest
    yet or not rejected.

    Raises:
        DamagedError: the head or its history is damaged, so that nobody knows what must be kept.
        StoreError: the store cannot be read.
    """
    head = current_champion(store)
    if head is None:
        return Removal((), (), 0)
    listing = by_run(store.list_entries(RUNS))
    whole = sorted(
        run_id
        for run_id, files in listing.items()
        if MANIFEST in files and run_id not in head.retired and is_run_id(run_id)
    )
    newest = list(islice((run for run in reversed(whole) if readable_run(store, run)), keep))
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
        found for found in find_leftovers(store, listing, head.retired, staying, now) if found.safe
    )
    size = sum(size_of(listing[run]) for run in runs) + sum(found.size for found in leftovers)
    return Removal(runs, leftovers, size)


def _may_be_promoted_yet(
    store: Store, run_id: str, files: Mapping[str, Entry], now: datetime
) -> bool:
    """Whether a whole run may be on its way to be the champion."""
    if newest_of(files) < now - GRACE:
        return False
    try:
        run = find_run(store, run_id)
        verdict = read_record(store, run, VERDICT, Verdict) if run else None
    except DamagedError:
        return True
    return verdict is None or verdict.promoted or not verdict.decided


def _champions_to_keep(store: Store, keep: int) -> set[str]:
    """The champion, the last `keep` before it, and as many as rollbacks lead to."""
    past = champion_history(store)
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


def prune_store(store: Store, keep: int, now: datetime, *, by: str) -> Removal:
    """Remove what `plan` says, and finish what an earlier prune left; what was removed.

    A run is removed only once the head names it as retired, so that a promotion at the same time
    cannot make it the champion. Its manifest goes first.

    Raises:
        DamagedError: as `plan`.
        StoreError: the store cannot be read or written. What was removed until then is no run any
            more, and another prune finishes it.
    """
    planned = plan_prune(store, keep, now)
    orphans = [found.run_id for found in planned.leftovers if found.run_id]
    removed = _remove_runs(store, [*orphans, *planned.runs], by)
    objects = [found for found in planned.leftovers if not found.run_id]
    for found in objects:
        keys = store.list_entries(found.key) if found.key.endswith("/") else (found.key,)
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
            for run_id in retire(store, batch, by=by):
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
    below = f"{run_key(run_id)}/"
    files = store.list_entries(below)
    head = current_champion(store)
    if head is None or run_id not in head.retired:
        return None
    store.delete(below + MANIFEST)
    for key in (*files, *store.list_entries(f"{VERDICTS}{run_id}/")):
        store.delete(key)
    return size_of(files)
