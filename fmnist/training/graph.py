"""A network's graph: what consumes what, what need not be learned, and a copy for training.

All of this works on any functional or sequential model, so that `build` may return any.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fmnist.training.masks import PooledDropout
from fmnist.training.normalization import FusedNormalization
from fmnist.training.precision import Bfloat16Dense

# Wider or higher-dimensional activations would need too large a pool of masks.
_MOST_POOLED_UNITS = 1024


def for_training(
    network: keras.Model,
    batch: int,
    step: tf.Variable,
    generator: np.random.Generator,
    precision: str = "float32",
) -> keras.Model:
    """The same layers and weights, for training alone, with faster ones where there are any.

    `step` is a variable that counts the steps; `precision` is that of Dense layers' products.
    """

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        shape: tuple[Any, ...] = getattr(layer.output, "shape", ())
        if len(shape) != 2:
            return layer
        # Of the very type: subclasses, such as SpatialDropout2D, do something else.
        if type(layer) is keras.layers.BatchNormalization:
            if layer.trainable and layer.center and layer.scale:
                return FusedNormalization(layer)
        elif type(layer) is keras.layers.Dropout and layer.rate:
            if not layer.noise_shape and shape[1] <= _MOST_POOLED_UNITS:
                return PooledDropout(layer.rate, shape[1], batch, step, generator)
        elif type(layer) is keras.layers.Dense and precision == "bfloat16":
            return Bfloat16Dense(layer)
        return layer

    return _copy(network, replacement)


def consumers(network: keras.Model) -> Mapping[keras.Operation, list[keras.Operation | None]]:
    """The operations that use each operation's output; `None` stands for the network's output."""
    makers: dict[int, keras.Operation] = {}
    kept_alive = []
    found: dict[keras.Operation, list[keras.Operation | None]] = {}

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        for tensor in keras.tree.flatten((args, kwargs)):
            if id(tensor) in makers:
                found[makers[id(tensor)]].append(operation)
        result = operation(*args, **kwargs)
        found.setdefault(operation, [])
        for tensor in keras.tree.flatten(result):
            makers[id(tensor)] = operation
            kept_alive.append(tensor)
        return result

    copy = _copy(network, lambda layer: layer, call)
    found[makers[id(copy.outputs[0])]].append(None)
    return found


def learning_variables(network: keras.Model) -> list[keras.Variable]:
    """The trainable variables, without the biases that only a BatchNormalization sees.

    It subtracts the mean, and any such bias with it: by the formula, their gradient is 0.
    """
    idle = {
        id(layer.bias)
        for layer, users in consumers(network).items()
        if _has_channel_bias(layer) and all(_normalizes_channels(user, layer) for user in users)
    }
    return [variable for variable in network.trainable_variables if id(variable) not in idle]


def _has_channel_bias(layer: keras.Operation) -> bool:
    if not isinstance(layer, keras.layers.Dense | keras.layers.Conv1D | keras.layers.Conv2D):
        return False
    return bool(layer.use_bias and layer.activation is keras.activations.linear)


def _normalizes_channels(operation: keras.Operation | None, layer: keras.layers.Layer) -> bool:
    """Whether it normalizes by batch, and over the axis on which the layer's bias lies."""
    if not isinstance(operation, keras.layers.BatchNormalization) or not operation.trainable:
        return False
    rank = len(layer.output.shape)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return bool(operation.axis % rank == (1 if first else rank - 1))


def _copy(
    network: keras.Model,
    replacement: Callable[[keras.layers.Layer], keras.layers.Layer],
    call: Callable[..., Any] | None = None,
) -> keras.Model:
    """The network's graph once more, its layers shared but for those that are replaced."""
    functional = keras.Model(network.inputs[0], network.outputs[0])
    return keras.models.clone_model(functional, clone_function=replacement, call_function=call)
