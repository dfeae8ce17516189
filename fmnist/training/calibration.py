"""Calibrate a trained network's probabilities with a temperature."""

import math

import keras
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
    """The temperature that minimises the cross-entropy of `(n, 10)` probabilities.

    Logits divided by it give calibrated probabilities and the same predictions. Source: Guo et
    al., "On Calibration of Modern Neural Networks", 2017.
    """
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-30, None))
    rows = np.arange(len(labels))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(scaled).sum(axis=1))
        return float(np.mean(log_sums - scaled[rows, labels]))

    found = minimize_scalar(cross_entropy, bounds=(math.log(0.1), math.log(10)), method="bounded")
    return float(math.exp(found.x))


def divide_logits(network: keras.Model, temperature: float) -> None:
    """Fold the temperature into the last layer, so that the published file needs no extra step."""
    last = network.layers[-1]
    last.set_weights([weight / temperature for weight in last.get_weights()])
