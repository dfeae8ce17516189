"""Matrix products in bfloat16, which some processors do several times as fast as in float32."""

import keras
import tensorflow as tf


class Bfloat16Dense(keras.layers.Layer):
    """Another layer's Dense, its matrix products rounded to bfloat16; for training alone.

    Weights, bias and activation stay in float32, and the products are summed in float32.
    """

    def __init__(self, layer: keras.layers.Dense) -> None:
        super().__init__()
        self._layer = layer

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Activations `(batch, inputs)` to `(batch, units)`, both in float32."""
        layer = self._layer
        kernel = tf.cast(layer.kernel, tf.bfloat16)
        outputs = tf.cast(tf.matmul(tf.cast(inputs, tf.bfloat16), kernel), tf.float32)
        if layer.use_bias:
            outputs += layer.bias
        return layer.activation(outputs)
