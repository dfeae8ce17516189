"""Remove old runs and leftovers, unless the history, which says what to keep, is damaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from fmnist.errors import DamagedError
from fmnist.evaluation.gate import Verdict
from fmnist.progress import track
from fmnist.registry import keys
from fmnist.registry.champion import champion_history, current_champion, retire
from fmnist.registry.fingerprints import forget_fingerprint
from fmnist.registry.leftovers import Leftover, by_run, find_leftovers, is_old, size_of
from fmnist.registry.records import is_run_id
from fmnist.registry.runs import find_run, read_record, readable_run
from fmnist.store.base import Entry, Store

_RETIRED_AT_ONCE = 100


@dataclass(frozen=True)
class Removal:
    """What a prune would remove, or has removed.

    Attributes:
        runs: their ids, oldest first.
        leftovers: what belonged to no complete run.
        size: all of it in bytes.
        kept: why each run, or leftover by its key, stays; to follow that in a sentence.
    """

    runs: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    size: int
    kept: Mapping[str, str] = field(default_factory=dict)


def plan_prune(store: Store, keep: int, now: datetime) -> Removal:
    """What `prune_store` would remove; nothing before the first promotion.

    It keeps the newest `keep` complete runs and anything newer; the champion, the `keep` champions
    before it, and the `keep` that successive rollbacks lead to; and whatever may still be in
    publication: stored in the last 24 hours, and either without a manifest or not rejected.
    """
    current = current_champion(store)
    if current is None:
        return Removal((), (), 0)
    listing = by_run(store.list_entries(keys.RUNS))
    complete = sorted(
        run_id
        for run_id, files in listing.items()
        if keys.MANIFEST in files and run_id not in current.retired and is_run_id(run_id)
    )
    newest = list(islice((run for run in reversed(complete) if readable_run(store, run)), keep))
    oldest_kept = newest[-1] if len(newest) == keep else ""
    kept = _champions_to_keep(store, keep)
    for run in complete:
        if run in newest:
            kept.setdefault(run, "is among the newest")
        elif run >= oldest_kept:
            kept.setdefault(
                run, "is damaged, and newer than the oldest to keep; see `fmnist verify`"
            )
        elif run not in kept and _may_be_promoted_yet(store, run, listing[run], now):
            kept[run] = "was stored in the last 24 hours, and may still be promoted"
    runs = tuple(run for run in complete if run not in kept)
    everything = list(find_leftovers(store, listing, current.retired, kept, now))
    leftovers = tuple(found for found in everything if found.safe)
    size = sum(size_of(listing[run]) for run in runs) + sum(found.size for found in leftovers)
    unsafe = {
        found.key: f"{found.why}, but may be in use" for found in everything if not found.safe
    }
    staying = {run: kept[run] for run in complete if run in kept}
    return Removal(runs, leftovers, size, staying | unsafe)


def _may_be_promoted_yet(
    store: Store, run_id: str, files: Mapping[str, Entry], now: datetime
) -> bool:
    """Whether a complete run may be about to become the champion."""
    if is_old(files, now):
        return False
    try:
        run = find_run(store, run_id)
        verdict = read_record(store, run, keys.VERDICT, Verdict) if run else None
    except DamagedError:
        return True
    return verdict is None or verdict.promoted or not verdict.decided


def _champions_to_keep(store: Store, keep: int) -> dict[str, str]:
    """Why to keep the champion, the `keep` before it, and as many as successive rollbacks lead to."""
    history = champion_history(store)
    current = next(history)
    earlier: dict[str, None] = {}
    steps = [current.rollback_to]
    for champion in history:
        if champion.run_id != current.run_id and len(earlier) < keep:
            earlier[champion.run_id] = None
        if champion.run_id == steps[-1] and len(steps) < keep:
            steps.append(champion.rollback_to)
        if len(earlier) == keep and (len(steps) == keep or steps[-1] is None):
            break
    return {
        **{run: "is what `fmnist rollback` may lead to" for run in steps if run},
        **dict.fromkeys(earlier, "is among the champions before it"),
        current.run_id: "is the champion",
    }


def prune_store(store: Store, keep: int, now: datetime, *, by: str) -> Removal:
    """Remove what `plan_prune` says, and finish what an interrupted prune left behind.

    Returns what was removed. A run is removed only once `champion.json` lists it as retired, so
    that nobody can make it the champion at the same time. Its fingerprint is forgotten, then its
    manifest goes: after an error, whatever was partly removed is no longer a run, and the next prune
    finishes it.
    """
    planned = plan_prune(store, keep, now)
    orphans = [found.run_id for found in planned.leftovers if found.run_id]
    removed = _remove_runs(store, [*orphans, *planned.runs], by)
    leftovers = tuple(
        found for found in planned.leftovers if not found.run_id or found.run_id in removed
    )
    objects = [found for found in leftovers if not found.run_id]
    for found in objects:
        for key in store.list_entries(found.key) if found.key.endswith("/") else (found.key,):
            store.delete(key)
    size = sum(removed.values()) + sum(found.size for found in objects)
    runs = tuple(run for run in planned.runs if run in removed)
    return Removal(runs, leftovers, size, planned.kept)


def _remove_runs(store: Store, run_ids: Sequence[str], by: str) -> Mapping[str, int]:
    """Retire and remove runs; returns those that could be, each with its size in bytes."""
    removed: dict[str, int] = {}
    with track("removing", len(run_ids)) as advance:
        for start in range(0, len(run_ids), _RETIRED_AT_ONCE):
            batch = run_ids[start : start + _RETIRED_AT_ONCE]
            for run_id in retire(store, batch, by=by):
                if (size := _remove(store, run_id)) is not None:
                    removed[run_id] = size
                    advance(len(removed), f"{len(removed):,} of {len(run_ids):,} runs")
    return removed


def _remove(store: Store, run_id: str) -> int | None:
    """Remove a retired run and the later decisions about it; returns its size in bytes.

    Returns `None` if it is no longer retired: another prune has removed it, and it may have been
    published again. For that to happen after this check takes two moves and a publication within
    the time of one request.
    """
    below = f"{keys.of_run(run_id)}/"
    forget_fingerprint(store, run_id)
    files = store.list_entries(below)
    current = current_champion(store)
    if current is None or run_id not in current.retired:
        return None
    store.delete(below + keys.MANIFEST)
    for key in (*files, *store.list_entries(f"{keys.VERDICTS}{run_id}/")):
        store.delete(key)
    return size_of(files)
