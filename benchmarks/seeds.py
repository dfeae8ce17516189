"""How good the default recipe is, over many seeds: one table.

    python benchmarks/seeds.py --seeds 20 > benchmarks/results/seeds.md

Each seed trains once with the defaults and looks at the test set once. The data come from where
the settings say.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import conditions

from fmnist.data.fetch import fetch_files
from fmnist.data.split import load_images, prepare_sets
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Evaluation
from fmnist.settings import Settings
from fmnist.training.loop import train_network
from fmnist.training.model_file import load_model_bytes, predict
from fmnist.training.records import TrainingResult

HEADER = (
    "seed",
    "test accuracy",
    "95 % interval",
    "validation accuracy",
    "kept epoch",
    "last / lowest validation loss",
    "calibration error",
    "temperature",
    "seconds",
)


def main() -> None:
    """Print the table and its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    count = parser.parse_args().seeds
    settings = Settings()
    evaluations, results = [], []
    print(f"Default recipe, seeds 0 to {count - 1}. {conditions.line()}.\n", flush=True)
    print(f"| {' | '.join(HEADER)} |\n|{'---:|' * len(HEADER)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare_sets(fetch_files(settings.data), settings.data, settings.split, folder)
        train_set, validation_set = load_images(prepared.train), load_images(prepared.validation)
        test_set = load_images(prepared.test)
        for seed in range(count):
            recipe = settings.training.model_copy(update={"seed": seed})
            path = folder / f"{seed}.keras"
            classes = len(settings.data.class_names)
            result = train_network(train_set, validation_set, classes, settings.model, recipe, path)
            probabilities = predict(load_model_bytes((path).read_bytes()), test_set.images)
            evaluation = evaluate(probabilities, test_set.labels, settings.data.class_names)
            evaluations.append(evaluation)
            results.append(result)
            print(_row(seed, evaluation, result), flush=True)
            print(f"seed {seed} of {count} done", file=sys.stderr)
    print(_summary(evaluations, results))


def _row(seed: int, evaluation: Evaluation, result: TrainingResult) -> str:
    cells = (
        str(seed),
        f"{evaluation.accuracy:.4f}",
        f"{evaluation.interval.low:.4f} to {evaluation.interval.high:.4f}",
        f"{result.best.val_accuracy:.4f}",
        str(result.best_epoch),
        f"{result.end_of_validation_loss:.4f}",
        f"{evaluation.calibration_error:.4f}",
        f"{result.temperature:.3f}",
        f"{result.seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _summary(evaluations: list[Evaluation], results: list[TrainingResult]) -> str:
    def of(name: str, figures: list[float]) -> str:
        low, middle, high = min(figures), statistics.median(figures), max(figures)
        return f"- {name}: minimum {low:.4f}, median {middle:.4f}, maximum {high:.4f}"

    return "\n" + "\n".join(
        (
            of("test accuracy", [evaluation.accuracy for evaluation in evaluations]),
            of("validation accuracy", [result.best.val_accuracy for result in results]),
            of(
                "last / lowest validation loss",
                [result.end_of_validation_loss for result in results],
            ),
            of("calibration error", [evaluation.calibration_error for evaluation in evaluations]),
        )
    )


if __name__ == "__main__":
    main()
