from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fmnist.config import GateSettings
from fmnist.evaluation import Evaluation, evaluate, wilson_interval
from fmnist.gate import decide, verdict_of

TEST_IMAGES = 10_000


def evaluation(correct: int, images: int = TEST_IMAGES) -> Evaluation:
    labels = (np.arange(images) % 10).astype(np.uint8)
    predicted = np.where(np.arange(images) < correct, labels, (labels + 1) % 10)
    probabilities = np.eye(10, dtype=np.float32)[predicted]
    return evaluate(probabilities, labels, [f"class {number}" for number in range(10)])


@pytest.mark.parametrize(("correct", "promoted"), [(9_000, True), (8_999, False), (10_000, True)])
def test_the_bound_itself_passes_and_one_image_less_does_not(correct: int, promoted: bool) -> None:
    """0.9000 is promoted and 0.8999 rejected."""
    assert decide(evaluation(correct), GateSettings(), TEST_IMAGES).promoted is promoted


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), None, "0.95", 1.5, 91.4]
)
def test_an_accuracy_that_is_no_share_rejects(value: object) -> None:
    """Whatever is not a number from 0 to 1, a percentage among them, never passes."""
    broken = replace(evaluation(9_500), accuracy=value)  # type: ignore[arg-type]
    assert not decide(broken, GateSettings(), TEST_IMAGES).promoted


def test_a_missing_metric_rejects() -> None:
    """A record without an accuracy is rejected, not an error."""
    verdict = decide(SimpleNamespace(images=TEST_IMAGES), GateSettings(), TEST_IMAGES)  # type: ignore[arg-type]
    assert not verdict.promoted
    assert "no test accuracy" in verdict.reason


@pytest.mark.parametrize(("scored", "expected"), [(9_999, 10_000), (10_000, 9_999), (10, 0)])
def test_another_number_of_images_than_the_test_set_has_rejects(scored: int, expected: int) -> None:
    """A part of the test set, or more than it, proves nothing."""
    verdict = decide(evaluation(scored, scored), GateSettings(), expected)
    assert not verdict.promoted
    assert "every test image scored" in verdict.reason


def test_no_rule_at_all_rejects() -> None:
    """A verdict without rules is a rejection."""
    assert not verdict_of((), "close").promoted


def test_the_interval_is_asked_only_if_the_setting_says_so() -> None:
    """0.9030 passes by its value, but not by the lower end of its interval."""
    near = evaluation(9_030)
    assert decide(near, GateSettings(), TEST_IMAGES).promoted
    strict = decide(near, GateSettings(lower_bound=True), TEST_IMAGES)
    assert not strict.promoted
    assert strict.rules[-1].value == wilson_interval(9_030, TEST_IMAGES).low
    assert decide(evaluation(9_100), GateSettings(lower_bound=True), TEST_IMAGES).promoted


def test_the_verdict_lists_every_rule_with_value_bound_and_result() -> None:
    """Each rule stands in the verdict, passed or not."""
    verdict = decide(evaluation(8_950), GateSettings(lower_bound=True), TEST_IMAGES)
    assert [(rule.value, rule.bound, rule.passed) for rule in verdict.rules[:2]] == [
        (10_000, 10_000, True),
        (0.895, 0.9, False),
    ]
    assert len(verdict.rules) == 3


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        (9_142, "1.42 points (142 of 10,000 images) above"),
        (8_950, "0.50 points (50 of 10,000 images) below"),
        (9_000, "just at the bound 0.9000"),
    ],
)
def test_the_reason_says_how_close_it_was(correct: int, words: str) -> None:
    """The distance to the bound is given in points and in images."""
    reason = decide(evaluation(correct), GateSettings(), TEST_IMAGES).reason
    assert words in reason


def test_the_reason_names_what_failed_with_its_value() -> None:
    """Where the accuracy passes and its interval does not, the reason gives the interval's end."""
    verdict = decide(evaluation(9_030), GateSettings(lower_bound=True), TEST_IMAGES)
    low = wilson_interval(9_030, TEST_IMAGES).low
    assert f"lower end of its 95 % interval ({low} where 0.9 is needed)" in verdict.reason


def test_a_miss_smaller_than_an_image_is_not_called_just_at_the_bound() -> None:
    """0.9000 under a bound of 0.90004 is below it, in words too."""
    verdict = decide(evaluation(9_000), GateSettings(min_accuracy=0.90004), TEST_IMAGES)
    assert not verdict.promoted
    assert "below the bound" in verdict.reason


def test_a_pass_smaller_than_an_image_is_called_above_the_bound() -> None:
    """0.9000 over a bound of 0.89996 passes, and the words say so."""
    verdict = decide(evaluation(9_000), GateSettings(min_accuracy=0.89996), TEST_IMAGES)
    assert verdict.promoted
    assert "above the bound" in verdict.reason


def test_the_bound_can_be_changed() -> None:
    """Another threshold is a setting away."""
    assert decide(evaluation(5_000), GateSettings(min_accuracy=0.5), TEST_IMAGES).promoted
