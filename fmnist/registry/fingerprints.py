"""Find the stored run that has the same fingerprint: one of the same data, settings and code.

`fingerprints/` holds one small object for each fingerprint. It only saves work: if it is missing,
damaged or names a run that has been removed, a model is trained once more, and replaces it.
"""

from fmnist.errors import DamagedError
from fmnist.registry import keys
from fmnist.registry.champion import current_champion
from fmnist.registry.records import LARGEST_RECORD, FingerprintedRun, from_json, to_json
from fmnist.registry.runs import readable_run
from fmnist.store.base import Conflict, Store


def find_by_fingerprint(store: Store, fingerprint: str) -> FingerprintedRun | None:
    """The complete run with this fingerprint, unless it is being removed; three requests."""
    champion = current_champion(store)
    found = _read(store, keys.of_fingerprint(fingerprint))
    if found is None or (champion and found.run_id in champion.retired):
        return None
    run = readable_run(store, found.run_id)
    return found if run and run.manifest.fingerprint == fingerprint else None


def record_fingerprint(store: Store, fingerprint: str, run: FingerprintedRun) -> None:
    """Record that this run, judged as it says, has this fingerprint."""
    key = keys.of_fingerprint(fingerprint)
    earlier = store.get(key, LARGEST_RECORD)
    try:
        store.compare_and_swap(key, earlier.version if earlier else None, to_json(run))
    except Conflict:
        # Another run with this fingerprint was faster, and either will do.
        return


def forget_fingerprint(store: Store, run_id: str) -> None:
    """Let nobody find a run by its fingerprint any more, unless a later run has the same."""
    if (run := readable_run(store, run_id)) and run.manifest.fingerprint:
        key = keys.of_fingerprint(run.manifest.fingerprint)
        if (found := _read(store, key)) and found.run_id == run_id:
            store.delete(key)


def _read(store: Store, key: str) -> FingerprintedRun | None:
    try:
        content = store.read(key, LARGEST_RECORD)
        return from_json(FingerprintedRun, content, store.location(key)) if content else None
    except DamagedError:
        return None
