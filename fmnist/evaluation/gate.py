"""Decide whether a model may be promoted. Pure: records in, a verdict out.

It fails closed: whatever is missing, not a number, or measured on other images than the test set
has, rejects.
"""

import math
from dataclasses import dataclass, replace

from fmnist.evaluation.comparison import Comparison, ComparisonFailed
from fmnist.evaluation.metrics import Evaluation
from fmnist.settings import GateSettings

SIGNIFICANCE = 0.025
_ROUNDING = 1e-9
_DIGITS = 4


@dataclass(frozen=True)
class Rule:
    """One thing asked of a model: `value` was measured, `bound` is what it must be or reach."""

    name: str
    value: int | float | None
    bound: int | float
    passed: bool

    @property
    def measured(self) -> str:
        """The value in words: rounded, but never to what looks like the bound and is not."""
        return "missing" if self.value is None else self._rounded(self.value)

    @property
    def needed(self) -> str:
        """The bound in words, as exact as `measured`."""
        return self._rounded(self.bound)

    def _rounded(self, figure: float) -> str:
        if isinstance(figure, int):
            return f"{figure:,}"
        if 0 < figure < 10**-_DIGITS:
            return f"below {10**-_DIGITS}"
        digits = _DIGITS
        if self.value is not None and abs(self.value - self.bound) > _ROUNDING:
            while f"{self.value:.{digits}f}" == f"{self.bound:.{digits}f}":
                digits += 1
        return f"{figure:.{digits}f}"


@dataclass(frozen=True)
class Verdict:
    """Whether a model is promoted, by which rules, and how close it was, in words.

    `generation` is that of the champion it was judged against, 0 where there was none. `notes` say
    what a person should know beside the rules. A verdict that is not `decided` is to be made good
    when the run is published: the store could not be asked about the champion.
    """

    promoted: bool
    rules: tuple[Rule, ...]
    reason: str
    generation: int = 0
    notes: tuple[str, ...] = ()
    decided: bool = True

    @property
    def word(self) -> str:
        """`promoted`, `rejected` or `undecided`."""
        if not self.decided:
            return "undecided"
        return "promoted" if self.promoted else "rejected"


def undecided(why: str, generation: int) -> Verdict:
    """No verdict yet, since the champion, last seen in that generation, could not be asked about."""
    return Verdict(False, (), f"not decided yet: {why}", generation, decided=False)


@dataclass(frozen=True)
class GateContext:
    """What a decision depends on beside the model's own figures.

    `against` is the comparison with the champion of that `generation`, `None` where there is no
    champion (generation 0). `judged` counts the models that this test set has judged in this store,
    this one included; `conditional_writes` tells whether the store honours conditional writes.
    """

    test_images: int
    against: Comparison | ComparisonFailed | None = None
    generation: int = 0
    judged: int = 1
    conditional_writes: bool = True


def decide(evaluation: Evaluation, settings: GateSettings, circumstances: GateContext) -> Verdict:
    """Judge an evaluation by the gate's settings.

    A champion that was never judged on these test images, or under other class names, is shown but
    does not decide, since the images may be among those that it was trained on. A champion that
    cannot be scored rejects wherever a rule asks for a comparison.

    `not_worse` and `better` ask McNemar's exact test, one-sided at 2.5 %, of two models on the same
    images. Not significantly worse is not as good: a slow decline over many champions passes it,
    down to `min_accuracy`.
    """
    expected, against = circumstances.test_images, circumstances.against
    images = _figure(evaluation, "images")
    accuracy = _figure(evaluation, "accuracy")
    rules = [
        Rule("every test image scored", images, expected, images == expected > 0),
        _at_least("test accuracy", accuracy, settings.min_accuracy),
    ]
    if settings.lower_bound:
        low = _figure(getattr(evaluation, "interval", None), "low")
        rules.append(_at_least("lower end of its 95 % interval", low, settings.min_accuracy))
    asked = _rules_against(against, settings, expected)
    closeness = _closeness(accuracy, settings.min_accuracy, expected)
    if asked and isinstance(against, Comparison):
        closeness += f"; it is {against.in_words}"
    verdict = verdict_of((*rules, *asked), closeness)
    return replace(verdict, generation=circumstances.generation, notes=_notes(circumstances))


def _rules_against(
    against: Comparison | ComparisonFailed | None, settings: GateSettings, test_images: int
) -> list[Rule]:
    if against is None or (isinstance(against, Comparison) and not against.same_test_set):
        return []
    found = against if isinstance(against, Comparison) and against.images == test_images else None
    rules = []
    if settings.champion == "not_worse":
        value = found.p_value_worse if found else None
        name = "not significantly worse than the champion, McNemar's one-sided p"
        rules.append(_at_least(name, value, SIGNIFICANCE))
    elif settings.champion == "better":
        value = 1 - found.p_value_better if found else None
        name = "significantly better than the champion, 1 - McNemar's one-sided p"
        rules.append(_at_least(name, value, 1 - SIGNIFICANCE))
    if settings.max_class_drop is not None:
        rules.append(_class_rule(found, settings.max_class_drop))
    return rules


def _class_rule(found: Comparison | None, most: float) -> Rule:
    bound = 0 - most
    if found is None:
        return Rule("change in the recall of the worst class", None, bound, passed=False)
    worst = found.largest_drop
    change = worst.challenger - worst.champion
    name = f"change in the recall of {worst.name}, the worst class"
    return Rule(name, change, bound, passed=change >= bound - _ROUNDING)


def _notes(circumstances: GateContext) -> tuple[str, ...]:
    against, judged = circumstances.against, circumstances.judged
    if judged == 1:
        notes = ["this test set has judged 1 model in this store"]
    else:
        notes = [
            f"this test set has judged {judged:,} models in this store: the more it judges, the less "
            "a pass proves"
        ]
    if isinstance(against, ComparisonFailed):
        notes.append(f"the champion {against.champion} could not be scored: {against.reason}")
    elif against and not against.same_test_set:
        notes.append(
            f"the champion {against.champion} was judged on other test data or class names: the "
            "comparison is shown and does not decide"
        )
    if not circumstances.conditional_writes:
        notes.append(
            "the store does not honour conditional writes: this is safe only while one job "
            "publishes there (store.single_publisher)"
        )
    return tuple(notes)


def verdict_of(rules: tuple[Rule, ...], closeness: str) -> Verdict:
    """Promote if there are rules and all of them pass; `closeness` goes into the reason."""
    failed = [
        f"{rule.name} ({rule.measured} where {rule.needed} is needed)"
        for rule in rules
        if not rule.passed
    ]
    if not rules:
        return Verdict(promoted=False, rules=rules, reason="no rule was asked of it")
    if failed:
        return Verdict(False, rules, f"{closeness}; failed: {'; '.join(failed)}")
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
