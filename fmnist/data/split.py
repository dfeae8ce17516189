"""From the four files to three sets of arrays: training, validation and test.

The images stay unsigned bytes here: scaling and flattening belong to the network, so that the
published model carries them.
"""

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from fmnist.data.idx import read_labelled_images
from fmnist.data.records import CLASSES, FetchedData, LabelledImages, PreparedData
from fmnist.errors import DataError, StoreError
from fmnist.settings import SplitSettings


def split(data: LabelledImages, settings: SplitSettings) -> tuple[LabelledImages, LabelledImages]:
    """Divide into training and validation, each with the classes in the same shares.

    The same seed gives the same division.

    Raises:
        DataError: too few images of a class to have some on both sides.
    """
    try:
        train, validation = train_test_split(
            np.arange(len(data)),
            test_size=settings.validation,
            stratify=data.labels,
            random_state=settings.seed,
        )
    except ValueError as error:
        raise DataError(
            f"the training images cannot be split {1 - settings.validation:.0%} / "
            f"{settings.validation:.0%} by class: {error}"
        ) from error
    for side in (train, validation):
        missing = sorted(set(range(CLASSES)) - set(data.labels[side].tolist()))
        if missing:
            raise DataError(
                f"the training images cannot be split {1 - settings.validation:.0%} / "
                f"{settings.validation:.0%} by class: too few of class "
                + ", ".join(map(str, missing))
            )
    return (
        LabelledImages(data.images[train], data.labels[train]),
        LabelledImages(data.images[validation], data.labels[validation]),
    )


def prepare_sets(fetched: FetchedData, settings: SplitSettings, folder: Path) -> PreparedData:
    """Read and check the fetched files, split them, and write the three sets into `folder`.

    Raises:
        DataError: the data are not fit to be used.
        StoreError: the folder cannot be written.
    """
    everything = read_labelled_images(fetched.train_images, fetched.train_labels)
    test = read_labelled_images(fetched.test_images, fetched.test_labels)
    train, validation = split(everything, settings)
    return PreparedData(
        train=_save(train, folder / "train.npz"),
        validation=_save(validation, folder / "validation.npz"),
        test=_save(test, folder / "test.npz"),
        train_images=len(train),
        validation_images=len(validation),
        test_images=len(test),
    )


def load_images(path: Path) -> LabelledImages:
    """Read one set that `preprocess` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return LabelledImages(arrays["images"], arrays["labels"])


def _save(data: LabelledImages, path: Path) -> Path:
    try:
        np.savez(path, images=data.images, labels=data.labels)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space, or set store.work to another folder"
        ) from error
    return path
