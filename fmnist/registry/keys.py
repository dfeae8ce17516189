"""The keys of everything in a store, below its location.

runs/<run id>/...                   a run's files, each written once and never changed
runs/<run id>/manifest.json         written last: the size and SHA-256 of every other file
champion.json                       the current champion, and how it became that
history/<generation>.json           every earlier champion.json, byte for byte
verdicts/<run id>/<generation>-*    later decisions that did not promote a run
test-sets/<digest>.json             how many models this test set has judged
fingerprints/<fingerprint>.json     the latest run with this fingerprint
"""

MANIFEST = "manifest.json"
CHAMPION = "champion.json"
MODEL = "model.keras"
EVALUATION = "evaluation.json"
VERDICT = "verdict.json"
COMPARISON = "comparison.json"
DATA = "data.json"
TRAINING_DIGESTS = "training_images.digests"
SETTINGS = "settings.json"
RUNS = "runs/"
HISTORY = "history/"
VERDICTS = "verdicts/"
TEST_SETS = "test-sets/"
FINGERPRINTS = "fingerprints/"


def of_run(run_id: str, *name: str) -> str:
    """The key below which a run's files lie, or that of one of them by its name."""
    return "/".join((f"{RUNS}{run_id}", *name))


def of_generation(generation: int) -> str:
    """The key of an earlier champion record."""
    return f"{HISTORY}{generation:08d}.json"


def of_fingerprint(fingerprint: str) -> str:
    """The key of the object that names the latest run with this fingerprint."""
    return f"{FINGERPRINTS}{fingerprint}.json"
