"""Judge class probabilities against the true labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fmnist.data.records import Bytes

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
_PAIRS_KEPT = 10
_MISTAKES_KEPT = 24


@dataclass(frozen=True)
class Interval:
    """A confidence interval for a share, at the level `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 and number of images of one class, or an average over the classes."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """How many images of one class were taken for another."""

    true: str
    predicted: str
    images: int


@dataclass(frozen=True)
class Mistake:
    """One wrongly classified image, by its place in the test set."""

    index: int
    true: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of one look at the test set.

    `loss` is the mean cross-entropy; `calibration_error` the expected calibration error;
    `confusion[true][predicted]` counts images; pairs and mistakes come worst first;
    `predictions_sha256` is the digest that `digest_of_predictions` makes of all predictions (empty
    in runs of before it was kept).
    """

    images: int
    correct: int
    accuracy: float
    interval: Interval
    loss: float
    calibration_error: float
    classes: tuple[ClassScores, ...]
    averages: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused_pairs: tuple[ConfusedPair, ...]
    mistakes: tuple[Mistake, ...]
    predictions_sha256: str = ""


def digest_of_predictions(probabilities: npt.NDArray[np.float32]) -> str:
    """The SHA-256 of the predicted class of each image, one byte each, in hexadecimal."""
    return hashlib.sha256(probabilities.argmax(axis=1).astype(np.uint8).tobytes()).hexdigest()


def evaluate(
    probabilities: npt.NDArray[np.float32], labels: Bytes, class_names: Sequence[str]
) -> Evaluation:
    """Judge probabilities `(n, classes)` by the true labels `(n,)`."""
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    confusion = confusion_matrix(labels, predicted, labels=np.arange(len(class_names)))
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return Evaluation(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        loss=float(-np.log(np.clip(of_truth, 1e-30, None)).mean()),
        calibration_error=expected_calibration_error(probabilities, labels),
        classes=_scores_of_classes(labels, predicted, class_names),
        averages=tuple(_average(labels, predicted, kind) for kind in ("macro", "weighted")),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        confused_pairs=_confused_pairs(confusion, class_names),
        mistakes=_mistakes(probabilities, predicted, labels, class_names),
        predictions_sha256=digest_of_predictions(probabilities),
    )


def wilson_interval(correct: int, images: int) -> Interval:
    """The Wilson score interval for the share `correct / images` (Wilson, 1927)."""
    found = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def expected_calibration_error(probabilities: npt.NDArray[np.float32], labels: Bytes) -> float:
    """Mean distance between confidence and accuracy over 15 equal-width bins of confidence.

    Each bin counts by its number of images. Source: Guo et al., "On Calibration of Modern Neural
    Networks", 2017.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    hit = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    gaps = [abs(float((hit - confidence)[bins == place].sum())) for place in np.unique(bins)]
    return sum(gaps) / len(labels)


def _scores_of_classes(
    labels: Bytes, predicted: npt.NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ClassScores, ...]:
    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(class_names)), zero_division=0.0
    )
    return tuple(
        ClassScores(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(class_names, *columns, strict=True)
    )


def _average(labels: Bytes, predicted: npt.NDArray[np.int64], kind: str) -> ClassScores:
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, average=kind, zero_division=0.0
    )
    return ClassScores(f"{kind} average", float(precision), float(recall), float(f1), len(labels))


def _confused_pairs(
    confusion: npt.NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    worst_first = np.argsort(wrong, axis=None, kind="stable")[::-1][:_PAIRS_KEPT]
    places = (np.unravel_index(place, wrong.shape) for place in worst_first)
    return tuple(
        ConfusedPair(class_names[true], class_names[predicted], int(wrong[true, predicted]))
        for true, predicted in places
        if wrong[true, predicted]
    )


def _mistakes(
    probabilities: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    labels: Bytes,
    class_names: Sequence[str],
) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    most_confident_first = wrong[np.argsort(-confidence, kind="stable")][:_MISTAKES_KEPT]
    return tuple(
        Mistake(
            index=int(index),
            true=class_names[labels[index]],
            predicted=class_names[predicted[index]],
            confidence=float(probabilities[index, predicted[index]]),
        )
        for index in most_confident_first
    )
