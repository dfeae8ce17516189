"""How long one epoch takes: ours, stock Keras, and the matrix products alone, in one run.

    python benchmarks/epoch.py > benchmarks/results/epoch.md

An epoch is 48,000 training images and the validation on 12,000. The three take turns, so that a
noisy machine disturbs all of them alike; each gives the median of three epochs to a round, and the
ratios are taken within each round. All run with the settings for reproducible results that training
uses; `--without-determinism` leaves them out.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import conditions
import keras
import numpy as np
import tensorflow as tf

from fmnist.data.fetch import fetch_files
from fmnist.data.idx import read_labelled_images
from fmnist.data.records import LabelledImages
from fmnist.data.split import split
from fmnist.settings import Settings
from fmnist.training.loop import EpochTrainer, adam, full_epoch, learning_rate_schedule
from fmnist.training.network import build

ROUNDS = 7
EPOCHS = 3
SEED = 0
STOCK_BATCH = 128


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch, its validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-determinism", action="store_true")
    deterministic = not parser.parse_args().without_determinism
    keras.utils.set_random_seed(SEED)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    settings = Settings()
    fetched = fetch_files(settings.data)
    classes = len(settings.data.class_names)
    everything = read_labelled_images(fetched.train_images, fetched.train_labels, classes)
    train, validation = split(everything, settings.split)
    contenders = {
        "ours": ours(settings, train, validation),
        f"stock Keras fit, batch {STOCK_BATCH}": stock(settings, train, validation),
        "matrix products alone": matrix_products(settings, train, len(validation)),
    }
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, run in contenders.items():
            measured = run()
            if number:  # The first round compiles.
                rounds[name].append(measured)
        print(f"round {number} of {ROUNDS} done", file=sys.stderr)
    print(
        f"Seconds for one epoch, {ROUNDS} rounds, {'with' if deterministic else 'without'} "
        f"determinism. {conditions.line()}.\n"
    )
    print("| | minimum | median | maximum | ours / this, median |\n|---|---:|---:|---:|---:|")
    for name, seconds in rounds.items():
        ratio = statistics.median(a / b for a, b in zip(rounds["ours"], seconds, strict=True))
        figures = (min(seconds), statistics.median(seconds), max(seconds))
        print(
            f"| {name} | "
            + " | ".join(f"{figure:.3f}" for figure in figures)
            + f" | {ratio:.3f} (1 / {1 / ratio:.2f}) |"
        )


def ours(
    settings: Settings, train: LabelledImages, validation: LabelledImages
) -> Callable[[], float]:
    """One compiled call for an epoch, as `fmnist.training` does it."""
    trainer = EpochTrainer(
        _network(settings, train), settings.training, settings.training.batch_size
    )
    steps = len(train) // settings.training.batch_size
    trainer.compile(
        optimizer=adam(
            learning_rate_schedule(settings.training, steps), settings.training.weight_decay
        )
    )
    epoch = full_epoch(train, validation)

    def run() -> float:
        clock = _Clock()
        trainer.fit(epoch, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[clock])
        return statistics.median(clock.seconds)

    return run


def _network(settings: Settings, train: LabelledImages) -> keras.Model:
    return build(settings.model, train.images.shape[1:], len(settings.data.class_names))


def stock(
    settings: Settings, train: LabelledImages, validation: LabelledImages
) -> Callable[[], float]:
    """The same network trained by `compile` and `fit`, on images that are floats already."""
    network = _network(settings, train)
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, held_out = train.images.astype(np.float32), validation.images.astype(np.float32)

    def run() -> float:
        clock = _Clock()
        network.fit(
            images,
            train.labels,
            validation_data=(held_out, validation.labels),
            batch_size=STOCK_BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[clock],
        )
        return statistics.median(clock.seconds)

    return run


def matrix_products(
    settings: Settings, train: LabelledImages, held_out: int
) -> Callable[[], float]:
    """The floor: the matrix products of every step, forward and backward, and of the validation."""
    batch = settings.training.batch_size
    units = (train.images[0].size, *settings.model.hidden, len(settings.data.class_names))
    kernels = [tf.random.normal(shape) for shape in itertools.pairwise(units)]
    inputs = [tf.random.normal((batch, width)) for width in units]
    held_out_inputs = [tf.random.normal((held_out, width)) for width in units[:-1]]

    @tf.function
    def step() -> list[tf.Tensor]:
        forward = [tf.matmul(x, kernel) for x, kernel in zip(inputs, kernels, strict=False)]
        to_kernels = [tf.matmul(x, y, transpose_a=True) for x, y in itertools.pairwise(inputs)]
        # The first layer's input needs no gradient.
        to_inputs = [
            tf.matmul(y, kernel, transpose_b=True)
            for y, kernel in zip(inputs[2:], kernels[1:], strict=True)
        ]
        return forward + to_kernels + to_inputs

    @tf.function
    def validate() -> list[tf.Tensor]:
        return [tf.matmul(x, kernel) for x, kernel in zip(held_out_inputs, kernels, strict=True)]

    def run() -> float:
        seconds = []
        for _ in range(EPOCHS):
            start = time.perf_counter()
            for _ in range(len(train) // batch):
                step()
            validate()[-1].numpy()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return run


if __name__ == "__main__":
    main()
