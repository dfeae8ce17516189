"""Pruning: what is kept, and in which order the rest is removed."""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fmnist.errors import DamagedError, StoreError
from fmnist.registry import keys
from fmnist.registry.champion import champion_history, read_champion
from fmnist.registry.fingerprints import record_fingerprint
from fmnist.registry.leftovers import GRACE
from fmnist.registry.prune import Removal, plan_prune, prune_store
from fmnist.registry.records import FORMAT, FingerprintedRun, to_json
from fmnist.registry.runs import find_run, list_run_ids, record_verdict
from fmnist.registry.verify import verify_store
from tests.support.memory import MemoryStore
from tests.support.registry import (
    ALL,
    EVEN_LATER,
    LONG_AFTER,
    age,
    champion_of,
    crash_at,
    load,
    once,
    overtaken_by,
    overwrite,
    passed,
    promote,
    put,
    put_runs,
    rollback,
    run_id,
)


def planned(store: MemoryStore, keep: int) -> list[int]:
    """The numbers of the runs that a prune would remove."""
    return [int(run[9:15]) for run in plan_prune(store, keep, LONG_AFTER).runs]


def test_the_newest_and_the_champions_are_kept(store: MemoryStore) -> None:
    """Kept are the newest runs, the champion, and as many champions before it.

    After a rollback to the first champion the later ones still count as champions before it.
    """
    put_runs(store, 10, champions=range(1, 5))
    assert planned(store, 2) == [1, 5, 6, 7, 8]
    assert planned(store, 1) == [1, 2, 5, 6, 7, 8, 9]
    assert planned(store, 3) == [5, 6, 7]
    assert planned(store, 10) == []
    assert rollback(store, run_id(1)).rollback_to is None
    assert planned(store, 1) == [2, 3, 5, 6, 7, 8, 9]
    assert planned(store, 2) == [2, 5, 6, 7, 8]


def test_the_runs_that_rollbacks_lead_to_are_kept(store: MemoryStore) -> None:
    """After a rollback the one to go back to next may be far back in the history; it is kept."""
    put_runs(store, 10, champions=range(1, 5))
    for _ in range(2):
        rollback(store)
    assert (champion_of(store).run_id, champion_of(store).rollback_to) == (run_id(2), run_id(1))
    assert 1 not in planned(store, 1)
    prune_store(store, 1, LONG_AFTER, by="test")
    assert rollback(store).run_id == run_id(1)


def test_a_damaged_run_is_none_of_those_to_keep(store: MemoryStore) -> None:
    """Only runs whose manifest can be read count; a newer damaged one is left to be looked at."""
    put_runs(store, 5, champions=[1])
    overwrite(store, f"runs/{run_id(5)}/manifest.json", b"{}")
    assert planned(store, 2) == [2]


def test_a_run_without_manifest_is_removed_after_a_day(store: MemoryStore) -> None:
    """Until then, counted from its newest object, it may be a run that is being published."""
    put(store, 1, promoted=True)
    store.put_if_absent(f"runs/{run_id(2)}/model.keras", b"model")
    age(store)
    assert prune_store(store, 1, LONG_AFTER + GRACE, by="test").leftovers == ()
    assert run_id(2) in list_run_ids(store)
    removed = prune_store(store, 1, EVEN_LATER, by="test")
    assert [found.key for found in removed.leftovers] == [f"runs/{run_id(2)}/"]
    assert list_run_ids(store) == [run_id(1)]
    assert run_id(2) in champion_of(store).retired


def test_the_reason_is_told_for_each_run_that_is_kept(store: MemoryStore) -> None:
    """And for what is left of a run that may still be on its way."""
    put_runs(store, 9, champions=[2, 4, 6])
    rollback(store)
    overwrite(store, f"runs/{run_id(9)}/manifest.json", b"{}")
    store.put_if_absent("runs/notes of mine/x", b"x")
    plan = plan_prune(store, 1, LONG_AFTER)
    assert {run[9:15].lstrip("0"): why for run, why in plan.kept.items()} == {
        "2": "is what `fmnist rollback` may lead to",
        "4": "is the champion",
        "6": "is among the champions before it",
        "8": "is among the newest",
        "9": "is damaged, and newer than the oldest to keep; see `fmnist verify`",
        "s of m": "is not named as a run is, but may be in use",
    }
    young = plan_prune(store, 1, datetime.now(UTC)).kept
    assert young[run_id(1)] == "was stored in the last 24 hours, and may still be promoted"
    assert plan.runs == tuple(run_id(number) for number in (1, 3, 5, 7))
    assert prune_store(store, 1, LONG_AFTER, by="test").kept == plan.kept


def test_a_removed_run_leaves_no_fingerprint_behind(store: MemoryStore) -> None:
    """It is gone before the run's manifest: whatever is found by its fingerprint is complete."""
    put(store, 1, fingerprint="5a" * 32)
    put(store, 2, promoted=True)
    named = FingerprintedRun(FORMAT, run_id(1), 0.91, "9a" * 32, passed(None))
    record_fingerprint(store, "5a" * 32, named)

    def meanwhile() -> None:
        assert store.list_names(keys.FINGERPRINTS) == []

    once(store, "before", "delete", f"runs/{run_id(1)}/manifest.json", meanwhile)
    assert prune_store(store, 1, LONG_AFTER, by="test").runs == (run_id(1),)
    assert store.list_names(keys.FINGERPRINTS) == []


def test_nothing_is_planned_before_the_first_promotion(store: MemoryStore) -> None:
    """Without a champion record nothing can be retired, so nothing is removed."""
    put(store, 1)
    store.put_if_absent(f"runs/{run_id(2)}/model.keras", b"model")
    age(store)
    assert plan_prune(store, 1, EVEN_LATER) == Removal((), (), 0)


def test_a_gap_in_the_history_stops_a_prune(store: MemoryStore) -> None:
    """Where nobody knows which champions there were, nothing is removed."""
    put_runs(store, 5, champions=range(1, 4))
    store.delete(keys.of_generation(2))
    with pytest.raises(DamagedError, match="the history has a gap"):
        prune_store(store, 1, LONG_AFTER, by="test")
    assert len(list_run_ids(store)) == 5


# ---- how it is removed --------------------------------------------------------------------------


def test_runs_are_retired_and_then_removed_manifest_first(store: MemoryStore) -> None:
    run = put_runs(store, 4, champions=[3])[0]
    record_verdict(store, run, passed(None))
    deleted: list[str] = []

    def watch(verb: str, key: str) -> None:
        if verb == "delete":
            deleted.append(key)
            assert key.split("/")[1] in champion_of(store).retired

    store.before = watch
    removed = prune_store(store, 1, LONG_AFTER, by="fmnist prune")
    assert removed.runs == (run_id(1), run_id(2))
    assert deleted[0] == f"runs/{run_id(1)}/manifest.json"
    below = [key for key in deleted if run_id(2) in key]
    assert below[0].endswith("manifest.json")
    assert store.list_names("verdicts/") == []
    assert list_run_ids(store) == [run_id(4), run_id(3)]
    current = champion_of(store)
    assert (current.move, current.by, current.run_id) == ("retirement", "fmnist prune", run_id(3))
    assert removed.size == 2 * (
        sum(entry.size for entry in run.manifest.files.values()) + len(run.content)
    )


def test_many_runs_are_retired_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion record lists a hundred at a time, and forgets those that are gone."""
    store = MemoryStore()
    put_runs(store, 252, champions=[252])
    removed = prune_store(store, 1, LONG_AFTER, by="test")
    assert len(removed.runs) == 251
    assert champion_of(store).generation == 1 + 3
    assert max(len(current.retired) for current in champion_history(store)) <= 200
    assert len(champion_of(store).retired) <= 100 + 51
    assert list_run_ids(store) == [run_id(252)]


def test_a_prune_that_was_cut_short_is_finished(store: MemoryStore) -> None:
    """Whatever was written and deleted when it died, the next one removes the rest, young or not."""
    for place in range(13):
        for number in range(1, 4):
            with contextlib.suppress(StoreError):
                put(store, 10 * place + number, promoted=number == 3)
        crash_at(store, "before", place, lambda: prune_store(store, 1, LONG_AFTER, by="test"))
        prune_store(store, 1, LONG_AFTER, by="test")
        for run in list_run_ids(store):
            assert find_run(store, run)
        assert len(list_run_ids(store)) <= 3
        assert verify_store(store, load, LONG_AFTER).damage == []


def test_a_run_that_another_prune_removed_and_somebody_published_again_stays(
    store: MemoryStore,
) -> None:
    """A slow prune removes nothing on the strength of a retirement that is over."""
    put_runs(store, 5, champions=range(1, 6))

    def meanwhile() -> None:
        prune_store(store, 2, LONG_AFTER, by="another")
        for number in (6, 7):
            put(store, number, promoted=True)
        prune_store(store, 1, LONG_AFTER, by="another")
        promote(store, put(store, 2))

    once(store, "before", "delete", f"runs/{run_id(1)}/manifest.json", meanwhile)
    assert run_id(2) not in prune_store(store, 2, LONG_AFTER, by="test").runs
    champion, files = read_champion(store)
    assert champion.run_id == run_id(2) and files.keys() == ALL


@pytest.mark.parametrize("word", ["promoted", "undecided", "rejected", "damaged"])
def test_a_run_that_may_be_promoted_yet_is_kept_for_a_day(word: str, store: MemoryStore) -> None:
    content = b"damaged"
    if word != "damaged":
        verdict = replace(passed(None), promoted=word == "promoted", decided=word != "undecided")
        content = to_json(verdict)
    put(store, 1, files={keys.VERDICT: content})
    for number in (2, 3):
        put(store, number, promoted=True)
    going = plan_prune(store, 1, datetime.now(UTC)).runs
    assert going == ((run_id(1),) if word == "rejected" else ())
    assert plan_prune(store, 1, LONG_AFTER).runs == (run_id(1),)


def test_a_run_promoted_at_the_same_time_is_not_removed(store: MemoryStore) -> None:
    first = put_runs(store, 5, champions=[4])[0]
    overtaken_by(store, lambda: promote(store, first))
    removed = prune_store(store, 1, LONG_AFTER, by="test")
    assert run_id(1) not in removed.runs and run_id(2) in removed.runs
    assert champion_of(store).run_id == run_id(1)
    read_champion(store)
