"""Count how many models each test set has judged."""

import random
import time

from fmnist.errors import StoreError
from fmnist.registry.champion import _LONGEST_PAUSE
from fmnist.registry.records import FORMAT, TestSetUsage, from_json, to_json
from fmnist.store.base import Conflict, Store

_COUNT_ATTEMPTS = 50
_REMEMBERED = 100


def record_use(store: Store, test_set: str, run_id: str) -> int:
    """Count one more model that this test set (a digest) has judged; the number so far.

    The same run is counted once, so that a repeat is harmless.

    Raises:
        DamagedError: the count cannot be read as such.
        StoreError: the store cannot be read or written.
    """
    key = f"test-sets/{test_set}.json"
    for _ in range(_COUNT_ATTEMPTS):
        stored = store.get(key)
        uses = (
            from_json(TestSetUsage, stored.content, store.location(key))
            if stored
            else TestSetUsage(FORMAT, 0, ())
        )
        if run_id in uses.latest:
            return uses.models
        latest = (*uses.latest, run_id)[-_REMEMBERED:]
        counted = TestSetUsage(FORMAT, uses.models + 1, latest)
        try:
            store.compare_and_swap(key, stored.version if stored else None, to_json(counted))
        except Conflict:
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - only to part the rivals
            continue
        return counted.models
    raise StoreError(
        f"{store.location(key)} was changed by others at each of {_COUNT_ATTEMPTS} attempts; try "
        "again later",
        retryable=True,
    )
