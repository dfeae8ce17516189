"""The file in which a network is published: write it, load it safely, and predict with it.

Networks are loaded in memory: no temporary file can be left behind, or find its disk full.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Keras's public functions load from paths only.
from keras.src.saving import saving_lib

from fmnist.data.records import Bytes, Probabilities
from fmnist.errors import DamagedError

# So small that a batch of a convolutional network's activations fits into memory.
_BATCH = 1000
_LARGEST_UNPACKED = 512 * 2**20
_MOST_VALUES = 2**20
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_NO_DATE = "1980-01-01@00:00:00"


def save_model(network: keras.Model, path: Path) -> None:
    """Save a network at `path` (`.keras`), so that the same network always gives the same bytes.

    Keras puts dates into the file, and objects' addresses in memory to tell which ones are shared.
    """
    network.save(path)
    with zipfile.ZipFile(path) as archive:
        contents = {part.filename: archive.read(part) for part in archive.infolist()}
    metadata = json.loads(contents[_METADATA])
    contents[_METADATA] = json.dumps(metadata | {"date_saved": _NO_DATE}).encode()
    numbers: dict[bytes, int] = {}
    contents[_CONFIG] = re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda found: b"%d" % numbers.setdefault(found[0], len(numbers) + 1),
        contents[_CONFIG],
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of 1 January 1980


def load_model_bytes(content: bytes) -> keras.Model:
    """Read a published network from the bytes of its file. Code hidden in it is refused, not run.

    Raises:
        DamagedError: the file is damaged, unpacks to too much, asks for more than its weights can
            fill, holds code or foreign classes, or does not map images `(n, h, w)` to
            probabilities `(n, classes)`.
    """
    try:
        _check_size(content)
        network: keras.Model = saving_lib.load_model(
            io.BytesIO(content), compile=False, safe_mode=True
        )
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
        raise DamagedError(f"model.keras holds no network of this project: {reason}") from error


def _check_size(content: bytes) -> None:
    """Raise a `ValueError` if the network would take more memory than its file accounts for."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {part.filename: part.file_size for part in archive.infolist()}
        if (unpacked := sum(sizes.values())) > _LARGEST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
        if extra := sizes.keys() - {_CONFIG, _METADATA, _WEIGHTS}:
            raise ValueError(f"it has a file {min(extra)!r}")
        config = json.loads(archive.read(_CONFIG))
    # In a graph of TensorFlow, weights are only described: none is made.
    with tf.Graph().as_default():
        network = keras.saving.deserialize_keras_object(config, safe_mode=True)
        parameters = network.count_params()
        if parameters > sizes.get(_WEIGHTS, 0):  # of one byte each, at the least
            raise ValueError(f"it asks for {parameters:,} parameters, but its weights are fewer")
        most = max(_values_per_image(network), default=0)
    if most > _MOST_VALUES:
        raise ValueError(f"one of its layers makes {most:,} values of an image")


def _values_per_image(network: keras.Model) -> Iterator[int]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _values_per_image(layer)
        for output in keras.tree.flatten(layer.output):
            yield int(np.prod([size or 1 for size in output.shape[1:]], dtype=np.float64))


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
    # Keras's own `predict` compiles each network, and warns after a few that this takes long.
    batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    return np.concatenate([network(batch, training=False) for batch in batches])
