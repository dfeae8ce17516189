"""The gate: what it requires, what it says, and that anything missing or broken rejects."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fmnist.evaluation.gate import (
    GateContext,
    Rule,
    Verdict,
    decide,
    hold_back,
    obstacle,
    undecided,
    verdict_of,
)
from fmnist.evaluation.metrics import evaluate, wilson_interval
from fmnist.evaluation.records import Comparison, ComparisonFailed, Evaluation
from fmnist.settings import GateSettings
from tests.support import records

TEST_IMAGES = 10_000
ALONE = GateContext(TEST_IMAGES)
CHAMPION = records.champion().run_id


def evaluation(correct: int, images: int = TEST_IMAGES) -> Evaluation:
    labels = (np.arange(images) % 10).astype(np.uint8)
    predicted = np.where(np.arange(images) < correct, labels, (labels + 1) % 10)
    probabilities = np.eye(10, dtype=np.float32)[predicted]
    return evaluate(probabilities, labels, [f"class {number}" for number in range(10)])


def judge(correct: int, context: GateContext = ALONE, **settings: Any) -> Verdict:
    """The verdict on a model that has so many images right, by these settings."""
    return decide(evaluation(correct), GateSettings(**settings), context)


def meeting(against: Comparison | ComparisonFailed, generation: int = 1) -> GateContext:
    return GateContext(TEST_IMAGES, against, generation)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), None, "0.95", 1.5, 91.4]
)
def test_an_accuracy_that_is_no_share_rejects(value: object) -> None:
    """Anything but a number from 0 to 1, such as a percentage, never passes."""
    broken = replace(evaluation(9_500), accuracy=value)  # type: ignore[arg-type]
    assert not decide(broken, GateSettings(), ALONE).promoted


def test_a_missing_metric_rejects() -> None:
    verdict = decide(SimpleNamespace(images=TEST_IMAGES), GateSettings(), ALONE)  # type: ignore[arg-type]
    assert not verdict.promoted
    assert "no test accuracy" in verdict.reason


@pytest.mark.parametrize(
    ("scored", "expected", "promoted"),
    [(9_999, 10_000, False), (10_000, 9_999, False), (10, 0, False), (0, 0, False), (1, 1, True)],
)
def test_another_number_of_images_than_the_test_set_has_rejects(
    scored: int, expected: int, promoted: bool
) -> None:
    """A part of the test set, or more than it, proves nothing, and neither do no images at all."""
    found = replace(evaluation(9_500), images=scored)
    verdict = decide(found, GateSettings(), GateContext(expected))
    assert verdict.promoted is promoted
    assert ("every test image scored" in verdict.reason) is not promoted


def test_the_interval_counts_only_if_the_setting_says_so() -> None:
    """0.9030 passes by its value, not by the lower end of its interval; every rule is listed."""
    assert judge(9_030).promoted
    strict = judge(9_030, lower_bound=True)
    low = wilson_interval(9_030, TEST_IMAGES).low
    assert not strict.promoted
    assert strict.rules[-1].value == low
    assert f"lower end of its 95 % interval {low:.4f} is below the required 0.9000" in strict.reason
    assert judge(9_100, lower_bound=True).promoted
    low = wilson_interval(8_950, TEST_IMAGES).low
    rules = judge(8_950, lower_bound=True).rules
    assert [(rule.value, rule.bound, rule.passed) for rule in rules] == [
        (10_000, 10_000, True),
        (0.895, 0.9, False),
        (low, 0.9, False),
    ]


@pytest.mark.parametrize(
    ("correct", "bound", "words"),
    [
        (9_000, 0.9, "exactly the required 0.9000"),
        (8_999, 0.9, "test accuracy 0.8999 is below the required 0.9000"),
        (9_142, 0.9, "1.42 points (142 of 10,000 images) above the required 0.9000"),
        (8_950, 0.9, "test accuracy 0.8950 is below the required 0.9000"),
        (10_000, 0.9, "10.00 points (1,000 of 10,000 images) above the required 0.9000"),
        (5_000, 0.5, "exactly the required 0.5000"),
        (0, 0, "exactly the required 0.0000"),
        (9_000, 0.90004, "test accuracy 0.90000 is below the required 0.90004"),
        (9_000, 0.89996, "above the required 0.89996"),
    ],
)
def test_the_bound_itself_passes_and_the_reason_says_how_close_it_was(
    correct: int, bound: float, words: str
) -> None:
    """The distance is given in points and in images; no two figures are rounded to the same."""
    verdict = judge(correct, min_accuracy=bound)
    assert words in verdict.reason
    assert verdict.promoted is ("below" not in words)


# ---- against the champion -----------------------------------------------------------------------

# Of 200 images that changed sides: with so many gained the one-sided p is just over 0.025, or under.
LEVEL_ENOUGH, WORSE = (86, 114), (85, 115)
BETTER, NOT_PROVED_BETTER = (115, 85), (114, 86)


def against(
    gained: int,
    lost: int,
    champion: str = "off",
    *,
    correct: int = 9_142,
    same_test_set: bool = True,
    max_class_drop: float | None = None,
) -> Verdict:
    found = records.comparison(gained, lost, correct=correct, same_test_set=same_test_set)
    return judge(correct, meeting(found, 3), champion=champion, max_class_drop=max_class_drop)


@pytest.mark.parametrize(
    ("champion", "sides", "promoted"),
    [
        ("off", (0, 500), True),
        ("not_worse", LEVEL_ENOUGH, True),
        ("not_worse", WORSE, False),
        ("not_worse", (0, 0), True),
        ("not_worse", (0, 5), True),
        ("not_worse", (0, 6), False),
        ("better", BETTER, True),
        ("better", NOT_PROVED_BETTER, False),
        ("better", (0, 0), False),
        ("better", (5, 0), False),
        ("better", (6, 0), True),
        ("better", (0, 500), False),
    ],
)
def test_significance_at_two_and_a_half_percent_decides(
    champion: str, sides: tuple[int, int], promoted: bool
) -> None:
    """One image more or less turns the verdict where McNemar's one-sided p passes 0.025."""
    verdict = against(*sides, champion)
    assert (verdict.promoted, verdict.generation) == (promoted, 3)


@pytest.mark.parametrize("champion", ["off", "not_worse", "better"])
def test_a_better_model_below_the_bound_is_still_rejected(champion: str) -> None:
    """The comparison is required in addition to the least accuracy, never instead of it."""
    assert not against(500, 0, champion, correct=8_999).promoted


def test_the_default_is_an_accuracy_of_nine_tenths_whatever_the_champion() -> None:
    assert GateSettings().min_accuracy == 0.9
    verdict = judge(9_142, meeting(records.comparison(0, 5_000)))
    assert verdict.promoted
    assert [rule.name for rule in verdict.rules] == ["every test image scored", "test accuracy"]
    assert "champion" not in verdict.reason


NOT_WORSE_RULE = "not significantly worse than the champion, McNemar's one-sided p"
BETTER_RULE = "significantly better than the champion, 1 - McNemar's one-sided p"


@pytest.mark.parametrize(
    ("champion", "sides", "name", "bound"),
    [
        ("not_worse", WORSE, NOT_WORSE_RULE, 0.025),
        ("better", NOT_PROVED_BETTER, BETTER_RULE, 0.975),
    ],
)
def test_the_rule_has_its_exact_value_and_the_reason_a_rounded_one(
    champion: str, sides: tuple[int, int], name: str, bound: float
) -> None:
    """The record keeps every digit; a person reads four, with the difference in points, once."""
    verdict = against(*sides, champion)
    rule, found = verdict.rules[-1], records.comparison(*sides)
    exact = found.p_value_worse if champion == "not_worse" else 1 - found.p_value_better
    assert rule == Rule(name, exact, bound, False, rule.fault)
    p_value = exact if champion == "not_worse" else 1 - exact
    word = "significantly worse" if champion == "not_worse" else "not significantly better"
    assert verdict.reason == (
        "test accuracy 0.9142 is 1.42 points (142 of 10,000 images) above the required 0.9000; "
        f"{word} than the champion ({found.difference * 100:+.2f} points, p = {p_value:.4f})"
    )


def test_a_rejection_says_once_what_is_wrong() -> None:
    """Far below the bound and far behind the champion: two plain statements, and no p of 0."""
    found = records.comparison(100, 1_800)
    verdict = judge(7_396, meeting(found), min_accuracy=0.95, champion="not_worse")
    assert verdict.reason == (
        "test accuracy 0.7396 is below the required 0.9500; "
        "significantly worse than the champion (-17.00 points, p < 0.0001)"
    )
    assert verdict.rules[-1].measured == "below 0.0001"


def test_a_verdict_waits_while_the_champion_is_held() -> None:
    """What passes is held and not promoted, and says how to go on; a rejection stays one."""
    passed, rejected = judge(9_142), judge(8_000)
    held = hold_back(passed)
    assert (held.word, held.promoted, held.rules) == ("held", False, passed.rules)
    assert held.reason.startswith(passed.reason) and "`fmnist release`" in held.reason
    assert hold_back(held) == held
    assert hold_back(rejected) == rejected and rejected.word == "rejected"


def judge_drop(name: str, drop: int, most: float) -> Verdict:
    """The verdict on a model under which one class of 1,000 images loses so many of them."""
    found = records.comparison(0, 0)
    classes = tuple(
        replace(each, champion=0.85, challenger=(850 - drop * (each.name == name)) / 1_000)
        for each in found.classes
    )
    return judge(9_142, meeting(replace(found, classes=classes)), max_class_drop=most)


@pytest.mark.parametrize("name", records.CLASS_NAMES)
@pytest.mark.parametrize(("drop", "promoted"), [(20, True), (21, False)])
def test_a_class_that_loses_more_than_it_may_rejects_and_is_named(
    drop: int, promoted: bool, name: str
) -> None:
    """A recall that falls by just the bound passes, whatever the rounding; one image more does not."""
    verdict = judge_drop(name, drop, 0.02)
    assert verdict.promoted is promoted
    rule = verdict.rules[-1]
    assert rule.name == f"change in the recall of {name}, the worst class"
    assert (rule.value, rule.bound) == (pytest.approx(-drop / 1_000), -0.02)
    assert (rule.measured, rule.needed) == (f"{-drop / 1_000:.4f}", "-0.0200")
    told = f"{rule.name}: -0.0210, but -0.0200 is required"
    assert (told in verdict.reason) is not promoted


@pytest.mark.parametrize(("drop", "promoted"), [(-5, True), (0, True), (1, False)])
def test_no_drop_at_all_may_be_required(drop: int, promoted: bool) -> None:
    """With a bound of 0 no class may lose an image, and gaining is no fault."""
    verdict = judge_drop("Coat", drop, 0)
    assert verdict.promoted is promoted
    assert verdict.rules[-1].needed == "0.0000"


LOST = ComparisonFailed(CHAMPION, "its model is gone")
COULD_NOT_BE_SCORED = (
    f"the champion {CHAMPION} could not be scored: its model is gone; check it with `fmnist verify "
    f"{CHAMPION}`; to replace it without a comparison, use `fmnist promote --force`, or set "
    "gate.champion to off and gate.max_class_drop to none"
)
needs_a_champion = pytest.mark.parametrize(
    "settings",
    [{"champion": "not_worse"}, {"champion": "better"}, {"max_class_drop": 1}],
    ids=["not_worse", "better", "max_class_drop"],
)


@needs_a_champion
def test_without_a_champion_no_rule_needs_one(settings: dict[str, object]) -> None:
    """The first model of a store has only the accuracy to reach."""
    verdict = judge(9_000, **settings)
    assert verdict.promoted
    assert (len(verdict.rules), verdict.generation) == (2, 0)


@needs_a_champion
def test_a_champion_that_cannot_be_scored_rejects_only_where_a_rule_needs_it(
    settings: dict[str, object],
) -> None:
    """With `off` it can be replaced; either way the verdict says that it is broken."""
    verdict = judge(9_999, meeting(LOST), **settings)
    assert not verdict.promoted
    assert verdict.rules[-1].value is None and not verdict.rules[-1].passed
    assert f"{verdict.rules[-1].name}: missing, but" in verdict.reason
    allowed = judge(9_000, meeting(LOST))
    assert allowed.promoted
    assert COULD_NOT_BE_SCORED in verdict.notes and COULD_NOT_BE_SCORED in allowed.notes


@pytest.mark.parametrize("champion", ["off", "not_worse", "better"])
def test_a_champion_of_other_test_data_does_not_decide(champion: str) -> None:
    """It may have been trained on these images: it is shown, and a note says it does not count."""
    verdict = against(0, 5_000, champion, max_class_drop=0.0, same_test_set=False)
    assert verdict.promoted
    assert len(verdict.rules) == 2
    assert (
        f"the champion {CHAMPION} was judged on other test data or class names, and may have been "
        "trained on these images: the comparison is shown and does not decide"
    ) in verdict.notes
    assert not any("other test data" in note for note in against(0, 0, champion).notes)


@pytest.mark.parametrize("same_test_set", [False, True])
def test_a_comparison_on_images_new_to_both_decides_whatever_the_champion_was_judged_on(
    same_test_set: bool,
) -> None:
    """The verdict says how many images are left out."""
    found = replace(
        records.comparison(0, 500, same_test_set=same_test_set), images=9_800, left_out=200
    )
    verdict = judge(9_142, meeting(found), champion="not_worse")
    assert not verdict.promoted and "significantly worse" in verdict.reason
    assert (
        "200 of the 10,000 test images are left out of the comparison, since the champion or this "
        "model may have been trained on them"
    ) in verdict.notes


@pytest.mark.parametrize(
    ("setting", "left_out", "decides"),
    [
        (None, 9_000, True),
        (None, 9_001, False),
        (2_000, 8_000, True),
        (2_000, 8_001, False),
        (1, 10_000, False),
    ],
)
def test_a_comparison_on_too_few_images_is_shown_and_does_not_decide(
    setting: int | None, left_out: int, decides: bool
) -> None:
    found = replace(records.comparison(0, 500), images=10_000 - left_out, left_out=left_out)
    verdict = judge(9_142, meeting(found), champion="not_worse", min_comparable=setting)
    assert verdict.promoted is not decides
    shown = [note for note in verdict.notes if "does not decide" in note]
    assert bool(shown) is not decides
    if shown:
        needed = f"gate.min_comparable is {setting or 1_000:,}"
        assert (
            f"on only {found.images:,} of the 10,000 test images" in shown[0] and needed in shown[0]
        )


@pytest.mark.parametrize(("images", "needed"), [(2_001, 1_000), (1_999, 1_000), (601, 301)])
def test_half_of_a_small_test_set_is_enough_to_decide(images: int, needed: int) -> None:
    settings, whole = GateSettings(), records.comparison()
    enough = replace(whole, images=needed, left_out=images - needed)
    assert obstacle(enough, settings) == ""
    assert f"is {needed:,}," in obstacle(
        replace(whole, images=needed - 1, left_out=images - needed + 1), settings
    )


@needs_a_champion
def test_a_comparison_that_proves_nothing_rejects(settings: dict[str, object]) -> None:
    """Neither one on a part of the test set, nor a count or a recall that is no number."""
    found = records.comparison(500, 0)
    part = replace(found, images=9_999)
    classes = (found.classes[0], replace(found.classes[1], challenger=math.nan), *found.classes[2:])
    broken = replace(found, gained=math.nan, lost=math.nan, classes=classes)  # type: ignore[arg-type]
    for comparison in (part, broken):
        assert not judge(9_999, meeting(comparison), **settings).promoted


# ---- what a person reads ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bound", "measured", "needed"),
    [
        (10_000, 10_000, "10,000", "10,000"),
        (0.9142, 0.9, "0.9142", "0.9000"),
        (0.9, 0.9, "0.9000", "0.9000"),
        (0.89999, 0.9, "0.89999", "0.90000"),
        (0.9, 0.90000001, "0.90000000", "0.90000001"),
        (0.83 - 0.85, -0.02, "-0.0200", "-0.0200"),
        (1.33e-10, 0.025, "below 0.0001", "0.0250"),
        (0.0, 0.025, "0.0000", "0.0250"),
        (None, 0.025, "missing", "0.0250"),
        (math.nan, 0.9, "nan", "0.9000"),
    ],
)
def test_figures_are_rounded_but_never_to_what_looks_like_the_bound(
    value: float | None, bound: float, measured: str, needed: str
) -> None:
    """Four digits, or as many as it takes to see which side of the bound a value is on."""
    rule = Rule("any", value, bound, False)
    assert (rule.measured, rule.needed) == (measured, needed)


def test_a_failed_rule_reads_as_what_was_measured_and_what_is_needed() -> None:
    rules = (Rule("one", 0.00003, 0.025, False), Rule("two", 0.5, 0.25, True))
    failed = (*rules, Rule("three", None, 0.9, False))
    assert verdict_of(failed, "close").reason == (
        "close; one: below 0.0001, but 0.0250 is required; three: missing, but 0.9000 is required"
    )


@pytest.mark.parametrize("correct", [9_142, 8_000])
def test_every_verdict_says_how_often_the_test_set_was_used(correct: int) -> None:
    once, often = (judge(correct, GateContext(TEST_IMAGES, judged=uses)) for uses in (1, 1_234))
    assert once.notes == ("this test set has judged 1 model in this store",)
    assert often.notes == (
        "this test set has judged 1,234 models in this store: the more it judges, the less a pass "
        "proves",
    )


def test_the_verdict_says_that_the_store_is_safe_for_one_publisher_only() -> None:
    safe, unsafe = judge(9_142), judge(9_142, replace(ALONE, conditional_writes=False))
    assert unsafe.promoted
    assert len(unsafe.notes) == len(safe.notes) + 1
    assert "does not honour conditional writes" in unsafe.notes[-1]


def test_an_undecided_verdict_promotes_nothing_and_says_why() -> None:
    found = undecided("the store is away", 3)
    assert found == Verdict(False, (), "not decided yet: the store is away", 3, decided=False)
    assert found.word == "undecided"


def test_a_verdict_without_rules_is_a_rejection_that_says_so() -> None:
    assert verdict_of((), "close") == Verdict(False, (), "the gate has no rules")
