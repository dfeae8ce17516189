"""Adam with decoupled weight decay, at one fused operation for each variable."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fmnist.settings import TrainingSettings

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7


def learning_rates(settings: TrainingSettings, steps: int) -> npt.NDArray[np.float32]:
    """The rate of each step `(epochs * steps,)`, with so many steps to an epoch.

    A linear warm-up to the highest rate, then a cosine down towards 0, which the step after the
    last would have. Source: Loshchilov & Hutter, "SGDR", 2017.
    """
    total = settings.epochs * steps
    warmup = round(total * settings.warmup_fraction)
    step = np.arange(total)
    falling = (1 + np.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
    rates = np.where(step < warmup, step / max(warmup, 1), falling)
    return (settings.learning_rate * rates).astype(np.float32)


class Adam:
    """Updates variables in place; the decay is for kernels, not for biases or normalization.

    Sources: Kingma & Ba, "Adam", 2015; Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
    2019. The results are those of `keras.optimizers.Adam`, which takes some twenty operations for
    each variable.
    """

    def __init__(self, variables: Sequence[Any], weight_decay: float) -> None:
        self._variables = [variable.value for variable in variables]
        self._moments = [
            tuple(tf.Variable(tf.zeros_like(value), trainable=False) for _ in range(2))
            for value in self._variables
        ]
        self._decay = weight_decay

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, step: tf.Tensor) -> None:
        """Make the step of this number, from 0, at this learning rate."""
        count = tf.cast(step + 1, tf.float32)
        for value, (first, second), gradient in zip(
            self._variables, self._moments, gradients, strict=True
        ):
            if self._decay and value.shape.rank > 1:
                value.assign_sub(value * (self._decay * rate))
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=tf.pow(_BETA_1, count),
                beta2_power=tf.pow(_BETA_2, count),
                lr=rate,
                beta1=_BETA_1,
                beta2=_BETA_2,
                epsilon=_EPSILON,
                grad=gradient,
            )
