"""Train the network: augmentation, schedule, early stopping, calibration, a saved file.

The data set is small enough to stay in memory, and the network small enough that the time between
two steps costs more than a step. So one compiled call runs a whole epoch, and Keras's own `fit`
sees an epoch as one batch: its callbacks, history and early stopping work as ever and cost
nothing for each step.
"""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import minimize_scalar

from fmnist import model
from fmnist.config import ModelSettings, TrainingSettings
from fmnist.dataset import IMAGE_SHAPE, LabelledImages
from fmnist.errors import StoreError, TrainingError
from fmnist.history import Epoch, TrainingResult

_POOL = 16_384


def _ignore(_: Epoch) -> None:
    """Report an epoch to nobody."""


def train(
    train_set: LabelledImages,
    validation_set: LabelledImages,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    path: Path,
    report: Callable[[Epoch], None] = _ignore,
) -> TrainingResult:
    """Train a network, calibrate it, and save it at `path` (`.keras`).

    The same settings and data give the same weights to the byte on the same machine, if they say
    `deterministic`. `report` is called after each epoch.

    Raises:
        TrainingError: the loss is no longer finite.
        StoreError: the file cannot be written.
    """
    start = time.monotonic()
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        # Seeds fix what is drawn; this fixes the order in which parallel sums are taken.
        tf.config.experimental.enable_op_determinism()

    network = model.build(model_settings)
    batch = min(settings.batch_size, len(train_set))
    steps = len(train_set) // batch
    schedule = learning_rate_schedule(settings, steps)
    trainer = EpochTrainer(network, settings, batch)
    trainer.compile(optimizer=adam(schedule, settings.weight_decay))
    early_stopping = keras.callbacks.EarlyStopping(
        monitor="val_accuracy", mode="max", patience=settings.patience, restore_best_weights=True
    )
    recorder = _Recorder(settings.epochs, schedule, steps, report)
    trainer.fit(
        whole_epoch(train_set, validation_set),
        epochs=settings.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[recorder, early_stopping],
    )
    temperature = fit_temperature(
        model.predict(network, validation_set.images), validation_set.labels
    )
    _divide_logits(network, temperature)
    try:
        network.save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space, or set store.work to another folder"
        ) from error
    return TrainingResult(
        model_sha256=digest,
        parameters=network.count_params(),
        history=tuple(recorder.epochs),
        best_epoch=early_stopping.best_epoch + 1,
        stopped_early=len(recorder.epochs) < settings.epochs,
        temperature=temperature,
        seconds=time.monotonic() - start,
    )


def learning_rate_schedule(
    settings: TrainingSettings, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the highest rate, then a cosine down to 0 at the last step.

    `steps` is the number of steps in an epoch. Source: Loshchilov & Hutter, "SGDR", 2017.
    """
    total = settings.epochs * steps
    warmup = round(total * settings.warmup)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=max(total - warmup, 1),
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def adam(schedule: Any, weight_decay: float) -> keras.optimizers.Adam:
    """Adam with decoupled weight decay on the kernels, not on biases or normalization."""
    adam = keras.optimizers.Adam(schedule, weight_decay=weight_decay or None)
    if weight_decay:
        adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adam


# ---- a whole epoch in one compiled call ---------------------------------------------------------


def whole_epoch(train_set: LabelledImages, validation_set: LabelledImages) -> tf.data.Dataset:
    """What `EpochTrainer` is fitted on: one element, which holds everything.

    The training images get a border of one empty pixel, `(n, 30, 30)`, ready to be shifted.
    """
    padded = np.pad(train_set.images, ((0, 0), (1, 1), (1, 1)))
    return tf.data.Dataset.from_tensors(
        ((padded, train_set.labels), (validation_set.images, validation_set.labels))
    )


class EpochTrainer(keras.Model):
    """Wraps the plain network: what Keras takes for one training step is a whole epoch.

    It is fitted on the one element of `whole_epoch`. The network's own layers and weights are
    trained; nothing of this class ends up in the saved file.
    """

    def __init__(self, network: keras.Model, settings: TrainingSettings, batch: int) -> None:
        """Wrap `network`, to be trained in batches of `batch` images by the recipe's settings."""
        super().__init__()
        self.network = network
        self._seed = settings.seed
        self._batch = batch
        self._shifted = settings.shifted
        generator = np.random.default_rng(settings.seed)
        self._twin = _with_pooled_dropout(network, batch, generator)
        self._erasures = _Pool(
            erasing_masks(_POOL + batch, settings.erased, generator), batch, generator
        )

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The network's probabilities."""
        return self.network(images, training=training)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Train on every image once, then validate; mean loss and accuracy of each."""
        (images, labels), (held_out_images, held_out_labels) = data
        loss, accuracy = self._run_epoch(images, labels)
        probabilities = self.network(held_out_images, training=False)
        val_loss, val_accuracy = _loss_and_accuracy(held_out_labels, probabilities)
        return {
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }

    @tf.function
    def _run_epoch(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Shuffle, then train on each full batch; the few images left over sit this epoch out."""
        size = images.shape[0]
        steps = size // self._batch
        variables = _learning_variables(self.network)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), tf.stack([self._seed, tf.cast(self.optimizer.iterations, tf.int64)])
        )
        loss_sum, accuracy_sum = tf.constant(0.0), tf.constant(0.0)
        for step in tf.range(steps):
            rows = order[step * self._batch : (step + 1) * self._batch]
            rows = tf.ensure_shape(rows, (self._batch,))
            batch_labels = tf.gather(labels, rows)
            batch_images = shift(tf.gather(images, rows), self._shifted) * self._erasures.draw()
            with tf.GradientTape() as tape:
                probabilities = self._twin(batch_images, training=True)
                loss, accuracy = _loss_and_accuracy(batch_labels, probabilities)
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            loss_sum += loss
            accuracy_sum += accuracy
        return loss_sum / steps, accuracy_sum / steps


def _learning_variables(network: keras.Model) -> list[keras.Variable]:
    """The trainable variables, without the biases that a BatchNormalization follows.

    It subtracts the mean that such a bias shifts: the gradient is 0 by the formula, so it is not
    computed, and the bias stays at the 0 it starts from.
    """
    idle = [
        layer.bias
        for layer, following in zip(network.layers, network.layers[1:], strict=False)
        if isinstance(following, keras.layers.BatchNormalization)
    ]
    return [
        variable
        for variable in network.trainable_variables
        if not any(variable is bias for bias in idle)
    ]


def _loss_and_accuracy(labels: tf.Tensor, probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
    hits = keras.metrics.sparse_categorical_accuracy(labels, probabilities)
    return loss, tf.reduce_mean(hits)


def shift(padded: tf.Tensor, share: float) -> tf.Tensor:
    """Shift a share of the images by one pixel.

    `padded` is `(n, 30, 30)` in random order; the result `(n, 28, 28)`. The first `share * n`
    images are shifted, an equal block of them in each of the eight directions: the order is random
    already, so no random number or gather is spent on it.
    """
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    offsets = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    block = int(padded.shape[0] * share) // len(offsets)
    blocks = [
        padded[place * block : (place + 1) * block, y : y + height, x : x + width]
        for place, (y, x) in enumerate(offsets)
    ]
    blocks.append(padded[block * len(offsets) :, 1 : 1 + height, 1 : 1 + width])
    return tf.concat(blocks, axis=0)


def erasing_masks(
    count: int, longest: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Masks `(count, 28, 28)` of ones with a rectangle of zeros, its sides 0 to `longest` pixels.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2020.
    """

    def stretches(size: int) -> npt.NDArray[np.bool_]:
        length = generator.integers(0, longest + 1, (count, 1))
        first = generator.integers(0, size + 1 - length)
        position = np.arange(size)
        return (position >= first) & (position < first + length)

    height, width = IMAGE_SHAPE
    rows, columns = stretches(height), stretches(width)
    return (~(rows[:, :, None] & columns[:, None, :])).astype(np.uint8)


class _Pool:
    """Masks made once, of which each step uses a stretch of `batch` from a random start.

    The images come in random order, so each meets masks at random all the same; and to draw one
    number for a step costs nothing, where a number for each activation costs as much as a layer.
    """

    def __init__(self, masks: npt.NDArray[Any], batch: int, generator: np.random.Generator) -> None:
        self._masks = tf.constant(masks)
        self._batch = batch
        self._starts = len(masks) - batch
        self._seeds = keras.random.SeedGenerator(int(generator.integers(2**31)))

    def draw(self) -> tf.Tensor:
        """The masks for one batch."""
        start = tf.random.stateless_uniform(
            (), self._seeds.next(), maxval=self._starts, dtype=tf.int32
        )
        return tf.ensure_shape(
            self._masks[start : start + self._batch], (self._batch, *self._masks.shape[1:])
        )


class PooledDropout(keras.layers.Layer):
    """Dropout for training in batches of one size, with masks from a pool."""

    def __init__(self, rate: float, units: int, batch: int, generator: np.random.Generator) -> None:
        """Drop the share `rate` of `units` activations, and scale the others to make up for it."""
        super().__init__()
        kept = generator.random((_POOL + batch, units), np.float32) >= rate
        self._masks = _Pool((kept / (1 - rate)).astype(np.float32), batch, generator)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The inputs `(batch, units)`, some of them dropped if `training`."""
        return inputs * self._masks.draw() if training else inputs


def _with_pooled_dropout(
    network: keras.Model, batch: int, generator: np.random.Generator
) -> keras.Model:
    """The same layers and weights with another dropout between them, for training alone."""
    images = keras.Input(network.input_shape[1:])
    x = images
    for layer in network.layers[1:]:
        if isinstance(layer, keras.layers.Dropout):
            if layer.rate:
                x = PooledDropout(layer.rate, x.shape[-1], batch, generator)(x)
        else:
            x = layer(x)
    return keras.Model(images, x)


class _Recorder(keras.callbacks.Callback):
    """Keeps and reports each epoch's figures, and ends a training whose loss is not finite."""

    def __init__(self, of: int, schedule: Any, steps: int, report: Callable[[Epoch], None]) -> None:
        super().__init__()
        self.epochs: list[Epoch] = []
        self._of, self._schedule, self._steps, self._report = of, schedule, steps, report
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = {name: float(value) for name, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in figures.values()):
            raise TrainingError(
                f"the loss was no longer finite in epoch {epoch + 1} of {self._of}; lower "
                "training.learning_rate or training.weight_decay"
            )
        last_step = (epoch + 1) * self._steps - 1
        self.epochs.append(
            Epoch(
                number=epoch + 1,
                of=self._of,
                **figures,
                learning_rate=float(self._schedule(last_step)),
                seconds=time.monotonic() - self._start,
            )
        )
        self._report(self.epochs[-1])


# ---- calibration --------------------------------------------------------------------------------


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


def _divide_logits(network: keras.Model, temperature: float) -> None:
    """Fold the temperature into the last layer, so that the published file needs no extra step."""
    last = network.layers[-1]
    last.set_weights([weight / temperature for weight in last.get_weights()])
