"""Train the network: augmentation, schedule, early stopping, calibration, a saved file.

The data set fits into memory, and the network is so small that the time between two steps of
Keras's own `fit` costs more than a step. So one compiled call runs an entire epoch. The operations
are so small, too, that threads which share one mostly wait for each other. So each half of a batch
goes through the network by itself, in parallel with the other.
"""

import hashlib
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Keras takes the seeds of initial weights from here, and offers no other way to seed them.
from keras.src.random import seed_generator

from fmnist.data.records import Bytes, LabelledImages
from fmnist.environment import precision_here
from fmnist.errors import TrainingError, writing
from fmnist.settings import ModelSettings, TrainingSettings
from fmnist.training.augmentation import erasing_masks, shift
from fmnist.training.calibration import divide_logits, fit_temperature
from fmnist.training.graph import for_training, learning_variables
from fmnist.training.masks import MaskPool, pool_size
from fmnist.training.model_file import predict, save_model
from fmnist.training.network import build
from fmnist.training.optimizer import Adam, learning_rates
from fmnist.training.records import Epoch, TrainingResult

_HALVES = 2
# Of TensorFlow's tensors, in bytes.
_ALIGNMENT = 64


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
    set_up_threads()
    keras.utils.set_random_seed(settings.seed)
    # Not from Python's shared generator: other threads, such as Prefect's, draw from that as well.
    seed_generator.python_random = random.Random(settings.seed)  # noqa: S311 - no secret
    if settings.deterministic:
        # Seeds fix what is drawn; this fixes the order in which parallel sums are taken.
        tf.config.experimental.enable_op_determinism()

    image_shape = train_set.images.shape[1:]
    network = build(model_settings, image_shape, classes)
    trainer = EpochTrainer(network, settings, train_set, validation_set)
    history = _train(network, trainer, settings, report)
    best = max(history, key=lambda epoch: epoch.val_accuracy)
    temperature = fit_temperature(predict(network, validation_set.images), validation_set.labels)
    calibrated = divide_logits(network, temperature)
    with writing(path, "set store.work to another folder"):
        save_model(calibrated, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TrainingResult(
        model_sha256=digest,
        parameters=network.count_params(),
        history=history,
        best_epoch=best.number,
        stopped_early=len(history) < settings.epochs,
        temperature=temperature,
        seconds=time.monotonic() - start,
        image_shape=image_shape,
    )


def _set_up_keras() -> None:
    """Let the user's `keras.json` change nothing."""
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def set_up_threads() -> None:
    """Have TensorFlow compute both halves of a batch at once, each on its share of the processors.

    Call it before the process first uses TensorFlow; later, it has no effect. Variables that the
    user has set take precedence.
    """
    cores = os.cpu_count() or 1
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(_HALVES))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // _HALVES)))


def _train(
    network: keras.Model,
    trainer: "EpochTrainer",
    settings: TrainingSettings,
    report: Callable[[Epoch], None],
) -> tuple[Epoch, ...]:
    """Train until validation has not improved for `patience` epochs; keep the best weights."""
    history: list[Epoch] = []
    best, weights = 0, network.get_weights()
    for number in range(1, settings.epochs + 1):
        start = time.monotonic()
        figures = trainer.run_epoch()
        if not all(map(math.isfinite, figures)):
            raise TrainingError(
                f"the loss was no longer finite in epoch {number} of {settings.epochs}; lower "
                "training.learning_rate or training.weight_decay"
            )
        epoch = Epoch(
            number,
            settings.epochs,
            *figures,
            learning_rate=trainer.last_rate(number),
            seconds=time.monotonic() - start,
        )
        history.append(epoch)
        report(epoch)
        if not best or epoch.val_accuracy > history[best - 1].val_accuracy:
            best, weights = number, network.get_weights()
        elif number - best >= settings.patience:
            break
    network.set_weights(weights)
    return tuple(history)


class EpochTrainer:
    """Trains a network, one compiled call for an epoch with its validation.

    The network's own layers and weights are trained, in full batches of images. Each half of a batch
    has its own dropout, and is normalized by its own mean and variance.
    """

    def __init__(
        self,
        network: keras.Model,
        settings: TrainingSettings,
        train_set: LabelledImages,
        validation_set: LabelledImages,
    ) -> None:
        self._network = network
        self._settings = settings
        self._half = min(settings.batch_size, len(train_set)) // _HALVES
        self._batch = _HALVES * self._half
        self._steps = len(train_set) // self._batch
        self._rates = learning_rates(settings, self._steps)
        self._images, self._labels = _as_tensor(train_set.images), _as_tensor(train_set.labels)
        self._held_out = _as_tensor(validation_set.images), _as_tensor(validation_set.labels)
        self._step = tf.Variable(0, dtype=tf.int32, trainable=False)
        self._variables = learning_variables(network)
        self._adam = Adam(self._variables, settings.weight_decay)
        generator = np.random.default_rng(settings.seed)
        precision = precision_here(settings.precision)
        self._training_networks = [
            for_training(network, self._half, self._step, generator, precision)
            for _ in range(_HALVES)
        ]
        image_shape = network.input_shape[1:]
        masks = erasing_masks(
            pool_size(math.prod(image_shape), self._batch),
            image_shape,
            settings.max_erase_size,
            generator,
        )
        self._erasures = MaskPool(masks, self._batch, self._step, generator)
        # Without AutoGraph, which would take seconds to rewrite code that needs no rewriting.
        self._compiled = tf.function(self._epoch, autograph=False)

    def run_epoch(self) -> tuple[float, float, float, float]:
        """Train on every image once, then validate: loss and accuracy of each, in the mean."""
        loss, accuracy, val_loss, val_accuracy = map(float, self._compiled().numpy())
        return loss, accuracy, val_loss, val_accuracy

    def last_rate(self, epoch: int) -> float:
        """The learning rate of the last step of this epoch, from 1."""
        return float(self._rates[epoch * self._steps - 1])

    def _epoch(self) -> tf.Tensor:
        """Shuffle, then train on each full batch; the few images left over sit this epoch out."""
        size, rates = len(self._images), tf.constant(self._rates)
        seed = tf.stack([self._settings.seed, self._step])
        order = tf.random.experimental.stateless_shuffle(tf.range(size), seed)

        def train(number: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = order[number * self._batch : (number + 1) * self._batch]
            found = self._train_step(tf.ensure_shape(rows, (self._batch,)), rates[self._step])
            return number + 1, *(a + b for a, b in zip(sums, found, strict=True))

        def validate(start: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, labels = (part[start : start + self._batch] for part in self._held_out)
            probabilities = self._network(images, training=False)
            count = tf.cast(tf.shape(labels)[0], tf.float32)
            found = _loss_and_accuracy(labels, probabilities)
            return start + self._batch, *(a + b * count for a, b in zip(sums, found, strict=True))

        steps, held_out = self._steps, len(self._held_out[1])
        _, *trained = tf.while_loop(lambda at, *_: at < steps, train, (0, 0.0, 0.0))
        with tf.control_dependencies(trained):
            # Only a few batches at a time: the activations of all of them may not fit.
            _, *validated = tf.while_loop(
                lambda at, *_: at < held_out, validate, (0, 0.0, 0.0), parallel_iterations=_HALVES
            )
        return tf.stack([*(one / steps for one in trained), *(one / held_out for one in validated)])

    def _train_step(self, rows: tf.Tensor, rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = [variable.value for variable in self._variables]
        halves = zip(
            self._training_networks,
            tf.split(rows, _HALVES),
            tf.split(self._erasures.draw(), _HALVES),
            strict=True,
        )
        # Each has half the weight, so that the sums are the means of the batch.
        parts = [self._half_step(*half, values) for half in halves]
        losses, accuracies, gradients = zip(*parts, strict=True)
        summed = [tf.add_n(gradient) for gradient in zip(*gradients, strict=True)]
        self._adam.apply(summed, rate, self._step)
        self._step.assign_add(1)
        return tf.add_n(losses), tf.add_n(accuracies)

    def _half_step(
        self, network: keras.Model, rows: tf.Tensor, erasures: tf.Tensor, values: list[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        labels = tf.gather(self._labels, rows)
        shifted = shift(tf.gather(self._images, rows), self._settings.shift_fraction)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            probabilities = network(shifted * erasures, training=True)
            loss, accuracy = _loss_and_accuracy(labels, probabilities)
            total = tf.add_n([loss, *network.losses]) / _HALVES
        return loss / _HALVES, accuracy / _HALVES, tape.gradient(total, values)


def _as_tensor(array: Bytes) -> tf.Tensor:
    """The array as a tensor, without a copy if it may be, as an array in a file of NumPy's may."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


def _loss_and_accuracy(labels: tf.Tensor, probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
    hits = keras.metrics.sparse_categorical_accuracy(labels, probabilities)
    return loss, tf.reduce_mean(hits)
