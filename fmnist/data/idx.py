"""Read the data set's files and check that they are fit to train on.

Format (IDX, http://yann.lecun.com/exdb/mnist): two zero bytes, the element type (8: unsigned
byte), the number of dimensions, each dimension as a big-endian 32-bit integer, then the elements
row by row. Each file is gzip-compressed.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fmnist.data.records import Bytes, LabelledImages
from fmnist.errors import DataError

_UNSIGNED_BYTE = 8
# What gzip can compress a byte's worth of file from, at the most.
_MOST_PER_BYTE = 1032
_CHUNK = 2**24
_MIN_SIDE, _MAX_SIDE = 8, 256


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read a gzip-compressed IDX file of unsigned bytes with that many dimensions, and no other."""
    try:
        with gzip.open(path) as stream:
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0":
                start = header.hex() or "nothing"
                raise DataError(f"{path} is not an IDX file: it starts with {start}")
            if header[2] != _UNSIGNED_BYTE:
                kind = f"{header[2]:#04x}"
                raise DataError(f"{path} has elements of IDX type {kind}; it must be 0x08, a byte")
            if header[3] != dimensions:
                raise DataError(f"{path} has {header[3]} dimensions; it must have {dimensions}")
            raw_shape = stream.read(4 * dimensions)
            if len(raw_shape) < 4 * dimensions:
                raise DataError(f"{path} ends within its IDX header")
            shape = tuple(int(size) for size in np.frombuffer(raw_shape, ">u4"))
            size = math.prod(shape)
            if size > path.stat().st_size * _MOST_PER_BYTE:
                raise DataError(f"{path} claims to have {size:,} elements, more than is possible")
            elements, found = np.empty(size, np.uint8), 0
            while found < size and (part := stream.read(min(size - found, _CHUNK))):
                elements[found : found + len(part)] = np.frombuffer(part, np.uint8)
                found += len(part)
            if found < size:
                raise DataError(f"{path} has {found:,} elements; its header says {size:,}")
            if stream.read(1):
                raise DataError(f"{path} has more than the {size:,} elements that its header says")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return elements.reshape(shape)


def read_labelled_images(images_path: Path, labels_path: Path, classes: int) -> LabelledImages:
    """Read an images file and its labels file, and check that they are fit to use.

    There must be images of a usable size, not all identical, and one label for each; the labels
    must be exactly the numbers below `classes`.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if not all(_MIN_SIDE <= side <= _MAX_SIDE for side in images.shape[1:]):
        raise DataError(
            f"{images_path} has images of {size_text(images)} pixels; both sides must be "
            f"{_MIN_SIDE} to {_MAX_SIDE} pixels long"
        )
    if len(images) == 0:
        raise DataError(f"{images_path} has no images")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images):,} images, but {labels_path} {len(labels):,} labels"
        )
    named = f"data.class_names has {classes} names"
    if labels.max() >= classes:
        index = int(labels.argmax())
        raise DataError(
            f"{labels_path} has the label {labels[index]} at index {index}; labels must be "
            f"0 to {classes - 1}, since {named}"
        )
    if missing := sorted(set(range(classes)) - set(np.unique(labels).tolist())):
        numbers = ", ".join(map(str, missing))
        raise DataError(
            f"{labels_path} has no image of class {numbers}; every class needs one, and {named}"
        )
    if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images[1:]):
        raise DataError(f"{images_path}: all {len(images):,} images are identical")
    return LabelledImages(images, labels)


def size_text(images: Bytes) -> str:
    """The height and width of images, in words."""
    return " x ".join(map(str, images.shape[1:]))
