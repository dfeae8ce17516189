"""The count of the models that a test set has judged."""

import pytest

from fmnist.errors import DamagedError, StoreError
from fmnist.registry.records import FORMAT, TestSetUsage, from_json
from fmnist.registry.usage import _REMEMBERED, record_use
from fmnist.store.base import Conflict
from tests.support.memory import MemoryStore
from tests.support.registry import once


def test_each_run_is_counted_once() -> None:
    """A repeat changes nothing, and test sets are counted apart."""
    store = MemoryStore()
    assert [record_use(store, "ab", run_id) for run_id in "aabbca"] == [1, 1, 2, 2, 3, 3]
    assert record_use(store, "cd", "a") == 1
    uses = from_json(TestSetUsage, store.objects["test-sets/ab.json"], "here")
    assert uses == TestSetUsage(FORMAT, 3, ("a", "b", "c"))


def test_the_count_grows_beyond_the_runs_that_it_remembers() -> None:
    store = MemoryStore()
    for number in range(_REMEMBERED + 5):
        assert record_use(store, "ab", f"run-{number}") == number + 1
    assert len(from_json(TestSetUsage, store.objects["test-sets/ab.json"], "here").latest) == 100


def test_two_counters_at_the_same_time_are_both_counted() -> None:
    """Who is overtaken counts on from the new number; a lost reply is not counted twice."""
    store = MemoryStore()
    key = "test-sets/ab.json"
    once(store, "before", "compare_and_swap", key, lambda: record_use(store, "ab", "rival"))
    assert record_use(store, "ab", "mine") == 2

    def refuse() -> None:
        record_use(store, "ab", "another")
        raise Conflict("the retried request was refused")

    once(store, "after", "compare_and_swap", key, refuse)
    assert record_use(store, "ab", "next") == 4
    uses = from_json(TestSetUsage, store.objects[key], "here")
    assert uses == TestSetUsage(FORMAT, 4, ("rival", "mine", "next", "another"))


def test_a_counter_that_always_loses_ends() -> None:
    """After a bounded number of attempts it is a temporary failure."""
    store = MemoryStore()

    def overtake() -> None:
        record_use(store, "ab", f"rival-{len(store.writes)}")
        once(store, "before", "compare_and_swap", "test-sets/ab.json", overtake)

    once(store, "before", "compare_and_swap", "test-sets/ab.json", overtake)
    with pytest.raises(StoreError, match="at each of 50 attempts") as caught:
        record_use(store, "ab", "mine")
    assert caught.value.retryable


def test_a_damaged_count_is_named() -> None:
    store = MemoryStore()
    store.objects["test-sets/ab.json"] = b'{"format": 2, "models": -1, "latest": []}'
    with pytest.raises(DamagedError, match="memory/test-sets/ab.json"):
        record_use(store, "ab", "one")
    assert store.writes == []
