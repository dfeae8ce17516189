"""The file in which a network is published: load it safely, and predict with it."""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from fmnist.data.records import Bytes
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
                pass
            case taken, given:
                raise ValueError(f"it maps {taken} to {given}")
    # Whatever goes wrong in Keras while it reads the file is the file's fault.
    except Exception as error:
        # Keras wraps the reason in long configurations; the first exception has it.
        first: BaseException = error
        while earlier := first.__cause__ or first.__context__:
            first = earlier
        reason = " ".join(str(first).split())[:200] or type(first).__name__
        raise DamagedError(f"{path.name} holds no network of this project: {reason}") from error
    return network


def load_model_bytes(content: bytes) -> keras.Model:
    """Read a published network from the bytes of its file.

    Raises:
        DamagedError: as `load_model`.
    """
    with tempfile.TemporaryDirectory(prefix="fmnist-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path)


def scorer(images: Bytes, classes: int) -> Callable[[bytes], npt.NDArray[np.float32]]:
    """A function that scores a network, given as the bytes of its file, on images `(n, h, w)`.

    It returns probabilities `(n, classes)`, and raises a `DamagedError` if the network cannot be
    loaded, takes images of another shape, or has another number of classes.
    """

    def score(content: bytes) -> npt.NDArray[np.float32]:
        network = load_model_bytes(content)
        (_, height, width), (_, known) = network.input_shape, network.output_shape
        if (height, width) != images.shape[1:]:
            asked = " x ".join(map(str, images.shape[1:]))
            raise DamagedError(f"its model takes {height} x {width} images, not {asked}")
        if known != classes:
            raise DamagedError(f"its model has {known} classes, not {classes}")
        return predict(network, images)

    return score


def predict(network: keras.Model, images: Bytes) -> npt.NDArray[np.float32]:
    """Class probabilities `(n, classes)` for raw images `(n, h, w)` of 0..255."""
    probabilities: npt.NDArray[np.float32] = network.predict(images, batch_size=_BATCH, verbose=0)
    return probabilities
