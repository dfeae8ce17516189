"""A model's figures on the test set, from its probabilities and the true labels."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix

from fmnist.data.records import Bytes, Probabilities
from fmnist.evaluation.records import (
    CONFIDENCE,
    ClassScores,
    ConfusedPair,
    Evaluation,
    Interval,
    Mistake,
)

CALIBRATION_BINS = 15
_PAIRS_KEPT = 10
_MISTAKES_KEPT = 24


def digest_of_predictions(probabilities: Probabilities) -> str:
    """The SHA-256 of the predicted class of each image, one byte each, in hexadecimal."""
    return hashlib.sha256(probabilities.argmax(axis=1).astype(np.uint8).tobytes()).hexdigest()


def evaluate(probabilities: Probabilities, labels: Bytes, class_names: Sequence[str]) -> Evaluation:
    """The figures of probabilities `(n, classes)` for images of these labels `(n,)`."""
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    confusion = confusion_matrix(labels, predicted, labels=np.arange(len(class_names)))
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # By number, since a class may be called "accuracy" or "macro avg".
    report = classification_report(
        labels, predicted, labels=np.arange(len(class_names)), output_dict=True, zero_division=0
    )

    def scores(name: str, key: str) -> ClassScores:
        row = report[key]
        precision, recall, f1 = (float(row[share]) for share in ("precision", "recall", "f1-score"))
        return ClassScores(name, precision, recall, f1, int(row["support"]))

    return Evaluation(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        loss=float(-np.log(np.clip(of_truth, 1e-30, None)).mean()),
        calibration_error=expected_calibration_error(probabilities, labels),
        classes=tuple(scores(name, str(number)) for number, name in enumerate(class_names)),
        averages=tuple(scores(f"{kind} average", f"{kind} avg") for kind in ("macro", "weighted")),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        confused_pairs=_confused_pairs(confusion, class_names),
        mistakes=_mistakes(probabilities, predicted, labels, class_names),
        predictions_sha256=digest_of_predictions(probabilities),
    )


def wilson_interval(correct: int, images: int) -> Interval:
    """The Wilson score interval for the share `correct / images` (Wilson, 1927)."""
    found = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def expected_calibration_error(probabilities: Probabilities, labels: Bytes) -> float:
    """Mean distance between confidence and accuracy over 15 equal-width bins of confidence.

    Each bin counts by its number of images. Source: Guo et al., "On Calibration of Modern Neural
    Networks", 2017.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    hit = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    gaps = [abs(float((hit - confidence)[bins == number].sum())) for number in np.unique(bins)]
    return sum(gaps) / len(labels)


def _confused_pairs(
    confusion: npt.NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    pairs = [
        ConfusedPair(class_names[true], class_names[predicted], int(images))
        for (true, predicted), images in np.ndenumerate(confusion)
        if true != predicted and images
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.images)[::-1][:_PAIRS_KEPT])


def _mistakes(
    probabilities: Probabilities,
    predicted: npt.NDArray[np.int64],
    labels: Bytes,
    class_names: Sequence[str],
) -> tuple[Mistake, ...]:
    confidence = probabilities.max(axis=1)
    wrong = surest_first(np.flatnonzero(predicted != labels), confidence)
    return tuple(
        Mistake(
            index=int(index),
            true=class_names[labels[index]],
            predicted=class_names[predicted[index]],
            confidence=float(confidence[index]),
        )
        for index in wrong[:_MISTAKES_KEPT]
    )


def surest_first(
    indices: npt.NDArray[np.intp], confidence: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp]:
    """The indices of images by falling confidence; those of equal confidence keep their order."""
    return indices[np.argsort(-confidence[indices], kind="stable")]
