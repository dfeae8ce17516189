"""How long one epoch takes: ours, stock Keras, and the matrix products alone, in one run.

    python benchmarks/epoch.py > benchmarks/results/epoch.md

An epoch is 48,000 training images and the validation on 12,000. Each of the three has a process of
its own, with its own threads, and they take turns, so that a noisy machine disturbs all of them
alike. The figures are of single epochs; the ratios are taken between the medians of each round. All
run with the settings for reproducible results that training uses; `--without-determinism` leaves
them out.
"""

import argparse
import contextlib
import itertools
import multiprocessing
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
from fmnist.training.loop import EpochTrainer, set_up_threads
from fmnist.training.network import build

ROUNDS = 7
EPOCHS = 5
SEED = 0
STOCK_BATCH = 128
OURS = "ours"

_run: Callable[[], list[float]]


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch, its validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def prepare(name: str, deterministic: bool) -> None:
    """Get this process ready to run one of the contenders."""
    global _run
    if name == OURS:
        set_up_threads()
    keras.utils.set_random_seed(SEED)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    settings = Settings()
    fetched = fetch_files(settings.data)
    classes = len(settings.data.class_names)
    everything = read_labelled_images(fetched.train_images, fetched.train_labels, classes)
    sides = (everything[side] for side in split(everything.labels, settings.split))
    _run = CONTENDERS[name](settings, *sides)


def run_round() -> list[float]:
    """Seconds of each epoch of a round, in a process that `prepare` got ready."""
    return _run()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-determinism", action="store_true")
    deterministic = not parser.parse_args().without_determinism
    settings = Settings()
    rounds: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    processes = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {
            name: stack.enter_context(processes.Pool(1, prepare, (name, deterministic)))
            for name in CONTENDERS
        }
        for number in range(ROUNDS + 1):
            for name, pool in pools.items():
                measured = pool.apply(run_round)
                if number:  # The first round compiles.
                    rounds[name].append(measured)
            print(f"round {number} of {ROUNDS} done", file=sys.stderr)
    print(
        f"Seconds for one epoch, {ROUNDS} rounds of {EPOCHS} epochs, "
        f"{'with' if deterministic else 'without'} determinism, in {settings.training.precision}. "
        f"{conditions.line()}.\n"
    )
    print(
        "| | 5th percentile | median | 95th percentile | ours / this |\n|---|---:|---:|---:|---:|"
    )
    for name, seconds in rounds.items():
        pairs = zip(rounds[OURS], seconds, strict=True)
        ratio = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
        figures = " | ".join(f"{figure:.3f}" for figure in np.percentile(seconds, [5, 50, 95]))
        print(f"| {name} | {figures} | {ratio:.3f} (1 / {1 / ratio:.2f}) |")


def ours(
    settings: Settings, train: LabelledImages, validation: LabelledImages
) -> Callable[[], list[float]]:
    """One compiled call for an epoch, as `fmnist.training` does it."""
    network = _network(settings, train)
    # One schedule for all rounds: a step has its number, and there is a rate for each.
    recipe = settings.training.model_copy(update={"epochs": (ROUNDS + 1) * EPOCHS})
    return _timed(EpochTrainer(network, recipe, train, validation).run_epoch)


def _timed(run_epoch: Callable[[], object]) -> Callable[[], list[float]]:
    """Seconds of each epoch of a round."""

    def run() -> list[float]:
        seconds = []
        for _ in range(EPOCHS):
            start = time.perf_counter()
            run_epoch()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


def _network(settings: Settings, train: LabelledImages) -> keras.Model:
    return build(settings.model, train.images.shape[1:], len(settings.data.class_names))


def stock(
    settings: Settings, train: LabelledImages, validation: LabelledImages
) -> Callable[[], list[float]]:
    """The same network trained by `compile` and `fit`, on images that are floats already."""
    network = _network(settings, train)
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, held_out = train.images.astype(np.float32), validation.images.astype(np.float32)

    def run() -> list[float]:
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
        return clock.seconds

    return run


def matrix_products(
    settings: Settings, train: LabelledImages, validation: LabelledImages
) -> Callable[[], list[float]]:
    """The floor: the matrix products of every step, forward and backward, and of the validation."""
    batch = settings.training.batch_size
    units = (train.images[0].size, *settings.model.hidden, len(settings.data.class_names))
    kernels = [tf.random.normal(shape) for shape in itertools.pairwise(units)]
    inputs = [tf.random.normal((batch, width)) for width in units]
    held_out_inputs = [tf.random.normal((len(validation), width)) for width in units[:-1]]

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

    def run_epoch() -> None:
        for _ in range(len(train) // batch):
            step()
        validate()[-1].numpy()

    return _timed(run_epoch)


CONTENDERS = {
    OURS: ours,
    f"stock Keras fit, batch {STOCK_BATCH}": stock,
    "matrix products alone": matrix_products,
}

if __name__ == "__main__":
    main()
