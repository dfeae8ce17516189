import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from fmnist import model
from fmnist.config import ModelSettings


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return model.build(ModelSettings())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)


def test_the_network_is_the_one_promised(network: keras.Model) -> None:
    """784-256-128-64-10: Dense, BatchNormalization, LeakyReLU, Dropout; 244,554 parameters."""
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Dense", "BatchNormalization", "LeakyReLU", "Dropout"]
    assert kinds == ["InputLayer", "Rescaling", "Flatten", *block * 3, "Dense"]
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [256, 128, 64, 10]
    assert dense[0].kernel.shape == (784, 256)
    assert network.count_params() == 244_554
    assert network.layers[-1].activation is keras.activations.softmax
    assert all(
        layer.rate > 0 for layer in network.layers if isinstance(layer, keras.layers.Dropout)
    )


def test_pixels_are_scaled_to_0_to_1_and_flattened_inside(network: keras.Model) -> None:
    """Raw bytes go in; what the first Dense layer sees is 784 values of 0 to 1."""
    inside = keras.Model(network.inputs, network.get_layer("flatten").output)
    seen = np.asarray(inside(np.full((1, 28, 28), 255, np.float32)))
    assert seen.shape == (1, 784)
    assert seen == pytest.approx(np.ones((1, 784)))


def test_it_gives_ten_probabilities_for_each_image(
    network: keras.Model, images: np.ndarray
) -> None:
    """They are not negative and add up to 1."""
    probabilities = model.predict(network, images)
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
        model.predict(network, images), abs=1e-6
    )


def test_a_model_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    """A lambda hidden in a file is not run when it is loaded."""
    images = keras.Input((28, 28))
    keras.Model(images, keras.layers.Lambda(lambda x: x)(images)).save(tmp_path / "bad.keras")
    with pytest.raises(ValueError, match="Lambda"):
        model.load(tmp_path / "bad.keras")


def test_other_layers_can_be_asked_for() -> None:
    """The settings shape the network."""
    network = model.build(ModelSettings(hidden=(30, 20), dropout=(0.5, 0.0)))
    widths = [layer.units for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert widths == [30, 20, 10]
