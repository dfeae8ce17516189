"""Batch normalization for training, at one fused operation each way."""

from typing import Any

import keras
import tensorflow as tf


class FusedNormalization(keras.layers.Layer):
    """Another layer's batch normalization of activations `(batch, units)`; for training alone.

    Same weights, same results; the moving averages of that layer are kept up to date.
    """

    def __init__(self, layer: keras.layers.BatchNormalization) -> None:
        super().__init__()
        self._layer = layer

    def call(self, inputs: tf.Tensor, training: bool = False, mask: None = None) -> Any:
        """The inputs, normalized by their own mean and variance if `training`."""
        layer = self._layer
        if not training:
            return layer(inputs, training=False)
        batch, units = inputs.shape
        normalized, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.reshape(inputs, (1, batch, 1, units)),
            tf.convert_to_tensor(layer.gamma),
            tf.convert_to_tensor(layer.beta),
            epsilon=layer.epsilon,
            is_training=True,
        )
        # It gives the variance of a population of which the batch is a sample; Keras, the batch's.
        variance *= (batch - 1) / batch
        for moving, found in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.value.assign_sub((1 - layer.momentum) * (moving.value - found))
        return tf.reshape(normalized, (batch, units))
