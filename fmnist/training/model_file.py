"""The file in which a network is published: load it safely, and predict with it."""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from fmnist.data.records import Bytes, Probabilities
from fmnist.errors import DamagedError

# So small that a batch of a convolutional network's activations fits into memory.
_BATCH = 1000
_LARGEST_UNPACKED = 512 * 2**20


def load_model(path: Path) -> keras.Model:
    """Read a published network. Code hidden in the file is refused, not run.

    Raises:
        DamagedError: the file is damaged, unpacks to too much, holds code or foreign classes, or
            does not map images `(n, h, w)` to probabilities `(n, classes)`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > _LARGEST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
        network: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
        match network.input_shape, network.output_shape:
            case (None, int(), int()), (None, int()):
                return network
            case taken, given:
                raise ValueError(f"it maps {taken} to {given}")
    except Exception as error:  # whatever goes wrong in Keras is the file's fault
        # Keras wraps the reason in long configurations; the first exception has it.
        first: BaseException = error
        while earlier := first.__cause__ or first.__context__:
            first = earlier
        reason = " ".join(str(first).split())[:200] or type(first).__name__
        raise DamagedError(f"{path.name} holds no network of this project: {reason}") from error


def load_model_bytes(content: bytes) -> keras.Model:
    """What `load_model` reads, from the bytes of its file."""
    with tempfile.TemporaryDirectory(prefix="fmnist-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path)


def scorer(images: Bytes, classes: int) -> Callable[[bytes], Probabilities]:
    """A function from the bytes of a network's file to probabilities `(n, classes)` of the images.

    It raises a `DamagedError` too if the network takes other images or has other classes.
    """
    asked = " x ".join(map(str, images.shape[1:]))

    def score(content: bytes) -> Probabilities:
        network = load_model_bytes(content)
        (_, height, width), (_, known) = network.input_shape, network.output_shape
        if (height, width) != images.shape[1:]:
            raise DamagedError(f"its model takes {height} x {width} images, not {asked}")
        if known != classes:
            raise DamagedError(f"its model has {known} classes, not {classes}")
        return predict(network, images)

    return score


def predict(network: keras.Model, images: Bytes) -> Probabilities:
    """Class probabilities `(n, classes)` for raw images `(n, h, w)` of 0..255."""
    return np.asarray(network.predict(images, batch_size=_BATCH, verbose=0))
