import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from fmnist.data.idx import read_labelled_images
from fmnist.data.records import FetchedData, LabelledImages
from fmnist.data.split import split
from fmnist.errors import ExitCode, StoreError, TrainingError
from fmnist.settings import ModelSettings, SplitSettings, TrainingSettings
from fmnist.training import loop
from fmnist.training.augmentation import erasing_masks, shift
from fmnist.training.calibration import fit_temperature
from fmnist.training.masks import PooledDropout
from fmnist.training.model_file import load_model_bytes, predict
from fmnist.training.network import build
from fmnist.training.records import Epoch, TrainingResult
from tests.support.processes import run_program

SHORT = TrainingSettings(epochs=3, batch_size=256, warmup_fraction=0.0)
Sets = tuple[LabelledImages, LabelledImages]


@pytest.fixture(scope="module")
def sets(real_data: FetchedData) -> Sets:
    """5,000 real images: 4,000 to train on, 1,000 to validate."""
    everything = read_labelled_images(real_data.train_images, real_data.train_labels, 10)
    some = LabelledImages(everything.images[:5000], everything.labels[:5000])
    train, validation = (some[side] for side in split(some.labels, SplitSettings()))
    return train, validation


def train(sets: Sets, settings: TrainingSettings, path: Path) -> TrainingResult:
    return loop.train_network(*sets, 10, ModelSettings(), settings, path)


def weights(path: Path) -> list[bytes]:
    return [weight.tobytes() for weight in load_model_bytes(path.read_bytes()).get_weights()]


def test_a_short_training_learns(sets: Sets, tmp_path: Path) -> None:
    """After a few epochs on a few real images it classifies most of them correctly."""
    result = train(sets, SHORT.model_copy(update={"epochs": 8}), tmp_path / "a.keras")
    assert result.best.val_accuracy > 0.75
    assert result.history[-1].loss < result.history[0].loss
    assert [epoch.number for epoch in result.history] == list(range(1, 9))


def test_the_same_seed_gives_the_same_file_to_the_byte(sets: Sets, tmp_path: Path) -> None:
    """Two runs of one seed are equal, also in one process; another seed has other weights."""
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(sets, SHORT.model_copy(update={"seed": seed}), tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert weights(tmp_path / "a.keras") != weights(tmp_path / "c.keras")


def test_what_other_threads_draw_does_not_change_the_weights(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's random numbers are shared with all that runs beside the training."""

    def disturbed(*arguments: Any) -> keras.Model:
        random.random()
        return build(*arguments)

    train(sets, SHORT, tmp_path / "a.keras")
    monkeypatch.setattr(loop, "build", disturbed)
    train(sets, SHORT, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


@pytest.mark.parametrize(
    "configuration",
    [
        {"floatx": "float64"},
        {"floatx": "float16"},
        {"epsilon": 0.2, "image_data_format": "channels_first"},
    ],
    ids=str,
)
def test_the_users_configuration_of_keras_changes_nothing(
    configuration: dict[str, Any], sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~/.keras/keras.json` is for other programs."""
    program = """
import sys, numpy
from pathlib import Path
from fmnist.data.records import LabelledImages
from fmnist.settings import ModelSettings, TrainingSettings
from fmnist.training.loop import train_network
from fmnist.training.model_file import load_model_bytes, predict
made = numpy.random.default_rng(0)
images, labels = made.integers(0, 256, (600, 28, 28), "uint8"), made.integers(0, 10, 600, "uint8")
train, validation = (LabelledImages(images[part], labels[part])
    for part in (slice(500), slice(500, 600)))
settings = TrainingSettings(epochs=2, batch_size=100)
path = Path(sys.argv[1])
train_network(train, validation, 10, ModelSettings(), settings, path)
print(predict(load_model_bytes(path.read_bytes()), images).tobytes().hex())
"""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    plain = run_program("-c", program, "plain.keras")
    assert plain.returncode == 0, plain.stderr
    (tmp_path / "keras.json").write_text(json.dumps(configuration))
    configured = run_program("-c", program, "configured.keras")
    assert configured.stdout == plain.stdout, configured.stderr
    assert Path("configured.keras").read_bytes() == Path("plain.keras").read_bytes()


def test_no_setting_of_keras_is_left_to_the_user() -> None:
    """Not even those that do not change the default network, but may change another."""
    usual = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.2)
    keras.config.set_image_data_format("channels_first")
    loop._set_up_keras()
    found = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    assert found == usual == ("float32", 1e-7, "channels_last")


def test_the_weights_kept_are_those_of_the_best_epoch(sets: Sets, tmp_path: Path) -> None:
    """What is saved scores the best validation accuracy of the history, whatever came after."""
    wild = SHORT.model_copy(update={"epochs": 6, "learning_rate": 0.5})
    result = train(sets, wild, tmp_path / "a.keras")
    accuracies = [epoch.val_accuracy for epoch in result.history]
    predicted = predict(
        load_model_bytes((tmp_path / "a.keras").read_bytes()), sets[1].images
    ).argmax(axis=1)
    assert (predicted == sets[1].labels).mean() == pytest.approx(max(accuracies), abs=1e-6)
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1


def test_training_stops_when_validation_no_longer_improves(sets: Sets, tmp_path: Path) -> None:
    """It ends `patience` epochs after the best one, and says so."""
    hopeless = SHORT.model_copy(update={"epochs": 40, "patience": 2, "learning_rate": 1e-9})
    result = train(sets, hopeless, tmp_path / "a.keras")
    assert result.stopped_early
    assert len(result.history) == result.best_epoch + 2 < 40


def test_every_epoch_is_reported_as_it_ends(sets: Sets, tmp_path: Path) -> None:
    seen: list[Epoch] = []
    result = loop.train_network(
        *sets, 10, ModelSettings(), SHORT, tmp_path / "a.keras", seen.append
    )
    assert tuple(seen) == result.history
    assert all(epoch.total == 3 and epoch.seconds > 0 for epoch in seen)


def test_a_loss_that_is_not_finite_ends_training(sets: Sets, tmp_path: Path) -> None:
    """A recipe that diverges is an error that says what to change, and no file is left."""
    diverging = SHORT.model_copy(update={"learning_rate": 1.0, "weight_decay": 10.0, "epochs": 20})
    message = r"no longer finite in epoch \d+ of 20; lower"
    with pytest.raises(TrainingError, match=message) as caught:
        train(sets, diverging, tmp_path / "a.keras")
    assert caught.value.exit_code is ExitCode.TRAINING
    assert not (tmp_path / "a.keras").exists()


def test_a_file_that_cannot_be_written_is_a_store_error(sets: Sets, tmp_path: Path) -> None:
    """The message names the file and what to do."""
    with pytest.raises(StoreError, match=r"absent/a.keras.*set store.work"):
        train(sets, SHORT.model_copy(update={"epochs": 1}), tmp_path / "absent" / "a.keras")


def test_the_validation_figures_are_those_of_plain_keras(sets: Sets) -> None:
    """The compiled epoch's validation equals what `evaluate` of the plain network gives."""
    network = build(ModelSettings(), (28, 28), 10)
    _, _, val_loss, val_accuracy = loop.EpochTrainer(network, SHORT, *sets).run_epoch()
    network.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = network.evaluate(sets[1].images, sets[1].labels, verbose=0)
    assert val_loss == pytest.approx(loss, rel=1e-4)
    assert val_accuracy == pytest.approx(accuracy, abs=1e-6)


class GradientDescent:
    """In place of Adam, whose first step depends on little but the sign of each gradient."""

    def __init__(self, variables: Sequence[Any], weight_decay: float) -> None:
        self.variables = variables

    def apply(self, gradients: Sequence[tf.Tensor], *_: Any) -> None:
        for variable, gradient in zip(self.variables, gradients, strict=True):
            variable.value.assign_sub(0.1 * gradient)


def test_without_dropout_and_augmentation_a_step_averages_those_of_plain_keras_on_each_half(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of one batch gives the mean of what `train_on_batch` gives on either half."""
    monkeypatch.setattr(loop, "Adam", GradientDescent)
    settings = SHORT.model_copy(
        update={"shift_fraction": 0.0, "max_erase_size": 0, "batch_size": 4000}
    )
    plain = ModelSettings(dropout=(0.0, 0.0, 0.0))
    keras.utils.set_random_seed(0)
    ours, *stocks = (build(plain, (28, 28), 10) for _ in range(3))
    start = ours.get_weights()
    trained = loop.EpochTrainer(ours, settings, *sets).run_epoch()
    order = tf.random.experimental.stateless_shuffle(tf.range(4000), tf.stack([settings.seed, 0]))
    figures = []
    for stock, rows in zip(stocks, np.split(order.numpy(), 2), strict=True):
        stock.set_weights(start)
        stock.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        images, labels = sets[0].images[rows], sets[0].labels[rows]
        figures.append(stock.train_on_batch(images.astype(np.float32), labels))
    assert trained[:2] == pytest.approx(np.mean(figures, axis=0), rel=1e-5)
    for variable, before, *found in zip(
        ours.weights, start, *(stock.get_weights() for stock in stocks), strict=True
    ):
        if variable.trainable:
            expected = np.mean(found, axis=0)
        else:  # A moving average has moved once for each half.
            expected = found[1] + 0.99 * (found[0] - before)
        assert variable.numpy() == pytest.approx(expected, abs=1e-5)


def test_an_equal_share_is_shifted_in_each_direction() -> None:
    """Of 16 images half are shifted by one pixel, one in each direction; no pixel changes value."""
    images = np.random.default_rng(0).integers(1, 256, (16, 28, 28)).astype(np.uint8)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifted = shift(tf.constant(images), 0.5).numpy()
    offsets = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for place, (y, x) in enumerate(offsets):
        moved = np.roll(padded[place], (-y, -x), axis=(0, 1))[1:29, 1:29]
        assert (shifted[place] == moved).all()
    assert (shifted[8:] == images[8:]).all()


def test_erasing_leaves_out_one_rectangle_of_bounded_sides() -> None:
    """Each mask is 1 but for one rectangle, its sides up to the longest, anywhere in the image."""
    masks = erasing_masks(3000, (28, 20), 6, np.random.default_rng(0))
    assert masks.shape == (3000, 28, 20)
    erased = masks == 0
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    assert (erased.sum(axis=(1, 2)) == heights * widths).all()
    assert heights.max() == widths.max() == 6
    assert heights.min() == widths.min() == 0
    assert erased.any(axis=0).all()
    assert (erasing_masks(10, (28, 20), 0, np.random.default_rng(0)) == 1).all()


def test_no_rectangle_is_larger_than_the_image() -> None:
    """A longest side beyond the image's own erases at most the image."""
    erased = erasing_masks(500, (8, 12), 28, np.random.default_rng(0)) == 0
    assert erased.any(axis=2).sum(axis=1).max() == 8
    assert erased.any(axis=1).sum(axis=1).max() == 12


def test_pooled_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """Over many batches the fraction dropped is the rate, and what is kept is scaled to match."""
    step = tf.Variable(0)
    layer = PooledDropout(0.3, 64, 512, step, np.random.default_rng(0))
    batches = []
    for number in range(20):
        step.assign(number)
        batches.append(layer(tf.ones((512, 64)), training=True).numpy())
    values = np.concatenate(batches)
    assert (values == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert values.mean() == pytest.approx(1, abs=0.01)
    assert any((batches[0] != batch).any() for batch in batches[1:])
    assert (layer(tf.ones((512, 64)), training=False).numpy() == 1).all()


def test_the_temperature_undoes_overconfidence_and_changes_no_prediction() -> None:
    """Logits that were tripled get a temperature of about 3."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 10)) * 2
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = (honest.cumsum(axis=1) > generator.random((20_000, 1))).argmax(axis=1)
    boastful = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    temperature = fit_temperature(boastful.astype(np.float32), chosen.astype(np.uint8))
    assert temperature == pytest.approx(3, rel=0.05)
    assert math.isfinite(temperature)
