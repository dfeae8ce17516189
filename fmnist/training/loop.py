"""Train the network: augmentation, schedule, early stopping, calibration, a saved file.

The data set fits into memory, and the network is so small that the time between two steps costs
more than a step. So one compiled call runs an entire epoch, and Keras's own `fit` sees an epoch as
one batch: its callbacks, history and early stopping work as usual, at no cost per step.
"""

import hashlib
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras takes the seeds of initial weights from here, and offers no other way to seed them.
from keras.src.random import seed_generator

from fmnist.data.records import LabelledImages
from fmnist.errors import TrainingError, writing
from fmnist.settings import ModelSettings, TrainingSettings
from fmnist.training.augmentation import erasing_masks, shift
from fmnist.training.calibration import divide_logits, fit_temperature
from fmnist.training.graph import learning_variables, with_pooled_dropout
from fmnist.training.masks import MaskPool, pool_size
from fmnist.training.model_file import predict, save_model
from fmnist.training.network import build
from fmnist.training.records import Epoch, TrainingResult


def train_network(
    train_set: LabelledImages,
    validation_set: LabelledImages,
    classes: int,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    path: Path,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainingResult:
    """Train a network for images of that many classes, calibrate it, save it at `path` (`.keras`).

    If the settings say `deterministic`, the same settings and data give the same weights to the
    byte on the same machine, and the same file. `report` is called after each epoch.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    start = time.monotonic()
    _set_up_keras()
    keras.utils.set_random_seed(settings.seed)
    # Not from Python's shared generator: other threads, such as Prefect's, draw from that as well.
    seed_generator.python_random = random.Random(settings.seed)  # noqa: S311 - no secret
    if settings.deterministic:
        # Seeds fix what is drawn; this fixes the order in which parallel sums are taken.
        tf.config.experimental.enable_op_determinism()

    image_shape = train_set.images.shape[1:]
    network = build(model_settings, image_shape, classes)
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
        full_epoch(train_set, validation_set),
        epochs=settings.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[recorder, early_stopping],
    )
    temperature = fit_temperature(predict(network, validation_set.images), validation_set.labels)
    calibrated = divide_logits(network, temperature)
    with writing(path, "set store.work to another folder"):
        save_model(calibrated, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TrainingResult(
        model_sha256=digest,
        parameters=network.count_params(),
        history=tuple(recorder.epochs),
        best_epoch=early_stopping.best_epoch + 1,
        stopped_early=len(recorder.epochs) < settings.epochs,
        temperature=temperature,
        seconds=time.monotonic() - start,
        image_shape=image_shape,
    )


def _set_up_keras() -> None:
    """Let the user's `keras.json` change nothing."""
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def learning_rate_schedule(
    settings: TrainingSettings, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the highest rate, then a cosine down to 0 at the last step.

    `steps` is the number of steps per epoch. Source: Loshchilov & Hutter, "SGDR", 2017.
    """
    total = settings.epochs * steps
    warmup = round(total * settings.warmup_fraction)
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


def full_epoch(train_set: LabelledImages, validation_set: LabelledImages) -> tf.data.Dataset:
    """What `EpochTrainer` is fitted on: one element that holds everything.

    The training images get a border of one empty pixel, ready to be shifted.
    """
    padded = np.pad(train_set.images, ((0, 0), (1, 1), (1, 1)))
    return tf.data.Dataset.from_tensors(
        ((padded, train_set.labels), (validation_set.images, validation_set.labels))
    )


class EpochTrainer(keras.Model):
    """Wraps the network so that one of Keras's training steps is an entire epoch.

    The network's own layers and weights are trained, in batches of `batch` images; nothing of this
    class ends up in the saved file.
    """

    def __init__(self, network: keras.Model, settings: TrainingSettings, batch: int) -> None:
        super().__init__()
        self.network = network
        self._seed = settings.seed
        self._batch = batch
        self._shift_fraction = settings.shift_fraction
        generator = np.random.default_rng(settings.seed)
        self._training_network = with_pooled_dropout(network, batch, generator)
        image_shape = network.input_shape[1:]
        masks = pool_size(math.prod(image_shape), batch)
        self._erasures = MaskPool(
            erasing_masks(masks, image_shape, settings.max_erase_size, generator), batch, generator
        )

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Train on every image once, then validate; returns the mean loss and accuracy of each."""
        training, validation = data
        figures = (*self._run_epoch(*training), *self._validate(*validation))
        return dict(zip(("loss", "accuracy", "val_loss", "val_accuracy"), figures, strict=True))

    @tf.function
    def _run_epoch(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Shuffle, then train on each full batch; the few images left over sit this epoch out."""
        size = images.shape[0]
        steps = size // self._batch
        variables = learning_variables(self.network)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), tf.stack([self._seed, tf.cast(self.optimizer.iterations, tf.int64)])
        )
        loss_sum, accuracy_sum = tf.constant(0.0), tf.constant(0.0)
        for step in tf.range(steps):
            rows = order[step * self._batch : (step + 1) * self._batch]
            rows = tf.ensure_shape(rows, (self._batch,))
            batch_labels = tf.gather(labels, rows)
            shifted = shift(tf.gather(images, rows), self._shift_fraction)
            with tf.GradientTape() as tape:
                erased = shifted * self._erasures.draw()
                probabilities = self._training_network(erased, training=True)
                loss, accuracy = _loss_and_accuracy(batch_labels, probabilities)
                total = tf.add_n([loss, *self._training_network.losses])
            self.optimizer.apply(tape.gradient(total, variables), variables)
            loss_sum += loss
            accuracy_sum += accuracy
        return loss_sum / steps, accuracy_sum / steps

    @tf.function
    def _validate(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean loss and accuracy, one batch at a time: all activations at once may not fit."""
        size = images.shape[0]
        loss_sum, accuracy_sum = tf.constant(0.0), tf.constant(0.0)
        for start in tf.range(0, size, self._batch):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            rows = slice(start, start + self._batch)
            probabilities = self.network(images[rows], training=False)
            loss, accuracy = _loss_and_accuracy(labels[rows], probabilities)
            count = tf.cast(tf.shape(probabilities)[0], tf.float32)
            loss_sum += loss * count
            accuracy_sum += accuracy * count
        return loss_sum / size, accuracy_sum / size


def _loss_and_accuracy(labels: tf.Tensor, probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
    hits = keras.metrics.sparse_categorical_accuracy(labels, probabilities)
    return loss, tf.reduce_mean(hits)


class _Recorder(keras.callbacks.Callback):
    """Keeps and reports each epoch's figures, and stops when the loss is not finite."""

    def __init__(
        self, total: int, schedule: Any, steps: int, report: Callable[[Epoch], None]
    ) -> None:
        super().__init__()
        self.epochs: list[Epoch] = []
        self._total, self._schedule, self._steps, self._report = total, schedule, steps, report

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        figures = {name: float(value) for name, value in logs.items()}
        if not all(map(math.isfinite, figures.values())):
            where = f"in epoch {epoch + 1} of {self._total}"
            remedy = "lower training.learning_rate or training.weight_decay"
            raise TrainingError(f"the loss was no longer finite {where}; {remedy}")
        last_step = (epoch + 1) * self._steps - 1
        ended = Epoch(
            number=epoch + 1,
            total=self._total,
            **figures,
            learning_rate=float(self._schedule(last_step)),
            seconds=time.monotonic() - self._start,
        )
        self.epochs.append(ended)
        self._report(ended)
