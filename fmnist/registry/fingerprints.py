"""Find the stored run that has the same fingerprint: one of the same data, settings and code.

`fingerprints/` holds one small object for each fingerprint. It only saves work: if it is missing,
damaged or names a run that has been removed, a model is trained once more.
"""

from fmnist.errors import DamagedError
from fmnist.registry import keys
from fmnist.registry.champion import current_champion
from fmnist.registry.records import FingerprintedRun, from_json, to_json
from fmnist.registry.runs import readable_run
from fmnist.store.base import Conflict, Store


def find_by_fingerprint(store: Store, fingerprint: str) -> FingerprintedRun | None:
    """The complete run with this fingerprint, unless it is being removed; three requests."""
    champion = current_champion(store)
    key = keys.of_fingerprint(fingerprint)
    content = store.read(key)
    if content is None:
        return None
    try:
        found = from_json(FingerprintedRun, content, store.location(key))
    except DamagedError:
        return None
    if champion and found.run_id in champion.retired:
        return None
    run = readable_run(store, found.run_id)
    return found if run and run.manifest.fingerprint == fingerprint else None


def record_fingerprint(store: Store, fingerprint: str, run: FingerprintedRun) -> None:
    """Record that this run, judged as it says, has this fingerprint."""
    key = keys.of_fingerprint(fingerprint)
    earlier = store.get(key)
    try:
        store.compare_and_swap(key, earlier.version if earlier else None, to_json(run))
    except Conflict:
        # Another run with this fingerprint was faster, and either will do.
        return
