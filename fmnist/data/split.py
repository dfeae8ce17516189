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
from fmnist.data.records import Bytes, FetchedData, LabelledImages, PreparedData, Rows
from fmnist.data.statistics import describe_sets
from fmnist.errors import DataError, writing
from fmnist.settings import DataSettings, SplitSettings

_NEEDED = 2
_IMAGES, _LABELS = "images.npy", "labels.npy"
# Images that are copied at a time.
_PIECE = 8192


def split(labels: Bytes, settings: SplitSettings) -> tuple[Rows, Rows]:
    """Divide images with these labels `(n,)` into those to train on and those to validate with.

    Each class has the same proportions on both sides, and the same seed gives the same split. A
    class with too few images for both sides is refused.
    """
    shares = f"{1 - settings.validation:.0%} / {settings.validation:.0%}"
    refusal = f"the training images cannot be split {shares} by class"
    numbers, counts = np.unique(labels, return_counts=True)
    if alone := numbers[counts < _NEEDED].tolist():
        raise DataError(
            f"{refusal}: class {', '.join(map(str, alone))} has 1 image, but each class needs at "
            f"least {_NEEDED}, one for either side; add images, or leave the class out"
        )
    try:
        train, validation = train_test_split(
            np.arange(len(labels)),
            test_size=settings.validation,
            stratify=labels,
            random_state=settings.seed,
        )
    except ValueError as error:
        raise DataError(f"{refusal}: {error}") from error
    for side in (train, validation):
        if missing := sorted(set(numbers.tolist()) - set(np.unique(labels[side]).tolist())):
            least = math.ceil(1 / min(settings.validation, 1 - settings.validation))
            few = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            found = ", ".join(f"class {number} has {few[number]}" for number in missing)
            raise DataError(
                f"{refusal}: one side would have none of a class: {found} images, where {least} "
                "are enough; add images, or set split.validation nearer to 0.5"
            )
    return train, validation


def prepare_sets(
    fetched: FetchedData, data: DataSettings, settings: SplitSettings, folder: Path
) -> PreparedData:
    """Read and check the fetched files, split them, and write the three sets into `folder`.

    However many images there are, memory holds them once.
    """
    classes = len(data.class_names)
    everything = read_labelled_images(fetched.train_images, fetched.train_labels, classes)
    test = read_labelled_images(fetched.test_images, fetched.test_labels, classes)
    if test.images.shape[1:] != everything.images.shape[1:]:
        raise DataError(
            f"{fetched.test_images} has images of {size_text(test.images)} pixels, but "
            f"{fetched.train_images} of {size_text(everything.images)}; they must be the same size"
        )
    sides = split(everything.labels, settings)
    digests = digests_of(everything.images)
    duplicates = find_duplicates(
        np.concatenate([digests, digests_of(test.images)]),
        np.concatenate([everything.labels, test.labels]),
        len(everything),
    )
    report_duplicates(duplicates, len(test), data.max_leaked)
    paths = [folder / name for name in ("train", "validation", "test")]
    for data_set, rows, path in zip(
        (everything, everything, test), (*sides, np.arange(len(test))), paths, strict=True
    ):
        _save(data_set, rows, path)
    del everything, data_set
    train, validation = load_images(paths[0]), load_images(paths[1])
    return PreparedData(
        train=paths[0],
        validation=paths[1],
        test=paths[2],
        train_images=len(train),
        validation_images=len(validation),
        test_images=len(test),
        statistics=describe_sets(train, validation, test, data.class_names),
        duplicates=duplicates,
        training_digests=_save_digests(digests, folder / "training_images.digests"),
    )


def load_images(path: Path) -> LabelledImages:
    """One set that `prepare_sets` wrote. Its files are mapped into memory, not read at once."""
    images, labels = (np.load(path / name, mmap_mode="c") for name in (_IMAGES, _LABELS))
    return LabelledImages(np.asarray(images), np.asarray(labels))


def load_digests(path: Path) -> Digests:
    """Read the digests that `prepare_sets` wrote."""
    return unpack_digests(path.read_bytes(), str(path))


def _save_digests(digests: Digests, path: Path) -> Path:
    with writing(path, "set store.work to another folder"):
        path.write_bytes(pack_digests(digests))
    return path


def _save(data: LabelledImages, rows: Rows, folder: Path) -> None:
    """Write these rows as two files of NumPy's, a piece at a time."""
    with writing(folder, "set store.work to another folder"):
        folder.mkdir()
        np.save(folder / _LABELS, data.labels[rows])
        with (folder / _IMAGES).open("wb") as stream:
            shape = (len(rows), *data.images.shape[1:])
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(rows), _PIECE):
                stream.write(data[rows[start : start + _PIECE]].images.data)
