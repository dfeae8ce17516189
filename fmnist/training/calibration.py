"""Calibrate a trained network's probabilities with a temperature."""

import math

import keras
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fmnist.training.graph import consumers

_SMALLEST = 1e-30


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
    """The temperature that minimizes the cross-entropy of `(n, classes)` probabilities.

    Logits divided by it give calibrated probabilities and the same predictions. Source: Guo et
    al., "On Calibration of Modern Neural Networks", 2017.
    """
    logits = np.log(np.clip(probabilities.astype(np.float64), _SMALLEST, None))
    rows = np.arange(len(labels))

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(logits / math.exp(log_temperature), axis=1)
        return float(-np.mean(scaled[rows, labels]))

    found = minimize_scalar(cross_entropy, bounds=(math.log(0.1), math.log(10)), method="bounded")
    return float(math.exp(found.x))


def divide_logits(network: keras.Model, temperature: float) -> keras.Model:
    """The network with its logits divided by the temperature, as a model of plain Keras layers.

    If a Dense layer makes the logits, its weights are divided and nothing is added. Otherwise the
    logarithms of the probabilities are divided, and a softmax is appended.
    """
    dense = _layer_of_logits(network)
    if dense:
        dense.set_weights([weight / temperature for weight in dense.get_weights()])
        return network
    (probabilities,) = network.outputs
    logits = keras.ops.log(keras.ops.maximum(probabilities, _SMALLEST))
    scaled = keras.layers.Softmax(name="calibrated")(logits / temperature)
    return keras.Model(network.inputs[0], scaled, name=network.name)


def _layer_of_logits(network: keras.Model) -> keras.layers.Dense | None:
    """The Dense layer with softmax that ends the network, or that only an ending softmax uses."""
    uses = consumers(network)
    (last,) = (operation for operation, users in uses.items() if None in users)
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Dense):
        return last if activation is keras.activations.softmax and uses[last] == [None] else None
    softmax = isinstance(last, keras.layers.Activation) and activation is keras.activations.softmax
    if not softmax and not isinstance(last, keras.layers.Softmax):
        return None
    (*_, maker) = (operation for operation, users in uses.items() if last in users)
    if not isinstance(maker, keras.layers.Dense) or uses[maker] != [last]:
        return None
    return maker if maker.activation is keras.activations.linear else None
