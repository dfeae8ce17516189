"""The split into training and validation, and the arrays that the stages hand on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fmnist.data.duplicates import digests_of
from fmnist.data.records import (
    FILES,
    OFFICIAL_SHA256,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    DataOrigin,
    FetchedData,
    LabelledImages,
)
from fmnist.data.split import load_digests, load_images, prepare_sets, split
from fmnist.data.statistics import describe_sets
from fmnist.errors import DataError, ExitCode, StoreError
from fmnist.settings import DataSettings, SplitSettings
from tests.support.mirrors import idx, write
from tests.support.processes import no_file_larger_than

EACH_CLASS = 50
DATA = DataSettings()
TEST_SIZE = 30


def numbered(labels: np.ndarray, seed: int = 0) -> LabelledImages:
    """Images that carry their own number in their first two pixels, with these labels."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return LabelledImages(images, labels.astype(np.uint8))


def numbers(data: LabelledImages) -> list[int]:
    """The numbers that the images carry, in their order."""
    return [int(image[0, 0]) * 256 + int(image[0, 1]) for image in data.images]


def sides(data: LabelledImages, settings: SplitSettings) -> tuple[LabelledImages, LabelledImages]:
    """What is split into training and validation."""
    train, validation = split(data.labels, settings)
    return data[train], data[validation]


def shares(data: LabelledImages) -> list[float]:
    counted: list[float] = (np.bincount(data.labels, minlength=10) / len(data)).tolist()
    return counted


@pytest.fixture
def everything() -> LabelledImages:
    """All training images: fifty of each class, in no order."""
    return numbered(np.random.default_rng(1).permutation(np.repeat(np.arange(10), EACH_CLASS)))


@pytest.fixture
def test_set() -> LabelledImages:
    """The test images, in a known order."""
    return numbered(np.arange(TEST_SIZE) % 10, seed=1)


@pytest.fixture
def fetched(everything: LabelledImages, test_set: LabelledImages, tmp_path: Path) -> FetchedData:
    """Four small files as the fetch hands them on."""
    arrays = (everything.images, everything.labels, test_set.images, test_set.labels)
    write({name: idx(array) for name, array in zip(FILES, arrays, strict=True)}, tmp_path)
    origin = DataOrigin("a test", False, OFFICIAL_SHA256)
    return FetchedData(origin, *(tmp_path / name for name in FILES))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
def test_classes_have_the_same_shares_on_both_sides(
    everything: LabelledImages, share: float
) -> None:
    train, validation = sides(everything, SplitSettings(validation=share))
    assert len(validation) == round(share * len(everything))
    assert shares(train) == shares(validation) == [0.1] * 10


@pytest.mark.parametrize("counts", [range(20, 120, 10), [10] * 3], ids=["unequal", "three"])
def test_classes_keep_their_shares_however_many_and_frequent(counts: Sequence[int]) -> None:
    data = numbered(np.repeat(np.arange(len(counts)), counts))
    train, validation = sides(data, SplitSettings())
    assert np.abs(np.bincount(validation.labels) - 0.2 * np.array(counts)).max() < 1
    assert np.abs(np.bincount(train.labels) - 0.8 * np.array(counts)).max() < 1


def test_the_two_sides_are_disjoint_and_complete(everything: LabelledImages) -> None:
    train, validation = sides(everything, SplitSettings())
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(everything)))
    for side in (train, validation):
        np.testing.assert_array_equal(side.images, everything.images[numbers(side)])
        np.testing.assert_array_equal(side.labels, everything.labels[numbers(side)])


def test_the_same_seed_gives_the_same_split(everything: LabelledImages) -> None:
    settings = SplitSettings(seed=7)
    first, second = sides(everything, settings), sides(everything, settings)
    for one, other in zip(first, second, strict=True):
        assert numbers(one) == numbers(other)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_another_seed_gives_another_split(everything: LabelledImages) -> None:
    validations = [
        sorted(numbers(sides(everything, SplitSettings(seed=seed))[1])) for seed in (0, 1, 2)
    ]
    assert validations[0] != validations[1] != validations[2] != validations[0]


def test_the_largest_seed_is_accepted(everything: LabelledImages) -> None:
    assert len(sides(everything, SplitSettings(seed=2**32 - 1))[1]) == 100


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([1] + [50] * 9, id="one image of a class"),
        pytest.param([1] * 10, id="one image of each class"),
        pytest.param([2] * 10, id="fewer validation images than classes"),
        pytest.param([2] + [103] * 9, id="a class that falls to one side alone"),
    ],
)
def test_too_few_images_of_a_class_are_refused(counts: list[int]) -> None:
    """A class that cannot have images on both sides ends in a DataError that gives the split."""
    data = numbered(np.repeat(np.arange(10), counts))
    with pytest.raises(DataError, match="cannot be split 80% / 20% by class") as caught:
        sides(data, SplitSettings())
    assert not caught.value.retryable


def test_a_class_with_one_image_is_named_with_what_it_needs() -> None:
    data = numbered(np.repeat(np.arange(10), [50] * 9 + [1]))
    with pytest.raises(DataError, match="class 9 has 1 image, but each class needs at least 2"):
        sides(data, SplitSettings())


def test_the_three_sets_survive_saving_and_loading(
    fetched: FetchedData, everything: LabelledImages, tmp_path: Path
) -> None:
    """What is loaded is what was split, as unsigned bytes of 28 x 28, and counted right."""
    prepared = prepare_sets(fetched, DATA, SplitSettings(seed=3), tmp_path)
    expected = sides(everything, SplitSettings(seed=3))
    paths = (prepared.train, prepared.validation)
    counts = (prepared.train_images, prepared.validation_images)
    for path, count, data in zip(paths, counts, expected, strict=True):
        loaded = load_images(path)
        assert len(loaded) == count == len(data)
        np.testing.assert_array_equal(loaded.images, data.images, strict=True)
        np.testing.assert_array_equal(loaded.labels, data.labels, strict=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_test_set_is_left_as_it_is(
    fetched: FetchedData, test_set: LabelledImages, tmp_path: Path, seed: int
) -> None:
    prepared = prepare_sets(fetched, DATA, SplitSettings(seed=seed, validation=0.3), tmp_path)
    test = load_images(prepared.test)
    assert prepared.test_images == TEST_SIZE
    np.testing.assert_array_equal(test.images, test_set.images, strict=True)
    np.testing.assert_array_equal(test.labels, test_set.labels, strict=True)


def test_the_three_sets_are_described(fetched: FetchedData, tmp_path: Path) -> None:
    prepared = prepare_sets(fetched, DATA, SplitSettings(), tmp_path)
    sets = [load_images(path) for path in (prepared.train, prepared.validation, prepared.test)]
    assert prepared.statistics == describe_sets(*sets, DATA.class_names)


def test_each_set_is_a_file_of_its_own(fetched: FetchedData, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    prepared = prepare_sets(fetched, DATA, SplitSettings(), folder)
    sets = [prepared.train, prepared.validation, prepared.test]
    assert sorted(folder.iterdir()) == sorted([*sets, prepared.training_digests])


def test_bad_data_are_refused_before_anything_is_written(
    fetched: FetchedData, tmp_path: Path
) -> None:
    fetched.test_labels.write_bytes(idx(np.zeros(TEST_SIZE)))
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(DataError, match=TEST_LABELS):
        prepare_sets(fetched, DATA, SplitSettings(), folder)
    assert not list(folder.iterdir())


def test_test_images_that_are_training_images_too_are_refused_before_anything_is_written(
    fetched: FetchedData, everything: LabelledImages, test_set: LabelledImages, tmp_path: Path
) -> None:
    """One in thirty is more than the share that is allowed by default."""
    leaked = np.concatenate([everything.images[7:8], test_set.images[1:]])
    fetched.test_images.write_bytes(idx(leaked))
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(DataError, match="test image 0 is training image 7"):
        prepare_sets(fetched, DATA, SplitSettings(), folder)
    assert not list(folder.iterdir())
    allowed = DataSettings(max_leaked=0.04)
    assert prepare_sets(fetched, allowed, SplitSettings(), folder).duplicates.leaked == 1


def test_the_digests_are_those_of_all_images_to_learn_from(
    fetched: FetchedData, everything: LabelledImages, tmp_path: Path
) -> None:
    prepared = prepare_sets(fetched, DATA, SplitSettings(), tmp_path)
    expected = np.sort(digests_of(everything.images))
    np.testing.assert_array_equal(load_digests(prepared.training_digests), expected)


def test_test_images_of_another_size_are_refused(fetched: FetchedData, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (TEST_SIZE, 28, 30))
    fetched.test_images.write_bytes(idx(wide))
    with pytest.raises(DataError, match=f"{TEST_IMAGES} .*28 x 30.*{TRAIN_IMAGES} .*28 x 28"):
        prepare_sets(fetched, DATA, SplitSettings(), tmp_path)


@pytest.mark.parametrize("obstacle", ["a file in its place", "not there"])
def test_a_folder_that_cannot_be_written_is_a_store_error(
    fetched: FetchedData, tmp_path: Path, obstacle: str
) -> None:
    folder = tmp_path / "work"
    if obstacle == "a file in its place":
        folder.write_text("in the way")
    with pytest.raises(StoreError, match=r"store\.work") as caught:
        prepare_sets(fetched, DATA, SplitSettings(), folder)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE


def test_a_full_disk_is_a_store_error(fetched: FetchedData, tmp_path: Path) -> None:
    told = r"/train .*free some space"
    with no_file_larger_than(10_000), pytest.raises(StoreError, match=told):
        prepare_sets(fetched, DATA, SplitSettings(), tmp_path)
