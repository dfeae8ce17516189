"""Real networks as files, for processes that cannot afford TensorFlow: made by it, read by NumPy.

As a program, `python -m tests.faults.networks FOLDER`, it makes them: `good-1` to `good-3`, three
networks that mostly agree with the labels, `poor`, one that does not, and `large`, one of the size
that is published; and `test.npz` with the images, the labels and what each network predicts.
"""

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from fmnist.data.records import Bytes
from tests.support import records

IMAGES = 500
_EPSILON = 1e-3  # of Keras's batch normalisation
_SLOPE = 0.1  # of our LeakyReLU


def scorer(images: Bytes) -> Callable[[bytes], npt.NDArray[np.float32]]:
    """What `scorer` of `fmnist.training.model_file` gives, for files of this module's networks."""
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255

    def score(content: bytes) -> npt.NDArray[np.float32]:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as archive,
            h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
        ):
            layers = file["layers"]
            x, hidden = pixels, sum(name.startswith("dense") for name in layers) - 1
            for number in range(hidden):
                mark = f"_{number}" if number else ""
                weights, bias = _variables(layers[f"dense{mark}"])
                scale, shift, mean, variance = _variables(layers[f"batch_normalization{mark}"])
                x = (x @ weights + bias - mean) / np.sqrt(variance + _EPSILON) * scale + shift
                x = np.maximum(x, _SLOPE * x)
            weights, bias = _variables(layers[f"dense_{hidden}"])
        logits = x @ weights + bias
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: npt.NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
        return probabilities

    return score


def _variables(layer: h5py.Group) -> list[npt.NDArray[np.float32]]:
    variables = layer["vars"]
    return [variables[str(place)][()] for place in range(len(variables))]


def make(folder: Path) -> None:
    """Make the files with Keras."""
    import keras

    from fmnist.settings import ModelSettings
    from fmnist.training.model_file import predict
    from fmnist.training.network import build

    small = ModelSettings(hidden=(16,), dropout=(0.0,))
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    teacher = build(small, (28, 28), 10)
    images = records.drawn_images(IMAGES)
    centre = predict(teacher, images)
    # The rectangles are much alike: without this, one class would get nearly all of them.
    kernel, bias = teacher.layers[-1].get_weights()
    teacher.layers[-1].set_weights([kernel * 8, bias - 8 * np.log(centre).mean(axis=0)])
    labels = predict(teacher, images).argmax(axis=1).astype(np.uint8)
    networks = {"poor": build(small, (28, 28), 10), "large": build(ModelSettings(), (28, 28), 10)}
    for number in (1, 2, 3):
        network = build(small, (28, 28), 10)
        network.set_weights(
            [weights + random.normal(0, 0.001, weights.shape) for weights in teacher.get_weights()]
        )
        networks[f"good-{number}"] = network
    predicted = {}
    for name, network in networks.items():
        network.save(folder / f"{name}.keras")
        predicted[name] = predict(network, images).argmax(axis=1).astype(np.uint8)
    np.savez(folder / "test.npz", images=images, labels=labels, **predicted)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
