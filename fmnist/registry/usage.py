"""Count how many models each test set has judged."""

from fmnist.registry import keys
from fmnist.registry.champion import always_overtaken, part_rivals
from fmnist.registry.records import FORMAT, LARGEST_RECORD, TestSetUsage, from_json, to_json
from fmnist.store.base import Conflict, Store

_ATTEMPTS = 50
_REMEMBERED = 100


def record_use(store: Store, test_set: str, run_id: str) -> int:
    """Count one more model that a test set has judged; returns the number so far.

    `test_set` is its digest. The same run is counted once, so it is safe to repeat.
    """
    key = f"{keys.TEST_SETS}{test_set}.json"
    for _ in range(_ATTEMPTS):
        usage, stored = TestSetUsage(FORMAT, 0, ()), store.get(key, LARGEST_RECORD)
        if stored:
            usage = from_json(TestSetUsage, stored.content, store.location(key))
        if run_id in usage.latest:
            return usage.models
        latest = (*usage.latest, run_id)[-_REMEMBERED:]
        counted = TestSetUsage(FORMAT, usage.models + 1, latest)
        try:
            store.compare_and_swap(key, stored.version if stored else None, to_json(counted))
        except Conflict:
            part_rivals()
            continue
        return counted.models
    raise always_overtaken(store.location(key), _ATTEMPTS)
