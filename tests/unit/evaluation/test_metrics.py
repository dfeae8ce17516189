"""Metrics from probabilities, against scikit-learn, formulas and counts by hand."""

import hashlib

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score

from fmnist.evaluation.metrics import (
    digest_of_predictions,
    evaluate,
    expected_calibration_error,
    wilson_interval,
)

NAMES = [f"class {number}" for number in range(10)]


def noisy_probabilities(images: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, images).astype(np.uint8)
    logits = generator.normal(size=(images, 10)) + 2 * np.eye(10)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


def test_the_figures_agree_with_scikit_learn() -> None:
    """Accuracy, loss and the scores of each class, which has its name, are the standard ones."""
    probabilities, labels = noisy_probabilities()
    predicted = probabilities.argmax(axis=1)
    found = evaluate(probabilities, labels, NAMES)
    assert found.accuracy == (predicted == labels).mean() == found.correct / found.images
    assert found.loss == pytest.approx(log_loss(labels, probabilities.astype(np.float64)), abs=1e-6)
    for score, name in ((precision_score, "precision"), (recall_score, "recall"), (f1_score, "f1")):
        expected = score(labels, predicted, average=None)
        assert [getattr(each, name) for each in found.classes] == pytest.approx(list(expected))
        macro = score(labels, predicted, average="macro")
        assert getattr(found.averages[0], name) == pytest.approx(macro)
    assert [scores.name for scores in found.classes] == NAMES
    assert sum(scores.support for scores in found.classes) == found.images == len(labels)


def test_classes_may_be_called_anything() -> None:
    """A class named like a row of scikit-learn's report has its own scores all the same."""
    labels = np.array([0, 0, 1, 2], np.uint8)
    names = ["accuracy", "macro avg", "1"]
    found = evaluate(np.eye(3, dtype=np.float32)[[0, 1, 1, 2]], labels, names)
    assert [scores.name for scores in found.classes] == names
    assert [scores.recall for scores in found.classes] == [0.5, 1, 1]
    assert found.averages[0].recall == pytest.approx(2.5 / 3)


def test_the_confusion_matrix_counts_true_by_predicted() -> None:
    labels = np.array([0, 0, 1], np.uint8)
    found = evaluate(np.eye(10, dtype=np.float32)[[0, 3, 1]], labels, NAMES)
    assert found.confusion[0][0] == found.confusion[0][3] == found.confusion[1][1] == 1
    assert sum(map(sum, found.confusion)) == 3
    assert [(pair.true, pair.predicted, pair.images) for pair in found.confused_pairs] == [
        ("class 0", "class 3", 1)
    ]


def test_the_mistakes_come_most_confident_first_and_are_mistakes() -> None:
    probabilities, labels = noisy_probabilities()
    mistakes = evaluate(probabilities, labels, NAMES).mistakes
    confidences = [mistake.confidence for mistake in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert len(mistakes) == 24
    for mistake in mistakes:
        assert mistake.true == NAMES[labels[mistake.index]] != mistake.predicted
    wrong = probabilities.argmax(axis=1) != labels
    assert confidences[0] == pytest.approx(float(probabilities.max(axis=1)[wrong].max()))


def test_a_perfect_model_has_no_mistakes() -> None:
    labels = np.arange(10, dtype=np.uint8)
    found = evaluate(np.eye(10, dtype=np.float32), labels, NAMES)
    assert (found.accuracy, found.mistakes, found.confused_pairs) == (1.0, (), ())


def test_the_wilson_interval_is_the_published_one() -> None:
    """It gives the values of the formula, and stays within 0 and 1 at the ends."""
    n, z = 10_000, 1.959963984540054
    share = 0.9142
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    found = wilson_interval(9_142, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert wilson_interval(0, 10).low == 0
    assert wilson_interval(10, 10).high == 1


def test_calibration_error_is_zero_for_honest_and_large_for_boastful_confidence() -> None:
    """80 % confidence with 80 % right gives 0; with half of them right, 0.3."""
    probabilities = np.full((10, 10), 0.2 / 9, np.float32)
    probabilities[:, 0] = 0.8
    honest = np.array([0] * 8 + [1] * 2, np.uint8)
    boastful = np.array([0] * 5 + [1] * 5, np.uint8)
    assert expected_calibration_error(probabilities, honest) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(probabilities, boastful) == pytest.approx(0.3, abs=1e-6)


def test_calibration_error_weighs_its_bins_by_images() -> None:
    """Two bins, one off by 0.1 with a quarter of the images, give 0.025."""
    probabilities = np.zeros((40, 10), np.float32)
    probabilities[:30, 0], probabilities[:30, 1] = 0.9, 0.1
    probabilities[30:, 0], probabilities[30:, 1] = 0.6, 0.4
    labels = np.array([0] * 27 + [1] * 3 + [0] * 5 + [1] * 5, np.uint8)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.025, abs=1e-6)


def test_the_digest_of_the_predictions_is_that_of_the_predicted_classes() -> None:
    """One byte per image, in order, however sure the model is; the figures have it too."""
    probabilities = np.eye(10, dtype=np.float32)[[3, 0, 9]]
    expected = hashlib.sha256(bytes([3, 0, 9])).hexdigest()
    assert digest_of_predictions(probabilities) == expected
    assert digest_of_predictions(probabilities * 0.5) == expected
    assert digest_of_predictions(probabilities[::-1]) != expected
    assert evaluate(probabilities, np.zeros(3, np.uint8), NAMES).predictions_sha256 == expected
