"""The IDX reader and the checks on the data: every known fault is found and named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fmnist.data.idx import read_idx, read_labelled_images
from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, LabelledImages
from fmnist.errors import DataError, ExitCode
from tests.support.mirrors import header, idx, write

TRAIN_SIZE, TEST_SIZE = 40, 20
PIXELS = TRAIN_SIZE * 28 * 28
Change = Callable[[bytes], bytes]


def some_images(count: int) -> np.ndarray:
    """Images of noise, so that no two are alike."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)


def some_labels(count: int) -> np.ndarray:
    """Every class equally often."""
    return np.arange(count, dtype=np.uint8) % 10


def write_good_files(folder: Path) -> None:
    """Write four small files without a fault."""
    for size, images, labels in (
        (TRAIN_SIZE, TRAIN_IMAGES, TRAIN_LABELS),
        (TEST_SIZE, TEST_IMAGES, TEST_LABELS),
    ):
        write({images: idx(some_images(size)), labels: idx(some_labels(size))}, folder)


def read_all(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Read the training and the test set as the job does."""
    return (
        read_labelled_images(folder / TRAIN_IMAGES, folder / TRAIN_LABELS, 10),
        read_labelled_images(folder / TEST_IMAGES, folder / TEST_LABELS, 10),
    )


def holding(*content: bytes) -> Change:
    """Replace what the compressed file holds."""
    return lambda _: gzip.compress(b"".join(content), mtime=0)


def array(content: np.ndarray) -> Change:
    """Replace the values and the shape of an IDX file."""
    return lambda _: idx(content)


def flipping(place: int) -> Change:
    def flip(raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[place] ^= 1
        return bytes(changed)

    return flip


def labels_with(place: int, value: int) -> Change:
    """Replace one of the training labels."""
    return array(np.where(np.arange(TRAIN_SIZE) == place, value, some_labels(TRAIN_SIZE)))


def labels_without(missing: int, count: int) -> Change:
    """Give one class always as the next."""
    labels = some_labels(count)
    return array(np.where(labels == missing, (missing + 1) % 10, labels))


NOT_GZIP = "is not a complete gzip"
# Of each kind of fault: the file it is in, how it comes about, and what must be said of it.
FAULTS: dict[str, tuple[str, Change, str]] = {
    "half a gzip": (TRAIN_IMAGES, lambda raw: raw[: len(raw) // 2], NOT_GZIP),
    "gzip without its last bytes": (TEST_LABELS, lambda raw: raw[:-4], NOT_GZIP),
    "no gzip": (TRAIN_LABELS, lambda _: b"<html>Not found</html>", f"{NOT_GZIP}.*<h"),
    "bytes after the gzip": (TEST_IMAGES, lambda raw: raw + b"junk", NOT_GZIP),
    "bad CRC": (TRAIN_IMAGES, flipping(-8), f"{NOT_GZIP}.*CRC"),
    "bad length in gzip": (TEST_IMAGES, flipping(-1), NOT_GZIP),
    "damaged in the middle": (TRAIN_IMAGES, lambda raw: flipping(len(raw) // 2)(raw), NOT_GZIP),
    "empty file": (TRAIN_IMAGES, lambda _: b"", "is not an IDX file.*nothing"),
    "empty within the gzip": (TRAIN_LABELS, holding(), "is not an IDX file.*nothing"),
    "wrong magic bytes": (
        TEST_IMAGES, holding(b"\x89PNG", bytes(99)), "is not an IDX file.*89504e47"
    ),
    "compressed twice": (
        TRAIN_LABELS, lambda raw: gzip.compress(raw, mtime=0), "is not an IDX file.*1f8b"
    ),
    "first four bytes cut": (TEST_LABELS, holding(header(1)[:3]), "is not an IDX file.*000008"),
    "wrong element type": (
        TRAIN_LABELS, holding(header(TRAIN_SIZE, element_type=13), bytes(4 * TRAIN_SIZE)), "0x0d"
    ),
    "wrong number of dimensions": (
        TRAIN_IMAGES, holding(header(TRAIN_SIZE, 28 * 28), bytes(PIXELS)),
        "2 dimensions.*must have 3",
    ),
    "images and labels swapped": (
        TRAIN_IMAGES, array(some_labels(TRAIN_SIZE)), "1 dimensions.*must have 3"
    ),
    "header cut off": (TEST_IMAGES, holding(header(TEST_SIZE, 28, 28)[:10]), "IDX header"),
    "fewer elements": (
        TRAIN_IMAGES, holding(header(TRAIN_SIZE, 28, 28), bytes(PIXELS - 1)),
        f"{PIXELS - 1:,}.*{PIXELS:,}",
    ),
    "more elements": (
        TEST_LABELS, holding(header(TEST_SIZE), some_labels(TEST_SIZE + 1).tobytes()),
        f"more than the {TEST_SIZE}",
    ),
    "absurd size": (TRAIN_LABELS, holding(header(2**32 - 1), bytes(99)), "4,294,967,295"),
    "absurd size that overflows 64 bits": (
        TRAIN_IMAGES, holding(header(2**31, 2**31, 2**31), bytes(99)), f"{2**93:,}"
    ),
    "too low": (TRAIN_IMAGES, array(np.zeros((TRAIN_SIZE, 7, 28))), "7 x 28.*8 to 256 pixels"),
    "too wide": (TEST_IMAGES, array(np.zeros((TEST_SIZE, 28, 257))), "28 x 257.*8 to 256 pixels"),
    "no images": (TEST_IMAGES, array(np.zeros((0, 28, 28))), "no images"),
    "one image less than labels": (
        TRAIN_IMAGES, array(some_images(TRAIN_SIZE - 1)),
        f"{TRAIN_SIZE - 1} images.*{TRAIN_LABELS} {TRAIN_SIZE} labels",
    ),
    "no labels": (TEST_LABELS, array(np.zeros(0)), f"{TEST_SIZE} images.* 0 labels$"),
    "label 10": (
        TRAIN_LABELS, labels_with(7, 10), "label 10 at index 7.*data.class_names has 10 names"
    ),
    "label 255": (TRAIN_LABELS, labels_with(39, 255), "label 255 at index 39"),
    "class missing in train": (TRAIN_LABELS, labels_without(6, TRAIN_SIZE), "class 6.*10 names"),
    "class missing in test": (TEST_LABELS, labels_without(9, TEST_SIZE), "class 9"),
    "all labels identical": (TEST_LABELS, array(np.full(TEST_SIZE, 3)), "class 0, 1, 2, 4, 5"),
    "all images identical": (
        TEST_IMAGES, array(np.full((TEST_SIZE, 28, 28), 9)), "all 20.*identical"
    ),
    "all images black": (
        TRAIN_IMAGES, array(np.zeros((TRAIN_SIZE, 28, 28))), "all 40.*identical"
    ),
}  # fmt: skip


def refused(folder: Path, file: str, found: str) -> None:
    """Reading must end in a lasting DataError that names the file and what was found in it."""
    with pytest.raises(DataError, match=found) as caught:
        read_all(folder)
    assert str(folder / file) in str(caught.value)
    assert not caught.value.retryable
    assert caught.value.exit_code == ExitCode.DATA


@pytest.mark.parametrize(("file", "change", "found"), FAULTS.values(), ids=FAULTS)
def test_every_kind_of_bad_data_is_refused_by_name(
    file: str, change: Change, found: str, tmp_path: Path
) -> None:
    write_good_files(tmp_path)
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes()))
    refused(tmp_path, file, found)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, ends in a DataError too."""
    write_good_files(tmp_path)
    (tmp_path / TEST_LABELS).unlink()
    refused(tmp_path, TEST_LABELS, "cannot be read.*No such file")
    (tmp_path / TEST_LABELS).mkdir()
    refused(tmp_path, TEST_LABELS, "cannot be read.*directory")


def test_good_files_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_good_files(tmp_path)
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
