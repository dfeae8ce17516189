import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from fmnist.errors import DamagedError, ExitCode
from fmnist.settings import ModelSettings
from fmnist.training.model_file import load_model, load_model_bytes, predict, scorer
from fmnist.training.network import build


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build(ModelSettings(), (28, 28), 10)


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


# ---- files that are not to be trusted -----------------------------------------------------------


class Foreign(keras.layers.Layer):
    """A layer that nobody but its author has."""

    def call(self, x: object) -> object:
        """Do nothing."""
        return x


def saved(network: keras.Model, path: Path) -> None:
    network.save(path)


def has_code_in_it(path: Path) -> None:
    images = keras.Input((28, 28))
    saved(keras.Model(images, keras.layers.Lambda(lambda x: x)(images)), path)


def has_a_foreign_class(path: Path) -> None:
    images = keras.Input((28, 28))
    flat = keras.layers.Flatten()(Foreign()(images))
    saved(keras.Model(images, keras.layers.Dense(10)(flat)), path)


def takes_coloured_images(path: Path) -> None:
    images = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(images)
    saved(keras.Model(images, keras.layers.Dense(10)(flat)), path)


def gives_no_probabilities_of_classes(path: Path) -> None:
    images = keras.Input((28, 28))
    saved(keras.Model(images, keras.layers.Dense(11)(images)), path)


def takes_two_images(path: Path) -> None:
    images = [keras.Input((28, 28)), keras.Input((28, 28))]
    flat = keras.layers.Flatten()(keras.layers.Add()(images))
    saved(keras.Model(images, keras.layers.Dense(10)(flat)), path)


def is_cut_short(path: Path) -> None:
    saved(build(ModelSettings(), (28, 28), 10), path)
    path.write_bytes(path.read_bytes()[:-100])


def has_a_byte_turned(path: Path) -> None:
    saved(build(ModelSettings(hidden=(3,), dropout=(0.1,)), (28, 28), 10), path)
    content = bytearray(path.read_bytes())
    content[content.index(b'"module"')] ^= 1
    path.write_bytes(content)


def lacks_its_weights(path: Path) -> None:
    saved(build(ModelSettings(), (28, 28), 10), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in parts.keys() - {"model.weights.h5"}:
            archive.writestr(name, parts[name])


def is_no_archive(path: Path) -> None:
    path.write_bytes(b"weights" * 1000)


def is_empty(path: Path) -> None:
    path.write_bytes(b"")


def is_an_archive_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing to load\nin several lines")


def is_not_there(path: Path) -> None:
    """Nothing."""


BAD_FILES = {
    has_code_in_it: "Lambda",
    has_a_foreign_class: "Could not locate class",
    takes_coloured_images: "it maps (None, 32, 32, 3) to (None, 10)",
    gives_no_probabilities_of_classes: "it maps (None, 28, 28) to (None, 28, 11)",
    takes_two_images: "it maps",
    is_cut_short: "",
    has_a_byte_turned: "",
    lacks_its_weights: "",
    is_no_archive: "not a zip file",
    is_empty: "not a zip file",
    is_an_archive_of_something_else: "",
    is_not_there: "No such file",
}


@pytest.mark.parametrize(
    ("make", "told"), BAD_FILES.items(), ids=[make.__name__ for make in BAD_FILES]
)
def test_a_file_that_is_no_network_of_this_project_is_refused(
    make: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    """Whatever is wrong with it, it is damage, told in one line with the reason."""
    make(tmp_path / "bad.keras")
    with pytest.raises(DamagedError, match="bad.keras holds no network of this project") as caught:
        load_model(tmp_path / "bad.keras")
    message = str(caught.value)
    assert told in message
    assert "\n" not in message and len(message) < 400 and not message.endswith(": ")
    assert caught.value.exit_code == ExitCode.DAMAGED and not caught.value.retryable


def test_code_in_a_model_file_is_not_run(tmp_path: Path) -> None:
    """A lambda that would leave a trace when it is called leaves none."""
    trace = tmp_path / "trace"
    images = keras.Input((28, 28))
    leave = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("trace").touch(), x)[1])
    saved(keras.Model(images, leave(images)), tmp_path / "bad.keras")
    trace.unlink()
    with pytest.raises(DamagedError, match="Lambda"):
        load_model(tmp_path / "bad.keras")
    assert not trace.exists()


def test_a_file_that_unpacks_to_far_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that would fill memory or disk is refused by what its directory announces."""
    monkeypatch.setattr("fmnist.training.model_file._LARGEST_UNPACKED", 10 * 2**20)
    path = tmp_path / "bomb.keras"
    saved(build(ModelSettings(), (28, 28), 10), path)
    load_model(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * (10 * 2**20))

    def unpack(*_: object, **__: object) -> None:
        pytest.fail("it was unpacked")

    monkeypatch.setattr("keras.models.load_model", unpack)
    with pytest.raises(DamagedError, match="unpacks to 1[0-9],[0-9]{3},[0-9]{3} bytes"):
        load_model(path)


# ---- networks as bytes --------------------------------------------------------------------------


def test_a_network_is_read_from_the_bytes_of_its_file(
    network: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It predicts what the one that was saved does, and leaves no file behind, bad bytes neither."""
    network.save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    expected = predict(network, images)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert predict(load_model_bytes(content), images) == pytest.approx(expected, abs=1e-6)
    assert scorer(images, 10)(content) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DamagedError, match="model.keras holds no network"):
        scorer(images, 10)(content[:1000])
    assert list(temporary.iterdir()) == []


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
    """Its layers are those of the settings; its input and output follow the data."""
    network = build(ModelSettings(hidden=(30, 20), dropout=(0.5, 0.0)), (32, 20), 5)
    widths = [layer.units for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert widths == [30, 20, 5]
    assert (network.input_shape, network.output_shape) == ((None, 32, 20), (None, 5))
