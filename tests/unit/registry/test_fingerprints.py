"""Finding the run that a training would repeat."""

import pytest

from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.champion import retire
from fmnist.registry.fingerprints import find_by_fingerprint, forget_fingerprint, record_fingerprint
from fmnist.registry.records import FORMAT, LARGEST_RECORD, FingerprintedRun, from_json, to_json
from tests.support.memory import MemoryStore
from tests.support.registry import once, put, run_id

SAME, OTHER = "5a" * 32, "0d" * 32


def use(number: int = 1) -> FingerprintedRun:
    return FingerprintedRun(FORMAT, run_id(number), 0.91, "9a" * 32, Verdict(True))


def test_the_latest_run_with_a_fingerprint_is_found_in_three_requests(store: MemoryStore) -> None:
    for number in (1, 2):
        put(store, number, fingerprint=SAME)
        record_fingerprint(store, SAME, use(number))
    assert find_by_fingerprint(store, SAME) == use(2)
    assert find_by_fingerprint(store, OTHER) is None


def test_a_run_that_is_not_complete_is_not_found(store: MemoryStore) -> None:
    """The object may outlive its run, or name one that was made differently."""
    record_fingerprint(store, SAME, use())
    assert find_by_fingerprint(store, SAME) is None
    put(store, 1, fingerprint=OTHER)
    assert find_by_fingerprint(store, SAME) is None


def test_a_run_is_forgotten_unless_a_later_one_has_its_fingerprint(store: MemoryStore) -> None:
    for number in (1, 2):
        put(store, number, fingerprint=SAME)
    put(store, 3)
    record_fingerprint(store, SAME, use(2))
    for number in (1, 3, 4):
        forget_fingerprint(store, run_id(number))
    assert find_by_fingerprint(store, SAME) == use(2)
    forget_fingerprint(store, run_id(2))
    assert find_by_fingerprint(store, SAME) is None and store.list_names(keys.FINGERPRINTS) == []


def test_a_run_without_a_fingerprint_is_not_found(store: MemoryStore) -> None:
    """Runs of earlier versions have none."""
    put(store, 1)
    record_fingerprint(store, SAME, use())
    assert find_by_fingerprint(store, SAME) is None


def test_a_run_that_is_being_removed_is_not_found(store: MemoryStore) -> None:
    put(store, 1, fingerprint=SAME)
    record_fingerprint(store, SAME, use())
    put(store, 2, promoted=True)
    retire(store, [run_id(1)], by="tests")
    assert find_by_fingerprint(store, SAME) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", to_json(use())[:-20]])
def test_a_damaged_object_is_not_found_and_is_replaced(content: bytes) -> None:
    """It costs one training, and nobody has to mend it."""
    store = MemoryStore()
    put(store, 1, fingerprint=SAME)
    store.put_if_absent(keys.of_fingerprint(SAME), content)
    assert find_by_fingerprint(store, SAME) is None
    record_fingerprint(store, SAME, use())
    assert find_by_fingerprint(store, SAME) == use()


def test_an_object_of_too_many_bytes_is_not_read(store: MemoryStore) -> None:
    """Not even if a record is in it."""
    put(store, 1, fingerprint=SAME)
    large = to_json(use()) + b" " * LARGEST_RECORD
    store.put_if_absent(keys.of_fingerprint(SAME), large)
    assert find_by_fingerprint(store, SAME) is None


def test_of_two_runs_at_once_either_is_found() -> None:
    store = MemoryStore()
    key = keys.of_fingerprint(SAME)
    once(store, "before", "compare_and_swap", key, lambda: record_fingerprint(store, SAME, use(1)))
    record_fingerprint(store, SAME, use(2))
    assert from_json(FingerprintedRun, store.objects[key], key) == use(1)
