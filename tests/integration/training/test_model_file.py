import json
import logging
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from fmnist.errors import DamagedError
from fmnist.settings import ModelSettings
from fmnist.training.model_file import load_model_bytes, predict, save_model, scorer
from fmnist.training.network import build


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build(ModelSettings(), (28, 28), 10)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)


def test_the_default_network_has_the_promised_layers(network: keras.Model) -> None:
    """784-256-128-64-10: Dense, BatchNormalization, LeakyReLU, Dropout; 244,554 parameters."""
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Dense", "BatchNormalization", "LeakyReLU", "Dropout"]
    assert kinds == ["InputLayer", "Rescaling", "Flatten", *block * 3, "Dense"]
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [256, 128, 64, 10]
    assert dense[0].kernel.shape == (784, 256)
    assert network.count_params() == 244_554
    assert network.layers[-1].activation is keras.activations.softmax
    dropout = [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    assert all(layer.rate > 0 for layer in dropout)


def test_pixels_are_scaled_to_0_to_1_and_flattened_inside(network: keras.Model) -> None:
    """Raw bytes go in; what the first Dense layer sees is 784 values of 0 to 1."""
    inside = keras.Model(network.inputs, network.get_layer("flatten").output)
    seen = np.asarray(inside(np.full((1, 28, 28), 255, np.float32)))
    assert seen.shape == (1, 784)
    assert seen == pytest.approx(np.ones((1, 784)))


def test_each_image_gets_ten_probabilities(network: keras.Model, images: np.ndarray) -> None:
    probabilities = predict(network, images)
    assert probabilities.shape == (50, 10)
    assert (probabilities >= 0).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-5)


def test_the_file_loads_without_this_project_in_another_process(
    network: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    """Plain Keras reads it in safe mode and predicts the same, with no way to import fmnist."""
    network.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
sys.meta_path.insert(0, type("No", (), {"find_spec": staticmethod(
    lambda name, *_: exec("raise ImportError(name)") if name.startswith("fmnist") else None)}))
import keras, numpy
network = keras.models.load_model("model.keras", safe_mode=True)
numpy.save("probabilities.npy", network.predict(numpy.load("images.npy"), verbose=0))
assert not any(name.startswith("fmnist") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120)
    assert np.load(tmp_path / "probabilities.npy") == pytest.approx(
        predict(network, images), abs=1e-6
    )


def test_a_network_is_read_from_the_bytes_of_its_file(
    network: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It predicts what the one that was saved does, and no temporary file is needed for it."""
    network.save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    expected = predict(network, images)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert predict(load_model_bytes(content), images) == pytest.approx(expected, abs=1e-6)
    assert scorer(images, 10)(content) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DamagedError, match="model.keras holds no network"):
        scorer(images, 10)(content[:1000])


def test_the_same_network_gives_the_same_file_whenever_it_is_saved(
    network: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain Keras dates each file; ours are equal to the byte, and plain Keras reads them."""
    clock = time.time
    for name, later in (("today", 0), ("tomorrow", 86_400)):
        monkeypatch.setattr("time.time", lambda later=later: clock() + later)
        save_model(network, tmp_path / f"{name}.keras")
    content = (tmp_path / "today.keras").read_bytes()
    assert content == (tmp_path / "tomorrow.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "today.keras") as archive:
        assert {part.date_time for part in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("metadata.json"))["date_saved"].startswith("1980-01-01")
    loaded = keras.models.load_model(tmp_path / "today.keras", safe_mode=True)
    for saved, read in zip(network.get_weights(), loaded.get_weights(), strict=True):
        assert (saved == read).all()


def test_many_networks_can_be_scored_without_a_warning(
    network: keras.Model, images: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorFlow's about functions that are compiled again and again does not appear."""
    save_model(network, tmp_path / "model.keras")
    score = scorer(images, 10)
    logging.getLogger("tensorflow").propagate = True
    for _ in range(7):
        score((tmp_path / "model.keras").read_bytes())
    assert "retracing" not in caplog.text


@pytest.mark.parametrize(
    ("shape", "classes", "reason"),
    [
        ((32, 32), 10, "its model takes 28 x 28 images, not 32 x 32"),
        ((28, 28), 20, "its model has 10 classes, not 20"),
    ],
)
def test_a_network_for_other_data_is_not_scored(
    network: keras.Model, shape: tuple[int, int], classes: int, reason: str, tmp_path: Path
) -> None:
    """The error says what it takes and what it was given."""
    network.save(tmp_path / "model.keras")
    score = scorer(np.zeros((3, *shape), np.uint8), classes)
    with pytest.raises(DamagedError, match=reason):
        score((tmp_path / "model.keras").read_bytes())


def test_settings_and_data_shape_the_network() -> None:
    network = build(ModelSettings(hidden=(30, 20), dropout=(0.5, 0.0)), (32, 20), 5)
    widths = [layer.units for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert widths == [30, 20, 5]
    assert (network.input_shape, network.output_shape) == ((None, 32, 20), (None, 5))
