"""Random masks that are drawn from a pool, and dropout that uses them."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

_MASKS = 16_384
_ELEMENTS = 2**24


def pool_size(elements: int, batch: int) -> int:
    """How many masks of so many elements to make: a batch, and more to choose from."""
    return batch + max(1, min(_MASKS, _ELEMENTS // elements))


class MaskPool:
    """Masks made once; each step uses a run of `batch` of them from a random start.

    The images are shuffled, so each of them still meets random masks. Drawing one number per step
    costs nothing; drawing one per activation costs as much as a layer. The number depends on
    `step`, a variable that counts the steps, alone.
    """

    def __init__(
        self, masks: npt.NDArray[Any], batch: int, step: tf.Variable, generator: np.random.Generator
    ) -> None:
        self._masks = tf.constant(masks)
        self._batch = batch
        self._starts = len(masks) - batch
        self._step = step
        self._seed = int(generator.integers(2**31))

    def draw(self) -> tf.Tensor:
        """The masks for one batch."""
        seed = tf.stack([self._seed, self._step])
        start = tf.random.stateless_uniform((), seed, maxval=self._starts, dtype=tf.int32)
        drawn = self._masks[start : start + self._batch]
        return tf.ensure_shape(drawn, (self._batch, *self._masks.shape[1:]))


class PooledDropout(keras.layers.Layer):
    """Dropout of the fraction `rate` of `units` activations, with masks from a pool.

    It is for training in batches of one size. What is kept is scaled up to match.
    """

    def __init__(
        self, rate: float, units: int, batch: int, step: tf.Variable, generator: np.random.Generator
    ) -> None:
        super().__init__()
        kept = generator.random((pool_size(units, batch), units), np.float32) >= rate
        masks = kept.astype(np.float32) / np.float32(1 - rate)
        self._masks = MaskPool(masks, batch, step, generator)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The inputs `(batch, units)`, some of them dropped if `training`."""
        return inputs * self._masks.draw() if training else inputs
