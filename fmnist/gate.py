"""Decide whether a model may be promoted. Pure: records in, a verdict out.

It fails closed: whatever is missing, not a number, or measured on other images than the test set
has, rejects.
"""

import math
from dataclasses import dataclass

from fmnist.config import GateSettings
from fmnist.evaluation import Evaluation


@dataclass(frozen=True)
class Rule:
    """One thing asked of a model: `value` was measured, `bound` is what it must be or reach."""

    name: str
    value: float | None
    bound: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a model is promoted, by which rules, and how close it was, in words."""

    promoted: bool
    rules: tuple[Rule, ...]
    reason: str

    @property
    def word(self) -> str:
        """`promoted` or `rejected`."""
        return "promoted" if self.promoted else "rejected"


def decide(evaluation: Evaluation, settings: GateSettings, test_images: int) -> Verdict:
    """Judge an evaluation on a test set of `test_images` images by the gate's settings."""
    images = _figure(evaluation, "images")
    accuracy = _figure(evaluation, "accuracy")
    rules = [
        Rule("every test image scored", images, test_images, images == test_images > 0),
        _at_least("test accuracy", accuracy, settings.min_accuracy),
    ]
    if settings.lower_bound:
        low = _figure(getattr(evaluation, "interval", None), "low")
        rules.append(_at_least("lower end of its 95 % interval", low, settings.min_accuracy))
    return verdict_of(tuple(rules), _closeness(accuracy, settings.min_accuracy, test_images))


def verdict_of(rules: tuple[Rule, ...], closeness: str) -> Verdict:
    """Promote if there are rules and all of them pass; `closeness` goes into the reason."""
    failed = [
        f"{rule.name} ({rule.value} where {rule.bound} is needed)"
        for rule in rules
        if not rule.passed
    ]
    if not rules:
        return Verdict(promoted=False, rules=rules, reason="no rule was asked of it")
    if failed:
        return Verdict(False, rules, f"{closeness}; failed: {', '.join(failed)}")
    return Verdict(True, rules, closeness)


def _figure(record: object, name: str) -> float | None:
    value = getattr(record, name, None)
    return value if isinstance(value, int | float) else None


def _at_least(name: str, value: float | None, bound: float) -> Rule:
    # A share: whatever is not from 0 to 1, such as NaN or a percentage, was not measured right.
    passed = value is not None and 0 <= value <= 1 and value >= bound
    return Rule(name, value, bound, passed)


def _closeness(accuracy: float | None, bound: float, test_images: int) -> str:
    if accuracy is None or not math.isfinite(accuracy):
        return "no test accuracy was measured"
    if accuracy == bound:
        return f"test accuracy {accuracy:.4f} is just at the bound {bound:.4f}"
    side = "above" if accuracy > bound else "below"
    count = f"{round(abs(accuracy - bound) * test_images):,} of {test_images:,} images"
    return (
        f"test accuracy {accuracy:.4f} is {abs(accuracy - bound) * 100:.2f} points ({count}) "
        f"{side} the bound {bound:.4f}"
    )
