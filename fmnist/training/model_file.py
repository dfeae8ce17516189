"""The file in which a network is published: load it safely, and predict with it."""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from fmnist.data.records import CLASSES, IMAGE_SHAPE, Bytes
from fmnist.errors import DamagedError

_BATCH = 5000
_LARGEST_UNPACKED = 512 * 2**20


def load_model(path: Path) -> keras.Model:
    """Read a published network. Code hidden in the file is refused, not run.

    Raises:
        DamagedError: the file is damaged, unpacks to more than a network of ours could, holds code
            or foreign classes, or takes or gives something else than `build` makes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > _LARGEST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
        network: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
        shapes = network.input_shape, network.output_shape
        if shapes != ((None, *IMAGE_SHAPE), (None, CLASSES)):
            raise ValueError(f"it maps {shapes[0]} to {shapes[1]}")
    # Whatever a file that somebody made up leads Keras into is a fault of that file.
    except Exception as error:
        # Keras wraps the reason in long configurations; it is what all began with.
        first: BaseException = error
        while earlier := first.__cause__ or first.__context__:
            first = earlier
        reason = " ".join(str(first).split())[:200] or type(first).__name__
        raise DamagedError(f"{path.name} holds no network of this project: {reason}") from error
    return network


def load_model_bytes(content: bytes) -> keras.Model:
    """Read a published network from the bytes of its file.

    Raises:
        DamagedError: as `load`.
    """
    with tempfile.TemporaryDirectory(prefix="fmnist-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path)


def scorer(images: Bytes) -> Callable[[bytes], npt.NDArray[np.float32]]:
    """What scores the bytes of a network's file on these images `(n, 28, 28)`; see `predict`."""
    return lambda content: predict(load_model_bytes(content), images)


def predict(network: keras.Model, images: Bytes) -> npt.NDArray[np.float32]:
    """Class probabilities `(n, 10)` for raw images `(n, 28, 28)` of 0..255."""
    probabilities: npt.NDArray[np.float32] = network.predict(images, batch_size=_BATCH, verbose=0)
    return probabilities
