"""Images that are the same: digests, what leaked between the sets, and contradicting labels."""

import logging

import numpy as np
import pytest

from fmnist.data.duplicates import (
    digests_of,
    find_duplicates,
    pack_digests,
    report_duplicates,
    unpack_digests,
    unseen,
)
from fmnist.data.records import Duplicates
from fmnist.errors import DamagedError, DataError, ExitCode

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 6), np.uint8)


def test_only_the_same_pixels_in_the_same_shape_have_the_same_digest() -> None:
    digests = digests_of(IMAGES)
    assert len(set(digests.tolist())) == len(IMAGES)
    assert (digests_of(IMAGES.copy()[::-1]) == digests[::-1]).all()
    one_off = IMAGES.copy()
    one_off[:, 7, 5] ^= 1
    assert not np.isin(digests_of(one_off), digests).any()
    assert not np.isin(digests_of(IMAGES.reshape(50, 6, 8)), digests).any()


def test_the_digest_is_that_of_every_machine() -> None:
    """It is stored, so it must not depend on the machine's byte order."""
    stripe = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert pack_digests(digests_of(stripe)).hex() == "b3ed3df275ce670b"


def test_digests_are_kept_sorted_in_eight_bytes_each() -> None:
    digests = digests_of(IMAGES)
    packed = pack_digests(digests)
    assert len(packed) == 8 * len(IMAGES)
    assert (unpack_digests(packed, "here") == np.sort(digests)).all()


def test_digests_that_are_cut_short_are_damaged() -> None:
    with pytest.raises(
        DamagedError, match="here cannot be read: 15 bytes are not a whole number of digests"
    ):
        unpack_digests(bytes(15), "here")


def test_images_that_any_model_was_trained_on_are_not_new() -> None:
    test = np.arange(6, dtype=np.uint64)
    assert unseen(test, test[:2], test[1:3]).tolist() == [False] * 3 + [True] * 3  # type: ignore[union-attr]
    assert unseen(test, test[:2], None) is None


def found_in(images: list[int], labels: list[int], training: int) -> Duplicates:
    return find_duplicates(digests_of(IMAGES[images]), np.array(labels, np.uint8), training)


def test_data_without_duplicates_have_none() -> None:
    assert found_in([0, 1, 2, 3], [0, 1, 0, 1], 2) == Duplicates(0, (), 0, ())


def test_test_images_among_the_training_images_are_named_with_their_twins() -> None:
    """An image twice on one side has not leaked."""
    found = found_in([0, 1, 1, 2, 3, 1, 3, 0], [0] * 8, 4)
    assert found.leaked == 2
    assert found.leaked_named == (
        "test image 1 is training image 1",
        "test image 3 is training image 0",
    )
    assert found.conflicting == 0


def test_identical_images_with_different_labels_are_named_wherever_they_are() -> None:
    found = found_in([0, 1, 0, 1, 2, 2], [0, 1, 3, 1, 5, 6], 4)
    assert found.conflicting == 2
    assert found.conflicting_named == (
        "training image 2 has label 3, but training image 0 has 0",
        "test image 1 has label 6, but test image 0 has 5",
    )


def test_ten_of_many_are_named() -> None:
    found = found_in([*range(20), *range(20)], [0] * 20 + [1] * 20, 20)
    assert (found.leaked, len(found.leaked_named)) == (20, 10)
    assert (found.conflicting, len(found.conflicting_named)) == (20, 10)


def test_more_leaked_images_than_allowed_are_refused_with_ten_of_them() -> None:
    found = found_in([*range(12), *range(12)], [0] * 24, 12)
    with pytest.raises(DataError) as caught:
        report_duplicates(found, 1_000, 0.0119)
    assert caught.value.exit_code is ExitCode.DATA
    said = str(caught.value)
    assert said.startswith(
        "12 of the 1,000 test images (1.20%) can be found among the training images"
    )
    assert said.count("is training image") == 10
    assert "data.max_leaked allows 1.19%: remove them from either side" in said


def test_duplicates_that_are_allowed_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fmnist")
    report_duplicates(found_in([0, 1, 2, 0], [0, 1, 2, 3], 3), 100, 0.01)
    assert caplog.messages == [
        "1 of the 100 test images (1.00%) can be found among the training images: test image 0 is "
        "training image 0",
        "identical images with different labels (1): test image 0 has label 3, "
        "but training image 0 has 0",
    ]
    caplog.clear()
    report_duplicates(found_in([0, 1, 2, 3], [0] * 4, 2), 2, 0)
    assert not caplog.messages
