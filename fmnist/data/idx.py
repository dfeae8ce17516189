"""Read the data set's files, and check that they are fit to train on.

Format (IDX, http://yann.lecun.com/exdb/mnist): two zero bytes, the element type (8: unsigned
byte), the number of dimensions, each dimension as a big-endian 32-bit integer, then the elements
row by row. Each file is gzip-compressed.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fmnist.data.records import CLASSES, IMAGE_SHAPE, Bytes, LabelledImages
from fmnist.errors import DataError

_UNSIGNED_BYTE = 8
_LARGEST_FILE = 2**31
_CHUNK = 2**24


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read a gzip-compressed IDX file of unsigned bytes with that many dimensions.

    Raises:
        DataError: not whole, not gzip, not IDX, another type or number of dimensions, or more or
            fewer elements than its header says.
    """
    try:
        with gzip.open(path) as stream:
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0":
                raise DataError(
                    f"{path} is no IDX file: it starts with {header.hex() or 'nothing'}"
                )
            if header[2] != _UNSIGNED_BYTE:
                raise DataError(
                    f"{path} holds elements of IDX type {header[2]:#04x}; "
                    "unsigned bytes (0x08) are needed"
                )
            if header[3] != dimensions:
                raise DataError(f"{path} has {header[3]} dimensions; {dimensions} are needed")
            raw_shape = stream.read(4 * dimensions)
            if len(raw_shape) < 4 * dimensions:
                raise DataError(f"{path} ends within its IDX header")
            shape = tuple(int(size) for size in np.frombuffer(raw_shape, ">u4"))
            size = math.prod(shape)
            if size > _LARGEST_FILE:
                raise DataError(f"{path} claims {size:,} bytes of elements: too many to be true")
            elements = _read(stream, size)
            if len(elements) < size:
                raise DataError(
                    f"{path} holds {len(elements):,} elements; its header says {size:,}"
                )
            if stream.read(1):
                raise DataError(f"{path} goes on after the {size:,} elements its header says")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return np.frombuffer(elements, np.uint8).reshape(shape)


def _read(stream: gzip.GzipFile, size: int) -> bytes:
    """Up to `size` bytes; what a lying header claims is not reserved before it is there."""
    parts = []
    while size and (part := stream.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_labelled_images(images_path: Path, labels_path: Path) -> LabelledImages:
    """Read an images file and its labels file, and check that they are fit to be used.

    Raises:
        DataError: as `read_idx`; or the images are not 28 x 28, none or all alike; or the labels
            are not one for each image, not all 0..9, or lack a class.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != IMAGE_SHAPE:
        found = " x ".join(map(str, images.shape[1:]))
        raise DataError(f"{images_path} has images of {found} pixels; 28 x 28 are needed")
    if len(images) == 0:
        raise DataError(f"{images_path} has no images")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images):,} images, but {labels_path} {len(labels):,} labels"
        )
    if labels.max() >= CLASSES:
        place = int(labels.argmax())
        raise DataError(
            f"{labels_path} has the label {labels[place]} at {place}; labels are 0 to {CLASSES - 1}"
        )
    missing = sorted(set(range(CLASSES)) - set(np.unique(labels).tolist()))
    if missing:
        names = ", ".join(map(str, missing))
        raise DataError(f"{labels_path} has no image of class {names}; every class is needed")
    if len(images) > 1 and (images == images[0]).all():
        raise DataError(f"{images_path}: all {len(images):,} images are alike")
    return LabelledImages(images, labels)
