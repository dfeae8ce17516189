"""Recognise images that are the same, pixel by pixel, by a digest of eight bytes for each.

Among 70,000 images, two that differ have the same digest by accident once in 10^10 data sets.
"""

import hashlib
import logging

import numpy as np
import numpy.typing as npt

from fmnist.data.records import Bytes, Duplicates
from fmnist.errors import DamagedError, DataError

logger = logging.getLogger(__name__)

# Little-endian wherever they are made, since they are stored.
Digests = npt.NDArray[np.uint64]
# Which images are meant, `(n,)`.
Mask = npt.NDArray[np.bool_]
_DIGEST = np.dtype("<u8")
_NAMED = 10


def digests_of(images: Bytes) -> Digests:
    """A digest `(n,)` of the size and pixels of each of the images `(n, height, width)`."""
    size = np.array(images.shape[1:], "<u4").tobytes()
    made = bytearray()
    for pixels in np.ascontiguousarray(images.reshape(len(images), -1)):
        made += hashlib.blake2b(pixels, digest_size=_DIGEST.itemsize, salt=size).digest()
    return np.frombuffer(made, _DIGEST)


def pack_digests(digests: Digests) -> bytes:
    """The digests as a run keeps them: sorted, eight bytes each, little-endian."""
    return np.sort(digests).astype(_DIGEST).tobytes()


def unpack_digests(content: bytes, where: str) -> Digests:
    """The digests in such bytes, or a `DamagedError` that says `where` they are."""
    if len(content) % _DIGEST.itemsize:
        raise DamagedError(
            f"{where} cannot be read: {len(content):,} bytes are not a whole number of digests"
        )
    return np.frombuffer(content, _DIGEST)


def unseen(test: Digests, *trained_on: Digests | None) -> Mask | None:
    """Which test images no model was trained on, given the digests of what each was trained on.

    `None` if that is not known of one of them.
    """
    known = [digests for digests in trained_on if digests is not None]
    if len(known) < len(trained_on):
        return None
    return ~np.isin(test, np.concatenate(known))


def find_duplicates(digests: Digests, labels: Bytes, training: int) -> Duplicates:
    """Find the images that are the same, given the digests and labels `(n,)` of all.

    The first `training` of them are the training images before their split, the others the test
    images.
    """
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    earlier = first[group]
    leaked = training + np.flatnonzero(earlier[training:] < training)
    conflicting = np.flatnonzero(labels != labels[earlier])

    def name(place: int) -> str:
        is_test = place >= training
        return f"test image {place - training}" if is_test else f"training image {place}"

    return Duplicates(
        leaked=len(leaked),
        leaked_named=tuple(
            f"{name(place)} is {name(earlier[place])}" for place in leaked[:_NAMED].tolist()
        ),
        conflicting=len(conflicting),
        conflicting_named=tuple(
            f"{name(place)} has label {labels[place]}, but {name(earlier[place])} has "
            f"{labels[earlier[place]]}"
            for place in conflicting[:_NAMED].tolist()
        ),
    )


def report_duplicates(found: Duplicates, test_images: int, allowed: float) -> None:
    """Log the duplicates; a `DataError` if too large a share of the test images have leaked."""
    share = found.leaked / test_images
    if found.leaked:
        leaked = (
            f"{found.leaked:,} of the {test_images:,} test images ({share:.2%}) can be found "
            f"among the training images: {_listed(found.leaked_named, found.leaked)}"
        )
        if share > allowed:
            raise DataError(
                f"{leaked}; data.max_leaked allows {allowed:.2%}: remove them from either side"
            )
        logger.warning("%s", leaked)
    if found.conflicting:
        logger.warning(
            "identical images with different labels (%s): %s",
            f"{found.conflicting:,}",
            _listed(found.conflicting_named, found.conflicting),
        )


def _listed(named: tuple[str, ...], count: int) -> str:
    """The examples in a row, with dots if there are more."""
    return ", ".join(named) + (", ..." if count > len(named) else "")
