"""Whatever functional or sequential network `build` returns is trained, calibrated and saved."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from fmnist.data.records import LabelledImages
from fmnist.settings import ModelSettings, TrainingSettings
from fmnist.training.calibration import divide_logits
from fmnist.training.graph import for_training, learning_variables
from fmnist.training.loop import train_network
from fmnist.training.masks import PooledDropout
from fmnist.training.model_file import load_model_bytes, predict
from tests.integration.training import networks
from tests.support.records import learnable_images

SMALL = ModelSettings(hidden=(48, 32), dropout=(0.1, 0.1))
BUILDERS = [networks.convolutional, networks.residual, networks.plain, networks.averaged]
Build = Callable[[ModelSettings, tuple[int, int], int], keras.Model]
each_network = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


@each_network
def test_another_network_is_trained_and_loads_in_plain_keras(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few epochs teach it, and safe mode loads its file without any class of this project."""
    monkeypatch.setattr("fmnist.training.loop.build", build)
    train, validation = (learnable_images(n, (20, 24), 5, seed=n) for n in (1000, 330))
    settings = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.005)
    result = train_network(train, validation, 5, SMALL, settings, tmp_path / "a.keras")
    assert result.image_shape == (20, 24)
    assert result.best.val_accuracy > 0.8
    network = load_model_bytes((tmp_path / "a.keras").read_bytes())
    assert "fmnist" not in str(network.get_config())
    probabilities = predict(network, validation.images)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(330), abs=1e-5)
    right = (probabilities.argmax(axis=1) == validation.labels).mean()
    assert right == pytest.approx(result.best.val_accuracy, abs=1e-6)


def copy_for_training(network: keras.Model) -> keras.Model:
    return for_training(network, 8, tf.Variable(0), np.random.default_rng(0))


@each_network
def test_the_copy_for_training_shares_every_weight(build: Build) -> None:
    """It has the network's own variables, and predicts the same where nothing is dropped."""
    network = build(SMALL, (20, 24), 5)
    copy = copy_for_training(network)
    assert {id(v) for v in copy.trainable_variables} == {id(v) for v in network.trainable_variables}
    images = learnable_images(8, (20, 24), 5).images
    assert np.asarray(copy(images)) == pytest.approx(np.asarray(network(images)), abs=1e-6)


def test_only_small_flat_dropout_is_pooled() -> None:
    """Dropout on images keeps Keras's own layer, whose masks need no pool."""
    copy = copy_for_training(networks.residual(SMALL, (20, 24), 5))
    kinds = [type(layer) for layer in copy.layers]
    assert (kinds.count(PooledDropout), kinds.count(layers.Dropout)) == (2, 1)


@each_network
def test_the_temperature_divides_the_logits_of_any_network(build: Build) -> None:
    """The calibrated probabilities are those of the formula, whatever the network ends in."""
    network = build(SMALL, (20, 24), 5)
    images = learnable_images(50, (20, 24), 5).images
    logits = np.log(predict(network, images)) / 2.5
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    calibrated = divide_logits(network, 2.5)
    assert predict(calibrated, images) == pytest.approx(expected, abs=1e-5)
    assert (calibrated is network) is (build is not networks.averaged)


def idle_biases(*blocks: Callable[[keras.KerasTensor], keras.KerasTensor]) -> int:
    images = x = keras.Input((8, 8))
    for block in blocks:
        x = block(x)
    network = keras.Model(images, x)
    return len(network.trainable_variables) - len(learning_variables(network))


SHARED = layers.Dense(8)
GRAPHS = {
    "followed by BatchNormalization": (1, [layers.Dense(4), layers.BatchNormalization()]),
    "over another axis": (0, [layers.Dense(4), layers.BatchNormalization(axis=1)]),
    "with an activation": (0, [layers.Dense(4, "relu"), layers.BatchNormalization()]),
    "without a bias": (0, [layers.Dense(4, use_bias=False), layers.BatchNormalization()]),
    "frozen statistics": (0, [layers.Dense(4), layers.BatchNormalization(trainable=False)]),
    "followed by LayerNormalization": (0, [layers.Dense(4), layers.LayerNormalization()]),
    "a layer between": (0, [layers.Dense(4), layers.ReLU(), layers.BatchNormalization()]),
    "a convolution": (1, [layers.Conv1D(4, 3), layers.BatchNormalization()]),
    "used twice": (0, [SHARED, layers.BatchNormalization(), SHARED]),
}


@pytest.mark.parametrize(("idle", "blocks"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_bias_is_left_out_only_where_its_gradient_is_zero(
    idle: int, blocks: list[Callable[[keras.KerasTensor], keras.KerasTensor]]
) -> None:
    """That is where nothing but a BatchNormalization over the same axis sees it."""
    assert idle_biases(*blocks) == idle


def test_the_losses_of_the_layers_are_trained_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel with a strong penalty shrinks."""

    def penalized(_: ModelSettings, shape: tuple[int, int], classes: int) -> keras.Model:
        images = keras.Input(shape)
        x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
        x = layers.Dense(classes, "softmax", kernel_regularizer=keras.regularizers.L2(10.0))(x)
        return keras.Model(images, x)

    monkeypatch.setattr("fmnist.training.loop.build", penalized)
    sets: list[LabelledImages] = [learnable_images(256, (8, 8), 3) for _ in range(2)]
    sizes = []
    for epochs in (1, 20):
        settings = TrainingSettings(epochs=epochs, batch_size=64, weight_decay=0.0)
        train_network(*sets, 3, SMALL, settings, tmp_path / "a.keras")
        kernel = load_model_bytes((tmp_path / "a.keras").read_bytes()).layers[-1].get_weights()[0]
        sizes.append(np.abs(kernel).mean())
    assert sizes[1] < sizes[0]
