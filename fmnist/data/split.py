"""From the four files to three sets of arrays: training, validation and test.

The images stay unsigned bytes: scaling and flattening belong to the network, so that the published
model includes them.
"""

import math
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from fmnist.data.duplicates import (
    Digests,
    digests_of,
    find_duplicates,
    pack_digests,
    report_duplicates,
    unpack_digests,
)
from fmnist.data.idx import read_labelled_images, size_text
from fmnist.data.records import FetchedData, LabelledImages, PreparedData
from fmnist.data.statistics import describe_sets
from fmnist.errors import DataError, writing
from fmnist.settings import DataSettings, SplitSettings

_NEEDED = 2


def split(data: LabelledImages, settings: SplitSettings) -> tuple[LabelledImages, LabelledImages]:
    """Divide into training and validation, each class in the same proportions on both sides.

    The same seed gives the same split. A class with too few images for both sides is refused.
    """
    shares = f"{1 - settings.validation:.0%} / {settings.validation:.0%}"
    refusal = f"the training images cannot be split {shares} by class"
    numbers, counts = np.unique(data.labels, return_counts=True)
    if alone := numbers[counts < _NEEDED].tolist():
        raise DataError(
            f"{refusal}: class {', '.join(map(str, alone))} has 1 image, but each class needs at "
            f"least {_NEEDED}, one for either side; add images, or leave the class out"
        )
    try:
        sides = train_test_split(
            np.arange(len(data)),
            test_size=settings.validation,
            stratify=data.labels,
            random_state=settings.seed,
        )
    except ValueError as error:
        raise DataError(f"{refusal}: {error}") from error
    classes = set(data.labels.tolist())
    for side in sides:
        if missing := sorted(classes - set(data.labels[side].tolist())):
            least = math.ceil(1 / min(settings.validation, 1 - settings.validation))
            few = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            found = ", ".join(f"class {number} has {few[number]}" for number in missing)
            raise DataError(
                f"{refusal}: one side would have none of a class: {found} images, where {least} "
                "are enough; add images, or set split.validation nearer to 0.5"
            )
    train, validation = (LabelledImages(data.images[side], data.labels[side]) for side in sides)
    return train, validation


def prepare_sets(
    fetched: FetchedData, data: DataSettings, settings: SplitSettings, folder: Path
) -> PreparedData:
    """Read and check the fetched files, split them, and write the three sets into `folder`."""
    classes = len(data.class_names)
    everything = read_labelled_images(fetched.train_images, fetched.train_labels, classes)
    test = read_labelled_images(fetched.test_images, fetched.test_labels, classes)
    if test.images.shape[1:] != everything.images.shape[1:]:
        raise DataError(
            f"{fetched.test_images} has images of {size_text(test.images)} pixels, but "
            f"{fetched.train_images} of {size_text(everything.images)}; they must be the same size"
        )
    train, validation = split(everything, settings)
    digests = digests_of(everything.images)
    duplicates = find_duplicates(
        np.concatenate([digests, digests_of(test.images)]),
        np.concatenate([everything.labels, test.labels]),
        len(everything),
    )
    report_duplicates(duplicates, len(test), data.max_leaked)
    return PreparedData(
        train=_save(train, folder / "train.npz"),
        validation=_save(validation, folder / "validation.npz"),
        test=_save(test, folder / "test.npz"),
        train_images=len(train),
        validation_images=len(validation),
        test_images=len(test),
        statistics=describe_sets(train, validation, test, data.class_names),
        duplicates=duplicates,
        training_digests=_save_digests(digests, folder / "training_images.digests"),
    )


def load_images(path: Path) -> LabelledImages:
    """Read one set that `prepare_sets` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return LabelledImages(arrays["images"], arrays["labels"])


def load_digests(path: Path) -> Digests:
    """Read the digests that `prepare_sets` wrote."""
    return unpack_digests(path.read_bytes(), str(path))


def _save_digests(digests: Digests, path: Path) -> Path:
    with writing(path, "set store.work to another folder"):
        path.write_bytes(pack_digests(digests))
    return path


def _save(data: LabelledImages, path: Path) -> Path:
    with writing(path, "set store.work to another folder"):
        np.savez(path, images=data.images, labels=data.labels)
    return path
