from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from fmnist.settings import ModelSettings, TrainingSettings
from fmnist.training.graph import for_training
from fmnist.training.loop import train_network
from fmnist.training.model_file import load_model_bytes, predict
from fmnist.training.network import build
from fmnist.training.precision import Bfloat16Dense
from tests.support.records import learnable_images


@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_only_the_products_are_rounded(activation: str) -> None:
    """Outputs and gradients are in float32, and within bfloat16's 3 digits of the layer's own."""
    layer = keras.layers.Dense(5, activation)
    layer.build((None, 40))
    layer.set_weights([np.random.default_rng(0).normal(0, 0.1, (40, 5)), np.full(5, 1e-4)])
    inputs = tf.random.stateless_normal((64, 40), (0, 0))
    found = []
    for dense in (layer, Bfloat16Dense(layer)):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = dense(inputs)
            total = tf.reduce_sum(outputs**2)
        gradients = tape.gradient(total, [inputs, layer.kernel.value, layer.bias.value])
        found.append([outputs, *gradients])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == tf.float32
        assert np.abs(rounded - exact).max() < 0.02 * np.abs(exact).max()
    assert (found[0][0].numpy() != found[1][0].numpy()).any()


@pytest.mark.parametrize(("precision", "expected"), [("float32", 0), ("bfloat16", 4)])
def test_the_setting_decides_about_every_dense_layer(precision: str, expected: int) -> None:
    """Four of them in the default network."""
    network = build(ModelSettings(), (28, 28), 10)
    copy = for_training(network, 8, tf.Variable(0), np.random.default_rng(0), precision)
    assert [type(layer) for layer in copy.layers].count(Bfloat16Dense) == expected


def test_a_network_trained_in_bfloat16_is_published_in_float32(tmp_path: Path) -> None:
    """It learns, and its file is a plain one."""
    train, validation = (learnable_images(n, (12, 12), 5, seed=n) for n in (1000, 330))
    settings = TrainingSettings(
        epochs=4, batch_size=64, learning_rate=0.005, max_erase_size=2, precision="bfloat16"
    )
    model = ModelSettings(hidden=(48,), dropout=(0.1,))
    result = train_network(train, validation, 5, model, settings, tmp_path / "a.keras")
    assert result.best.val_accuracy > 0.8
    network = load_model_bytes((tmp_path / "a.keras").read_bytes())
    assert {weight.dtype for weight in network.get_weights()} == {np.dtype(np.float32)}
    right = predict(network, validation.images).argmax(axis=1) == validation.labels
    assert right.mean() == pytest.approx(result.best.val_accuracy, abs=1e-6)
