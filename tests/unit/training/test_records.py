"""The records of a training: what older versions stored stays readable."""

from fmnist.registry.records import from_json, to_json
from fmnist.training.records import TrainingResult
from tests.support import records
from tests.support.processes import ROOT


def test_a_training_stored_by_an_earlier_version_is_readable() -> None:
    """Its epochs' total had another name, and it had no image shape."""
    for path in (ROOT / "tests/support/earlier_store/runs").glob("*/training.json"):
        result = from_json(TrainingResult, path.read_bytes(), path.name)
        assert {epoch.total for epoch in result.history} == {4}
        assert result.image_shape == (28, 28)


def test_a_training_survives_being_stored() -> None:
    """What is read back is what was written."""
    result = records.training_result(epochs=3, best_epoch=2)
    assert from_json(TrainingResult, to_json(result), "training.json") == result
