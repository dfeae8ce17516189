"""The IDX reader and the checks on the data: every known fault is found and named."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fmnist.data.idx import read_idx, read_labelled_images
from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, LabelledImages
from fmnist.errors import DataError, ExitCode

TRAIN_SIZE, TEST_SIZE = 40, 20

Files = dict[str, bytes | None]
"""What lies in the folder under each name; `None` is a folder in the file's place."""


def header(*shape: int, element_type: int = 8) -> bytes:
    """The start of an IDX file."""
    return struct.pack(f">HBB{len(shape)}I", 0, element_type, len(shape), *shape)


def idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as a compressed IDX file."""
    return gzip.compress(header(*array.shape) + array.astype(np.uint8).tobytes(), 1, mtime=0)


def some_images(count: int) -> np.ndarray:
    """Images of noise, so that no two are alike."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)


def some_labels(count: int) -> np.ndarray:
    """Every class equally often."""
    return np.arange(count, dtype=np.uint8) % 10


def good_files() -> Files:
    """Four small files without a fault."""
    return {
        TRAIN_IMAGES: idx(some_images(TRAIN_SIZE)),
        TRAIN_LABELS: idx(some_labels(TRAIN_SIZE)),
        TEST_IMAGES: idx(some_images(TEST_SIZE)),
        TEST_LABELS: idx(some_labels(TEST_SIZE)),
    }


def write(files: Files, folder: Path) -> None:
    """Lay the files down."""
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def read_all(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Read the training and the test set as the job does."""
    return (
        read_labelled_images(folder / TRAIN_IMAGES, folder / TRAIN_LABELS, 10),
        read_labelled_images(folder / TEST_IMAGES, folder / TEST_LABELS, 10),
    )


@dataclass(frozen=True)
class Fault:
    """One kind of bad data: how it comes about, the file it is in, and what must be said of it."""

    kind: str
    file: str
    found: tuple[str, ...]
    spoil: Callable[[Files], None]


def altered(kind: str, file: str, change: Callable[[bytes], bytes | None], *found: str) -> Fault:
    """A fault made by changing the compressed bytes of one file."""

    def spoil(files: Files) -> None:
        content = files[file]
        assert content is not None
        files[file] = change(content)

    return Fault(kind, file, found, spoil)


def holding(kind: str, file: str, content: bytes, *found: str) -> Fault:
    """A fault in what one file holds, in a compressed file that is whole."""
    return altered(kind, file, lambda _: gzip.compress(content, mtime=0), *found)


def array(kind: str, file: str, content: np.ndarray, *found: str) -> Fault:
    """A fault in the values or shape of one file, in an IDX file that is whole."""
    return altered(kind, file, lambda _: idx(content), *found)


def flipped(content: bytes, place: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def swap(files: Files) -> None:
    """Put the training images and labels in each other's place."""
    files[TRAIN_IMAGES], files[TRAIN_LABELS] = files[TRAIN_LABELS], files[TRAIN_IMAGES]


def labels_with(place: int, value: int) -> np.ndarray:
    """The good training labels but for one."""
    labels = some_labels(TRAIN_SIZE)
    labels[place] = value
    return labels


def labels_without(missing: int, count: int) -> np.ndarray:
    """Labels in which one class is always given as the next."""
    labels = some_labels(count)
    labels[labels == missing] = (missing + 1) % 10
    return labels


PIXELS = TRAIN_SIZE * 28 * 28

FAULTS = [
    altered(
        "truncated-gzip", TRAIN_IMAGES, lambda raw: raw[: len(raw) // 2], "not a complete gzip"
    ),
    altered(
        "gzip-without-its-last-bytes", TEST_LABELS, lambda raw: raw[:-4], "not a complete gzip"
    ),
    altered(
        "not-gzip", TRAIN_LABELS, lambda _: b"<html>Not found</html>", "not a complete gzip", "<h"
    ),
    altered("bytes-after-the-gzip", TEST_IMAGES, lambda raw: raw + b"junk", "not a complete gzip"),
    altered("bad-crc", TRAIN_IMAGES, lambda raw: flipped(raw, -8), "not a complete gzip", "CRC"),
    altered("bad-length-in-gzip", TEST_IMAGES, lambda raw: flipped(raw, -1), "not a complete gzip"),
    altered(
        "damaged-in-the-middle",
        TRAIN_IMAGES,
        lambda raw: flipped(raw, len(raw) // 2),
        "not a complete gzip",
    ),
    altered("empty-file", TRAIN_IMAGES, lambda _: b"", "not an IDX file", "nothing"),
    altered("folder-in-its-place", TEST_LABELS, lambda _: None, "cannot be read", "directory"),
    Fault(
        "missing-file",
        TEST_IMAGES,
        ("cannot be read", "No such file"),
        lambda files: files.pop(TEST_IMAGES) and None,
    ),
    holding("empty-within-the-gzip", TRAIN_LABELS, b"", "not an IDX file", "nothing"),
    holding(
        "wrong-magic-bytes", TEST_IMAGES, b"\x89PNG" + bytes(99), "not an IDX file", "89504e47"
    ),
    altered(
        "compressed-twice",
        TRAIN_LABELS,
        lambda raw: gzip.compress(raw, mtime=0),
        "not an IDX file",
        "1f8b",
    ),
    holding(
        "wrong-element-type",
        TRAIN_LABELS,
        header(TRAIN_SIZE, element_type=0x0D) + bytes(4 * TRAIN_SIZE),
        "0x0d",
    ),
    holding(
        "wrong-number-of-dimensions",
        TRAIN_IMAGES,
        header(TRAIN_SIZE, 28 * 28) + bytes(PIXELS),
        "2 dimensions",
        "must have 3",
    ),
    holding("first-four-bytes-cut", TEST_LABELS, header(1)[:3], "not an IDX file", "000008"),
    holding("header-cut-off", TEST_IMAGES, header(TEST_SIZE, 28, 28)[:10], "IDX header"),
    holding(
        "fewer-elements",
        TRAIN_IMAGES,
        header(TRAIN_SIZE, 28, 28) + bytes(PIXELS - 1),
        f"{PIXELS - 1:,}",
        f"{PIXELS:,}",
    ),
    holding(
        "more-elements",
        TEST_LABELS,
        header(TEST_SIZE) + some_labels(TEST_SIZE + 1).tobytes(),
        "more than the",
        f"{TEST_SIZE}",
    ),
    holding("absurd-size", TRAIN_LABELS, header(2**32 - 1) + bytes(99), "4,294,967,295"),
    holding(
        "absurd-size-that-overflows-64-bits",
        TRAIN_IMAGES,
        header(2**31, 2**31, 2**31) + bytes(99),
        f"{2**93:,}",
    ),
    array("too-low", TRAIN_IMAGES, np.zeros((TRAIN_SIZE, 7, 28)), "7 x 28", "8 to 256 pixels"),
    array("too-wide", TEST_IMAGES, np.zeros((TEST_SIZE, 28, 257)), "28 x 257", "8 to 256 pixels"),
    array("zero-images", TEST_IMAGES, np.zeros((0, 28, 28)), "no images"),
    array(
        "one-image-less-than-labels",
        TRAIN_IMAGES,
        some_images(TRAIN_SIZE - 1),
        f"{TRAIN_SIZE - 1} images",
        TRAIN_LABELS,
        f"{TRAIN_SIZE} labels",
    ),
    array("no-labels", TEST_LABELS, np.zeros(0), f"{TEST_SIZE} images", "0 labels"),
    array(
        "label-10",
        TRAIN_LABELS,
        labels_with(7, 10),
        "label 10 at index 7",
        "data.class_names has 10 names",
    ),
    array("label-255", TRAIN_LABELS, labels_with(39, 255), "label 255 at index 39"),
    array(
        "class-missing-in-train", TRAIN_LABELS, labels_without(6, TRAIN_SIZE), "class 6", "10 names"
    ),
    array("class-missing-in-test", TEST_LABELS, labels_without(9, TEST_SIZE), "class 9"),
    array("all-labels-identical", TEST_LABELS, np.full(TEST_SIZE, 3), "class 0, 1, 2, 4, 5"),
    array(
        "all-images-identical", TEST_IMAGES, np.full((TEST_SIZE, 28, 28), 9), "all 20", "identical"
    ),
    array("all-images-black", TRAIN_IMAGES, np.zeros((TRAIN_SIZE, 28, 28)), "all 40", "identical"),
    Fault("images-and-labels-swapped", TRAIN_IMAGES, ("1 dimensions", "must have 3"), swap),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_every_kind_of_bad_data_is_refused_by_name(fault: Fault, tmp_path: Path) -> None:
    """Bad data of this kind end in a DataError that names the file and what was found in it."""
    files = good_files()
    fault.spoil(files)
    write(files, tmp_path)
    with pytest.raises(DataError) as caught:
        read_all(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / fault.file) in message
    for found in fault.found:
        assert found in message
    assert not caught.value.retryable
    assert caught.value.exit_code == ExitCode.DATA


def test_good_files_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Every pixel and label of a good file is read in its place, as unsigned bytes."""
    write(good_files(), tmp_path)
    train, test = read_all(tmp_path)
    for data, size in ((train, TRAIN_SIZE), (test, TEST_SIZE)):
        assert len(data) == size
        np.testing.assert_array_equal(data.images, some_images(size))
        np.testing.assert_array_equal(data.labels, some_labels(size))
        assert data.images.dtype == data.labels.dtype == np.uint8


def test_a_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    """A file that was compressed in pieces, as parallel compressors do, is read to its end."""
    whole = header(3) + b"\x01\x02\x03"
    (tmp_path / "pieces.gz").write_bytes(gzip.compress(whole[:5]) + gzip.compress(whole[5:]))
    assert read_idx(tmp_path / "pieces.gz", 1).tolist() == [1, 2, 3]


def test_a_single_image_is_not_called_identical(tmp_path: Path) -> None:
    """One image alone is refused for its missing classes, not for being like itself."""
    (tmp_path / "images").write_bytes(idx(some_images(1)))
    (tmp_path / "labels").write_bytes(idx(np.array([4])))
    with pytest.raises(DataError, match="class 0, 1, 2, 3, 5, 6, 7, 8, 9"):
        read_labelled_images(tmp_path / "images", tmp_path / "labels", 10)


@pytest.mark.parametrize("height", [8, 32, 256])
@pytest.mark.parametrize("width", [8, 40, 256])
@pytest.mark.parametrize("classes", [2, 5])
def test_size_and_classes_come_from_the_data(
    height: int, width: int, classes: int, tmp_path: Path
) -> None:
    """Images of 8 to 256 pixels a side are read, with as many classes as there are names."""
    images = np.random.default_rng(0).integers(0, 256, (10, height, width), np.uint8)
    (tmp_path / "images").write_bytes(idx(images))
    (tmp_path / "labels").write_bytes(idx(np.arange(10) % classes))
    data = read_labelled_images(tmp_path / "images", tmp_path / "labels", classes)
    np.testing.assert_array_equal(data.images, images)
    with pytest.raises(DataError, match=f"no image of class {classes}; .* {classes + 1} names"):
        read_labelled_images(tmp_path / "images", tmp_path / "labels", classes + 1)
