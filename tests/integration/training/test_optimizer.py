from itertools import pairwise

import keras
import numpy as np
import pytest

from fmnist.settings import TrainingSettings
from fmnist.training.optimizer import Adam, learning_rates


def test_the_learning_rate_warms_up_and_then_only_falls_to_zero() -> None:
    """It rises in a line to the highest rate, then falls along a cosine, almost to 0."""
    settings = TrainingSettings(epochs=10, learning_rate=0.01, warmup_fraction=0.1)
    rates = learning_rates(settings, steps=20).tolist()
    assert len(rates) == 200
    assert max(rates) == rates[20] == pytest.approx(0.01)
    assert all(a < b for a, b in pairwise(rates[:21]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.005)
    assert 0 < rates[-1] < 1e-5


def test_without_warm_up_it_starts_at_the_highest_rate() -> None:
    settings = TrainingSettings(epochs=2, learning_rate=0.01, warmup_fraction=0.0)
    rates = learning_rates(settings, steps=5)
    assert rates[0] == pytest.approx(0.01)
    assert (np.diff(rates) < 0).all()


def test_adam_is_that_of_keras() -> None:
    """Five steps at changing rates, with weight decay for the kernel and none for the bias."""
    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,))]
    ours, theirs = ([keras.Variable(value) for value in start] for _ in range(2))
    rates = np.float32([0.1, 0.05, 0.2, 0.1, 0.02])
    adam = Adam(ours, weight_decay=0.3)
    stock = keras.optimizers.Adam(0.1, weight_decay=0.3)
    stock.exclude_from_weight_decay(var_list=theirs[1:])
    stock.build(theirs)
    for step, rate in enumerate(rates):
        gradients = [generator.normal(size=value.shape).astype(np.float32) for value in start]
        adam.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], rate, step)
        stock.learning_rate = float(rate)
        stock.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.numpy() == pytest.approx(other.numpy(), rel=1e-4, abs=1e-5)
