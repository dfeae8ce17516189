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
# A pixel is one of them, from 0.
GREY_LEVELS = 256
Bytes = npt.NDArray[np.uint8]
# Which images are meant, by their place in a data set.
Rows = npt.NDArray[np.intp]
# Of a model's classes, `(n, classes)`.
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: uint8 `(n, height, width)`, 0 (background) to 255.
        labels: uint8 `(n,)`, class numbers from 0.
    """

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def __getitem__(self, rows: Rows) -> "LabelledImages":
        """The images at these places, in this order."""
        return LabelledImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class DataOrigin:
    """Which data they are, and where they came from.

    Attributes:
        source: the folder or address they came from, or `cache`.
        official: whether all four files are those that Zalando Research publishes.
        sha256: each file's digest in hexadecimal, by its standard name.
    """

    source: str
    official: bool
    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse an incomplete record."""
        if missing := [name for name in FILES if name not in self.sha256]:
            raise ValueError(f"no digest of {', '.join(missing)}")

    @property
    def test_set(self) -> str:
        """A digest that tells this test set, images and labels, from every other."""
        both = self.sha256[TEST_IMAGES] + self.sha256[TEST_LABELS]
        return hashlib.sha256(both.encode()).hexdigest()


@dataclass(frozen=True)
class FetchedData:
    """The four verified files on this machine.

    Attributes:
        origin: which data they are.
        train_images: IDX file, as the next three.
        train_labels: one label per training image.
        test_images: of the same height and width as the training images.
        test_labels: one label per test image.
    """

    origin: DataOrigin
    train_images: Path
    train_labels: Path
    test_images: Path
    test_labels: Path


@dataclass(frozen=True)
class Duplicates:
    """Images of a data set that occur more than once. Images are counted from 0.

    Attributes:
        leaked: how many test images are among the training images (before their split) too.
        leaked_named: up to ten of them in words, each with its training image.
        conflicting: how many images have the pixels of an earlier one, and another label.
        conflicting_named: up to ten of them in words, each with the earlier image.
    """

    leaked: int
    leaked_named: tuple[str, ...]
    conflicting: int
    conflicting_named: tuple[str, ...]


@dataclass(frozen=True)
class ClassStatistics:
    """One class in the three sets. The brightness of an image is the mean of its pixels.

    Attributes:
        name: the class's name.
        training: its number of images, as the next two.
        validation: in the validation set.
        test: in the test set.
        brightness: mean brightness of its training and validation images, 0 to 255.
        spread: standard deviation of the brightness of these images.
    """

    name: str
    training: int
    validation: int
    test: int
    brightness: float
    spread: float


@dataclass(frozen=True)
class DataStatistics:
    """What the three sets look like, as far as two data sets are compared by it.

    Attributes:
        classes: by class number; each has images to learn from and to test on.
        brightness: how many training and validation images have each brightness, rounded down to a
            whole number from 0 to 255.
        test_brightness: the same of the test images.
    """

    classes: tuple[ClassStatistics, ...]
    brightness: tuple[int, ...]
    test_brightness: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what no data set has."""
        if not all(one.training + one.validation > 0 and one.test > 0 for one in self.classes):
            raise ValueError("a class has no images")
        for counts in (self.brightness, self.test_brightness):
            if len(counts) != GREY_LEVELS or min(counts) < 0 or not any(counts):
                raise ValueError(f"brightness takes {GREY_LEVELS} counts of images")


@dataclass(frozen=True)
class ShareChange:
    """The share of one class in two data sets.

    Attributes:
        name: the class's name.
        before: its share in the champion's data.
        now: its share in this run's.
    """

    name: str
    before: float
    now: float


@dataclass(frozen=True)
class SetChange:
    """How one set of images differs from the champion's.

    Attributes:
        name: which set, in words.
        images_before: how many images the champion's has.
        images: how many this run's has.
        cramers_v: effect size of the change in class shares: 0 (none) to 1.
        shares_p_value: of the chi-squared test of homogeneity.
        most_changed: the classes whose shares changed most, the largest change first.
        brightness_before: mean brightness of the champion's images, in grey levels.
        brightness: of this run's.
        ks_distance: largest difference between the two cumulative distributions of brightness, the
            Kolmogorov-Smirnov statistic: 0 (none) to 1.
        brightness_p_value: of the Kolmogorov-Smirnov test.
    """

    name: str
    images_before: int
    images: int
    cramers_v: float
    shares_p_value: float
    most_changed: tuple[ShareChange, ...]
    brightness_before: float
    brightness: float
    ks_distance: float
    brightness_p_value: float


@dataclass(frozen=True)
class DataChange:
    """How a run's data differ from its champion's.

    Attributes:
        champion: the champion's run id.
        sets: the training and validation images, then the test images; empty if not compared.
        reason: why they were not compared, in words.
    """

    champion: str
    sets: tuple[SetChange, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class DataRecord(DataOrigin):
    """What a run keeps about its data. Older runs lack all but their origin.

    Attributes:
        duplicates: images that occur more than once.
        statistics: what the three sets look like.
        change: how they differ from the champion's; `None` if there was no champion.
    """

    duplicates: Duplicates | None = None
    statistics: DataStatistics | None = None
    change: DataChange | None = None


@dataclass(frozen=True)
class PreparedData:
    """The three sets on disk, read with `load_images`.

    Attributes:
        train: folder of the training set.
        validation: folder of the validation set.
        test: folder of the test set, apart so that nothing before the evaluation opens it.
        train_images: number of images, as the next two.
        validation_images: number of images in the validation set.
        test_images: number of images in the test set.
        statistics: what the sets look like.
        duplicates: images that occur more than once.
        training_digests: file of the digests of all training and validation images.
    """

    train: Path
    validation: Path
    test: Path
    train_images: int
    validation_images: int
    test_images: int
    statistics: DataStatistics
    duplicates: Duplicates
    training_digests: Path
