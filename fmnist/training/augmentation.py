"""Augmentation and dropout that cost next to nothing in each training step."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fmnist.data.records import IMAGE_SHAPE

_POOL = 16_384


def shift(padded: tf.Tensor, share: float) -> tf.Tensor:
    """Shift a share of the images by one pixel.

    `padded` is `(n, 30, 30)` in random order; the result `(n, 28, 28)`. The first `share * n`
    images are shifted, an equal block of them in each of the eight directions: the order is random
    already, so no random number or gather is spent on it.
    """
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    offsets = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    block = int(padded.shape[0] * share) // len(offsets)
    blocks = [
        padded[place * block : (place + 1) * block, y : y + height, x : x + width]
        for place, (y, x) in enumerate(offsets)
    ]
    blocks.append(padded[block * len(offsets) :, 1 : 1 + height, 1 : 1 + width])
    return tf.concat(blocks, axis=0)


def erasing_masks(
    count: int, longest: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Masks `(count, 28, 28)` of ones with a rectangle of zeros, its sides 0 to `longest` pixels.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2020.
    """

    def stretches(size: int) -> npt.NDArray[np.bool_]:
        length = generator.integers(0, longest + 1, (count, 1))
        first = generator.integers(0, size + 1 - length)
        position = np.arange(size)
        return (position >= first) & (position < first + length)

    height, width = IMAGE_SHAPE
    rows, columns = stretches(height), stretches(width)
    return (~(rows[:, :, None] & columns[:, None, :])).astype(np.uint8)


class MaskPool:
    """Masks made once, of which each step uses a stretch of `batch` from a random start.

    The images come in random order, so each meets masks at random all the same; and to draw one
    number for a step costs nothing, where a number for each activation costs as much as a layer.
    """

    def __init__(self, masks: npt.NDArray[Any], batch: int, generator: np.random.Generator) -> None:
        self._masks = tf.constant(masks)
        self._batch = batch
        self._starts = len(masks) - batch
        self._seeds = keras.random.SeedGenerator(int(generator.integers(2**31)))

    def draw(self) -> tf.Tensor:
        """The masks for one batch."""
        start = tf.random.stateless_uniform(
            (), self._seeds.next(), maxval=self._starts, dtype=tf.int32
        )
        return tf.ensure_shape(
            self._masks[start : start + self._batch], (self._batch, *self._masks.shape[1:])
        )


class PooledDropout(keras.layers.Layer):
    """Dropout for training in batches of one size, with masks from a pool."""

    def __init__(self, rate: float, units: int, batch: int, generator: np.random.Generator) -> None:
        """Drop the share `rate` of `units` activations, and scale the others to make up for it."""
        super().__init__()
        kept = generator.random((_POOL + batch, units), np.float32) >= rate
        self._masks = MaskPool((kept / (1 - rate)).astype(np.float32), batch, generator)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The inputs `(batch, units)`, some of them dropped if `training`."""
        return inputs * self._masks.draw() if training else inputs


def with_pooled_dropout(
    network: keras.Model, batch: int, generator: np.random.Generator
) -> keras.Model:
    """The same layers and weights with another dropout between them, for training alone."""
    images = keras.Input(network.input_shape[1:])
    x = images
    for layer in network.layers[1:]:
        if isinstance(layer, keras.layers.Dropout):
            if layer.rate:
                x = PooledDropout(layer.rate, x.shape[-1], batch, generator)(x)
        else:
            x = layer(x)
    return keras.Model(images, x)
