"""The data set's files, and what the stages hand each other about them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
OFFICIAL_SHA256 = {
    TRAIN_IMAGES: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    TRAIN_LABELS: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    TEST_IMAGES: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    TEST_LABELS: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
CLASSES = 10
IMAGE_SHAPE = (28, 28)
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledImages:
    """Images `(n, 28, 28)` of 0..255 and their labels `(n,)` of 0..9, both uint8."""

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class DataOrigin:
    """Where the data come from, and which they are.

    `sha256` gives each file's digest by its standard name; `official` tells whether all four are
    the files that Zalando Research publishes.
    """

    source: str
    official: bool
    sha256: Mapping[str, str]

    @property
    def test_set(self) -> str:
        """A digest that tells this test set, images and labels, from every other."""
        both = self.sha256[TEST_IMAGES] + self.sha256[TEST_LABELS]
        return hashlib.sha256(both.encode()).hexdigest()


@dataclass(frozen=True)
class FetchedData:
    """The four verified files on this machine."""

    origin: DataOrigin
    train_images: Path
    train_labels: Path
    test_images: Path
    test_labels: Path


@dataclass(frozen=True)
class PreparedData:
    """Where the three sets lie (`.npz`, read with `load`), and how many images each has.

    The test set is a file of its own, so that nothing before the evaluation opens it.
    """

    train: Path
    validation: Path
    test: Path
    train_images: int
    validation_images: int
    test_images: int
