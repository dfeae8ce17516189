"""Decide whether a model may be promoted. Pure: records in, a verdict out.

The gate fails closed: anything that is missing, not a number, or measured on other images than the
test set's is a rejection.
"""

import math
from dataclasses import dataclass, replace

from fmnist.evaluation.records import (
    Against,
    Comparison,
    ComparisonFailed,
    Evaluation,
    in_digits,
    in_points,
)
from fmnist.settings import GateSettings

SIGNIFICANCE = 0.025
_COMPARABLE = 1_000
_ROUNDING = 1e-9
_DIGITS = 4


@dataclass(frozen=True)
class Rule:
    """One requirement.

    Attributes:
        name: what is required.
        value: what was measured; `None` if it is missing.
        bound: what it must equal or reach.
        passed: whether it does.
        fault: what to say of it, in words, if it does not; older verdicts lack it.
    """

    name: str
    value: int | float | None
    bound: int | float
    passed: bool
    fault: str = ""

    @property
    def measured(self) -> str:
        """The value for a reader, never rounded so far that it looks like the bound."""
        return "missing" if self.value is None else self._rounded(self.value)

    @property
    def needed(self) -> str:
        """The bound for a reader, as exact as `measured`."""
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
    """Whether a model is promoted, and why. Stored verdicts may lack all fields but the first.

    Attributes:
        promoted: whether it is.
        rules: the requirements, passed or not.
        reason: how close it was, and what failed, in words.
        generation: that of the champion it was compared with; 0 if there was none.
        notes: what else a person should know.
        decided: `False` if the store could not be asked for the champion, so that the gate decides
            when the run is published.
        held: whether it passed and is not promoted only because the champion is held.
    """

    promoted: bool
    rules: tuple[Rule, ...] = ()
    reason: str = ""
    generation: int = 0
    notes: tuple[str, ...] = ()
    decided: bool = True
    held: bool = False

    @property
    def word(self) -> str:
        """`promoted`, `rejected`, `held` or `undecided`."""
        if not self.decided:
            return "undecided"
        return "promoted" if self.promoted else "held" if self.held else "rejected"


def undecided(why: str, generation: int) -> Verdict:
    """No verdict yet, since the champion, last seen in that generation, could not be read."""
    return Verdict(False, (), f"not decided yet: {why}", generation, decided=False)


def hold_back(verdict: Verdict) -> Verdict:
    """The verdict while the champion is held: whatever passes the gate waits for its release."""
    if not verdict.promoted:
        return verdict
    reason = (
        f"{verdict.reason}; it passes, but the champion is held: after `fmnist release`, "
        "`fmnist promote` with this run judges it again"
    )
    return replace(verdict, promoted=False, held=True, reason=reason)


@dataclass(frozen=True)
class GateContext:
    """What a decision depends on besides the model's own figures.

    Attributes:
        test_images: how many images the test set has.
        against: the comparison with the champion; `None` if there is no champion.
        generation: the champion's; 0 if there is none.
        judged: how many models the test set has judged in this store, including this one.
        conditional_writes: whether the store honours conditional writes.
    """

    test_images: int
    against: Against = None
    generation: int = 0
    judged: int = 1
    conditional_writes: bool = True


def decide(evaluation: Evaluation, settings: GateSettings, context: GateContext) -> Verdict:
    """Judge an evaluation by the gate's settings.

    The comparison with the champion counts only images that neither model was trained on. Where
    they are too few, or not known, it is shown and does not decide: see `obstacle`. If the champion
    cannot be scored, any rule that needs a comparison fails.

    `not_worse` and `better` use McNemar's exact test, one-sided at 2.5 %, on the two models'
    results for the same images. "Not significantly worse" does not mean "as good": it lets a slow
    decline over many champions pass, down to `min_accuracy`.
    """
    expected, against = context.test_images, context.against
    images = _figure(evaluation, "images")
    accuracy = _figure(evaluation, "accuracy")
    rules = [
        Rule("every test image scored", images, expected, images == expected > 0),
        _at_least("test accuracy", accuracy, settings.min_accuracy, "is below the required"),
    ]
    if settings.lower_bound:
        low = _figure(getattr(evaluation, "interval", None), "low")
        name = "lower end of its 95 % interval"
        rules.append(_at_least(name, low, settings.min_accuracy, "is below the required"))
    required = _rules_against(against, settings, expected)
    # Each rule that fails says so itself.
    closeness = _closeness(rules[1], expected) if rules[1].passed else ""
    if isinstance(against, Comparison) and required and all(rule.passed for rule in required):
        closeness = f"{closeness}; it is {against.in_words}" if closeness else ""
    verdict = verdict_of((*rules, *required), closeness)
    return replace(verdict, generation=context.generation, notes=_notes(context, settings))


def obstacle(against: Comparison, settings: GateSettings) -> str:
    """Why the comparison with the champion does not decide, to follow its name; else nothing."""
    if against.left_out is None:
        if against.same_test_set:
            return ""
        return "was judged on other test data or class names, and may have been trained on these images"
    images = against.test_images
    needed = settings.min_comparable
    if needed is None:
        needed = min(_COMPARABLE, math.ceil(images / 2))
    if against.images >= needed:
        return ""
    return (
        f"and this model can be compared on only {against.images:,} of the {images:,} test images, "
        f"where gate.min_comparable is {needed:,}, since they may have been trained on the others"
    )


def _rules_against(against: Against, settings: GateSettings, test_images: int) -> list[Rule]:
    found = against if isinstance(against, Comparison) else None
    if against is None or (found and obstacle(found, settings)):
        return []
    if found and found.test_images != test_images:
        found = None
    rules = []
    if settings.champion == "not_worse":
        value = found.p_value_worse if found else None
        name = "not significantly worse than the champion, McNemar's one-sided p"
        rules.append(_significance(name, value, SIGNIFICANCE, found, "significantly worse"))
    elif settings.champion == "better":
        value = 1 - found.p_value_better if found else None
        name = "significantly better than the champion, 1 - McNemar's one-sided p"
        rules.append(
            _significance(name, value, 1 - SIGNIFICANCE, found, "not significantly better")
        )
    if settings.max_class_drop is not None:
        rules.append(_class_rule(found, 0 - settings.max_class_drop))
    return rules


def _significance(
    name: str, value: float | None, bound: float, found: Comparison | None, otherwise: str
) -> Rule:
    rule = _at_least(name, value, bound)
    if rule.passed or found is None:
        return rule
    p_value = found.p_value_worse if bound == SIGNIFICANCE else found.p_value_better
    figures = f"{in_points(found.difference)} points, p {in_digits(p_value)}"
    return replace(rule, fault=f"{otherwise} than the champion ({figures})")


def _class_rule(found: Comparison | None, bound: float) -> Rule:
    if found is None:
        return Rule("change in the recall of the worst class", None, bound, passed=False)
    worst = found.largest_drop
    change = worst.challenger - worst.champion
    name = f"change in the recall of {worst.name}, the worst class"
    return Rule(name, change, bound, passed=change >= bound - _ROUNDING)


def _notes(context: GateContext, settings: GateSettings) -> tuple[str, ...]:
    against, judged = context.against, context.judged
    used = f"this test set has judged {judged:,} models in this store"
    notes = [f"{used}: the more it judges, the less a pass proves"]
    if judged == 1:
        notes = ["this test set has judged 1 model in this store"]
    if isinstance(against, ComparisonFailed):
        notes.append(
            f"the champion {against.champion} could not be scored: {against.reason}; check it with "
            f"`fmnist verify {against.champion}`; to replace it without a comparison, use `fmnist "
            "promote --force`, or set gate.champion to off and gate.max_class_drop to none"
        )
    elif against and (why := obstacle(against, settings)):
        notes.append(
            f"the champion {against.champion} {why}: the comparison is shown and does not decide"
        )
    elif against and against.left_out:
        notes.append(
            f"{against.left_out:,} of the {against.test_images:,} test images are left out of the "
            "comparison, since the champion or this model may have been trained on them"
        )
    if not context.conditional_writes:
        notes.append(
            "the store does not honour conditional writes: this is safe only while one job "
            "publishes there (store.single_publisher)"
        )
    return tuple(notes)


def verdict_of(rules: tuple[Rule, ...], closeness: str) -> Verdict:
    """Promote if there are rules and all of them pass.

    The reason is `closeness`, if there is any, and what is wrong by each rule that failed.
    """
    if not rules:
        return Verdict(False, rules, "the gate has no rules")
    failed = [
        rule.fault or f"{rule.name}: {rule.measured}, but {rule.needed} is required"
        for rule in rules
        if not rule.passed
    ]
    return Verdict(not failed, rules, "; ".join(filter(None, (closeness, *failed))))


def _figure(record: object, name: str) -> float | None:
    value = getattr(record, name, None)
    return value if isinstance(value, int | float) else None


def _at_least(name: str, value: float | None, bound: float, otherwise: str = "") -> Rule:
    """A share that must reach a bound; if it does not, `otherwise` goes between the two."""
    # A share is from 0 to 1: NaN or a percentage was not measured correctly.
    measured = value is not None and 0 <= value <= 1
    rule = Rule(name, value, bound, passed=value is not None and measured and value >= bound)
    if rule.passed or not otherwise:
        return rule
    if value is None or not math.isfinite(value):
        return replace(rule, fault=f"no {name} was measured")
    told = otherwise if measured else "is no share from 0 to 1; required is"
    return replace(rule, fault=f"{name} {rule.measured} {told} {rule.needed}")


def _closeness(accuracy: Rule, test_images: int) -> str:
    """How far above the bound a test accuracy is that passes."""
    if accuracy.value is None or accuracy.value == accuracy.bound:
        return f"test accuracy {accuracy.measured} is exactly the required {accuracy.needed}"
    above = accuracy.value - accuracy.bound
    count = f"{round(above * test_images):,} of {test_images:,} images"
    return (
        f"test accuracy {accuracy.measured} is {above * 100:.2f} points ({count}) above the "
        f"required {accuracy.needed}"
    )
