"""The real Fashion-MNIST files, read and split."""

import numpy as np

from fmnist.data.idx import read_labelled_images
from fmnist.data.records import FetchedData
from fmnist.data.split import split
from fmnist.settings import SplitSettings


def test_the_real_data_read_right(real_data: FetchedData) -> None:
    """Fashion-MNIST has 60,000 and 10,000 images of 28 x 28, each class equally often."""
    assert real_data.origin.official
    for images, labels, size in (
        (real_data.train_images, real_data.train_labels, 60_000),
        (real_data.test_images, real_data.test_labels, 10_000),
    ):
        data = read_labelled_images(images, labels, 10)
        assert data.images.shape == (size, 28, 28)
        assert data.labels.shape == (size,)
        assert data.images.dtype == data.labels.dtype == np.uint8
        assert (data.images.min(), data.images.max()) == (0, 255)
        assert np.bincount(data.labels).tolist() == [size // 10] * 10


def test_the_real_data_are_split_48000_to_12000(real_data: FetchedData) -> None:
    """Of the real 60,000 images, 4,800 of each class are for training and 1,200 for validation."""
    data = read_labelled_images(real_data.train_images, real_data.train_labels, 10)
    train, validation = (data[side] for side in split(data.labels, SplitSettings()))
    assert np.bincount(train.labels).tolist() == [4_800] * 10
    assert np.bincount(validation.labels).tolist() == [1_200] * 10
