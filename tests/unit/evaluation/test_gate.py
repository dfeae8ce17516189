"""The gate: what it requires, what it says, and that anything missing or broken rejects."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fmnist.evaluation.comparison import Comparison, ComparisonFailed
from fmnist.evaluation.gate import GateContext, Rule, Verdict, decide, undecided, verdict_of
from fmnist.evaluation.metrics import Evaluation, evaluate, wilson_interval
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


@pytest.mark.parametrize(("correct", "promoted"), [(9_000, True), (8_999, False), (10_000, True)])
def test_the_bound_itself_passes_and_one_image_less_does_not(correct: int, promoted: bool) -> None:
    """0.9000 is promoted and 0.8999 rejected."""
    assert decide(evaluation(correct), GateSettings(), ALONE).promoted is promoted


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), None, "0.95", 1.5, 91.4]
)
def test_an_accuracy_that_is_no_share_rejects(value: object) -> None:
    """Anything but a number from 0 to 1, such as a percentage, never passes."""
    broken = replace(evaluation(9_500), accuracy=value)  # type: ignore[arg-type]
    assert not decide(broken, GateSettings(), ALONE).promoted


def test_a_missing_metric_rejects() -> None:
    """A record without an accuracy is rejected, not an error."""
    verdict = decide(SimpleNamespace(images=TEST_IMAGES), GateSettings(), ALONE)  # type: ignore[arg-type]
    assert not verdict.promoted
    assert "no test accuracy" in verdict.reason


@pytest.mark.parametrize(("scored", "expected"), [(9_999, 10_000), (10_000, 9_999), (10, 0)])
def test_another_number_of_images_than_the_test_set_has_rejects(scored: int, expected: int) -> None:
    """A part of the test set, or more than it, proves nothing."""
    verdict = decide(evaluation(scored, scored), GateSettings(), GateContext(expected))
    assert not verdict.promoted
    assert "every test image scored" in verdict.reason


def test_the_interval_counts_only_if_the_setting_says_so() -> None:
    """0.9030 passes by its value, but not by the lower end of its interval."""
    near = evaluation(9_030)
    assert decide(near, GateSettings(), ALONE).promoted
    strict = decide(near, GateSettings(lower_bound=True), ALONE)
    assert not strict.promoted
    assert strict.rules[-1].value == wilson_interval(9_030, TEST_IMAGES).low
    assert decide(evaluation(9_100), GateSettings(lower_bound=True), ALONE).promoted


def test_the_verdict_lists_every_rule_with_value_bound_and_result() -> None:
    """Each rule stands in the verdict, passed or not."""
    verdict = decide(evaluation(8_950), GateSettings(lower_bound=True), ALONE)
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
        (9_000, "exactly at the bound 0.9000"),
    ],
)
def test_the_reason_says_how_close_it_was(correct: int, words: str) -> None:
    """The distance to the bound is given in points and in images."""
    reason = decide(evaluation(correct), GateSettings(), ALONE).reason
    assert words in reason


def test_the_reason_names_what_failed_with_its_value() -> None:
    """Where the accuracy passes and its interval does not, the reason gives the interval's end."""
    verdict = decide(evaluation(9_030), GateSettings(lower_bound=True), ALONE)
    low = wilson_interval(9_030, TEST_IMAGES).low
    assert f"lower end of its 95 % interval ({low:.4f} where 0.9000 is needed)" in verdict.reason


@pytest.mark.parametrize(("bound", "side"), [(0.90004, "below"), (0.89996, "above")])
def test_a_distance_smaller_than_an_image_has_its_side(bound: float, side: str) -> None:
    """0.9000 misses a bound of 0.90004 and passes one of 0.89996, and the words say so."""
    verdict = decide(evaluation(9_000), GateSettings(min_accuracy=bound), ALONE)
    assert verdict.promoted is (side == "above")
    assert f"{side} the bound" in verdict.reason


def test_the_bound_can_be_changed() -> None:
    """Another threshold is a setting away."""
    assert decide(evaluation(5_000), GateSettings(min_accuracy=0.5), ALONE).promoted


# ---- against the champion -----------------------------------------------------------------------

# Of 200 images that changed sides: with so many gained the one-sided p is just over 0.025, or under.
LEVEL_ENOUGH, WORSE = (86, 114), (85, 115)
BETTER, NOT_PROVED_BETTER = (115, 85), (114, 86)


def against(
    gained: int,
    lost: int,
    champion: str = "off",
    max_class_drop: float | None = None,
    *,
    correct: int = 9_142,
    same_test_set: bool = True,
) -> Verdict:
    settings = GateSettings(champion=champion, max_class_drop=max_class_drop)  # type: ignore[arg-type]
    found = records.comparison(gained, lost, correct=correct, same_test_set=same_test_set)
    return decide(evaluation(correct), settings, GateContext(TEST_IMAGES, found, 3))


def comparison_of(name: str, drop: int) -> Comparison:
    """A comparison in which one class of 1,000 images loses so many of them, and no other any."""
    found = records.comparison(0, 0)
    classes = tuple(
        replace(each, champion=0.85, challenger=(850 - drop * (each.name == name)) / 1_000)
        for each in found.classes
    )
    return replace(found, classes=classes)


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
    assert against(*sides, champion).promoted is promoted


@pytest.mark.parametrize("champion", ["off", "not_worse", "better"])
def test_a_better_model_below_the_bound_is_still_rejected(champion: str) -> None:
    """The comparison is required in addition to the least accuracy, never instead of it."""
    assert not against(500, 0, champion, correct=8_999).promoted


def test_the_default_does_not_compare_with_the_champion() -> None:
    """With the settings as they are, the accuracy alone decides."""
    verdict = against(0, 5_000)
    assert verdict.promoted
    assert [rule.name for rule in verdict.rules] == ["every test image scored", "test accuracy"]
    assert "champion" not in verdict.reason


@pytest.mark.parametrize(
    ("champion", "sides", "name", "bound"),
    [
        (
            "not_worse",
            WORSE,
            "not significantly worse than the champion, McNemar's one-sided p",
            0.025,
        ),
        (
            "better",
            NOT_PROVED_BETTER,
            "significantly better than the champion, 1 - McNemar's one-sided p",
            0.975,
        ),
    ],
)
def test_the_rule_has_its_exact_value_and_the_reason_a_rounded_one(
    champion: str, sides: tuple[int, int], name: str, bound: float
) -> None:
    """The record keeps every digit; a person reads four, with the difference in points."""
    verdict = against(*sides, champion)
    rule, found = verdict.rules[-1], records.comparison(*sides)
    exact = found.p_value_worse if champion == "not_worse" else 1 - found.p_value_better
    assert rule == Rule(name, exact, bound, False)
    assert verdict.reason == (
        "test accuracy 0.9142 is 1.42 points (142 of 10,000 images) above the bound 0.9000; it is "
        f"{found.in_words}; failed: {name} ({exact:.4f} where {bound:.4f} is needed)"
    )


@pytest.mark.parametrize("name", records.CLASS_NAMES)
def test_a_class_that_loses_more_than_it_may_rejects_and_is_named(name: str) -> None:
    """A recall that falls by just the bound passes, whatever the rounding; one image more does not."""
    settings = GateSettings(max_class_drop=0.02)
    for drop, promoted in ((20, True), (21, False)):
        found = comparison_of(name, drop)
        verdict = decide(evaluation(9_142), settings, GateContext(TEST_IMAGES, found, 1))
        assert verdict.promoted is promoted
        rule = verdict.rules[-1]
        assert rule.name == f"change in the recall of {name}, the worst class"
        assert (rule.value, rule.bound) == (pytest.approx(-drop / 1_000), -0.02)
        assert (rule.measured, rule.needed) == (f"{-drop / 1_000:.4f}", "-0.0200")
        assert (f"failed: {rule.name} (-0.0210 where -0.0200" in verdict.reason) is not promoted


def test_no_drop_at_all_may_be_required() -> None:
    """With a bound of 0 no class may lose an image, and gaining is no fault."""
    settings = GateSettings(max_class_drop=0)
    for drop, promoted in ((-5, True), (0, True), (1, False)):
        found = comparison_of("Coat", drop)
        verdict = decide(evaluation(9_142), settings, GateContext(TEST_IMAGES, found, 1))
        assert verdict.promoted is promoted
        assert verdict.rules[-1].needed == "0.0000"


STRICT = [
    GateSettings(champion="not_worse"),
    GateSettings(champion="better"),
    GateSettings(max_class_drop=1),
]
COULD_NOT_BE_SCORED = (
    f"the champion {CHAMPION} could not be scored: its model is gone; check it with `fmnist verify "
    f"{CHAMPION}`; to replace it without a comparison, use `fmnist promote --force`, or set "
    "gate.champion to off and gate.max_class_drop to none"
)
STRICT_IDS = ["not_worse", "better", "max_class_drop"]


@pytest.mark.parametrize("settings", STRICT, ids=STRICT_IDS)
def test_without_a_champion_no_rule_needs_one(settings: GateSettings) -> None:
    """The first model of a store has only the accuracy to reach."""
    verdict = decide(evaluation(9_000), settings, ALONE)
    assert verdict.promoted
    assert (len(verdict.rules), verdict.generation) == (2, 0)


@pytest.mark.parametrize("settings", STRICT, ids=STRICT_IDS)
def test_a_champion_that_cannot_be_scored_rejects_where_a_rule_needs_it(
    settings: GateSettings,
) -> None:
    """What cannot be proved is not promoted, and the verdict says why it could not be."""
    lost = ComparisonFailed(CHAMPION, "its model is gone")
    verdict = decide(evaluation(9_999), settings, GateContext(TEST_IMAGES, lost, 4))
    assert not verdict.promoted
    assert verdict.rules[-1].value is None and not verdict.rules[-1].passed
    assert f"{verdict.rules[-1].name} (missing where" in verdict.reason
    assert COULD_NOT_BE_SCORED in verdict.notes


def test_a_champion_that_cannot_be_scored_does_not_matter_where_no_rule_needs_it() -> None:
    """With `off` a broken champion can be replaced, and the verdict says that it is broken."""
    lost = ComparisonFailed(CHAMPION, "its model is gone")
    verdict = decide(evaluation(9_000), GateSettings(), GateContext(TEST_IMAGES, lost, 4))
    assert verdict.promoted
    assert COULD_NOT_BE_SCORED in verdict.notes


@pytest.mark.parametrize("champion", ["off", "not_worse", "better"])
def test_a_champion_of_other_test_data_does_not_decide(champion: str) -> None:
    """It may have been trained on these images: it is shown, and a note says it does not count."""
    verdict = against(0, 5_000, champion, 0.0, same_test_set=False)
    assert verdict.promoted
    assert len(verdict.rules) == 2
    assert (
        f"the champion {CHAMPION} was judged on other test data or class names: the comparison is "
        "shown and does not decide"
    ) in verdict.notes
    assert not any("other test data" in note for note in against(0, 0, champion).notes)


@pytest.mark.parametrize("settings", STRICT, ids=STRICT_IDS)
def test_a_comparison_on_other_images_rejects(settings: GateSettings) -> None:
    """One on a part of the test set proves nothing."""
    part = replace(records.comparison(500, 0), images=9_999)
    assert not decide(evaluation(9_999), settings, GateContext(TEST_IMAGES, part, 1)).promoted


@pytest.mark.parametrize("settings", STRICT, ids=STRICT_IDS)
def test_a_comparison_that_is_no_number_rejects(settings: GateSettings) -> None:
    """Neither a count nor a recall that was not measured correctly ever passes."""
    found = records.comparison(500, 0)
    classes = (found.classes[0], replace(found.classes[1], challenger=math.nan), *found.classes[2:])
    broken = replace(found, gained=math.nan, lost=math.nan, classes=classes)  # type: ignore[arg-type]
    assert not decide(evaluation(9_999), settings, GateContext(TEST_IMAGES, broken, 1)).promoted


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
    """Several failures stand in one sentence, each with its figures in words."""
    rules = (Rule("one", 0.00003, 0.025, False), Rule("two", 0.5, 0.25, True))
    failed = (*rules, Rule("three", None, 0.9, False))
    assert verdict_of(failed, "close").reason == (
        "close; failed: one (below 0.0001 where 0.0250 is needed); three (missing where 0.9000 is "
        "needed)"
    )


@pytest.mark.parametrize(
    ("judged", "note"),
    [
        (1, "this test set has judged 1 model in this store"),
        (
            1_234,
            "this test set has judged 1,234 models in this store: the more it judges, the less a "
            "pass proves",
        ),
    ],
)
def test_the_verdict_says_how_often_the_test_set_was_used(judged: int, note: str) -> None:
    """The number of models that the test set has judged in the store is a note of every verdict."""
    for correct in (9_142, 8_000):
        verdict = decide(
            evaluation(correct), GateSettings(), GateContext(TEST_IMAGES, judged=judged)
        )
        assert verdict.notes == (note,)


def test_the_verdict_says_that_the_store_is_safe_for_one_publisher_only() -> None:
    """A store without conditional writes leads to a note; one with them does not."""
    safe = decide(evaluation(9_142), GateSettings(), ALONE)
    unsafe = decide(evaluation(9_142), GateSettings(), replace(ALONE, conditional_writes=False))
    assert unsafe.promoted
    assert len(unsafe.notes) == len(safe.notes) + 1
    assert "does not honour conditional writes" in unsafe.notes[-1]


def test_the_verdict_tells_the_generation_it_was_made_against() -> None:
    """It tells the promotion whether the champion has changed since."""
    assert decide(evaluation(9_142), GateSettings(), ALONE).generation == 0
    assert against(0, 0).generation == 3


def test_no_images_prove_nothing() -> None:
    """A test set without images rejects, however many of them were scored."""
    nothing = replace(evaluation(9_500), images=0)
    assert not decide(nothing, GateSettings(), GateContext(0)).promoted
    alone = replace(evaluation(9_500), images=1)
    assert decide(alone, GateSettings(), GateContext(1)).promoted


def test_a_bound_of_0_is_reached_by_0() -> None:
    """An accuracy of 0 is a valid share, and passes if 0 is required."""
    wrong = replace(evaluation(9_500), accuracy=0.0)
    verdict = decide(wrong, GateSettings(min_accuracy=0), GateContext(TEST_IMAGES))
    assert verdict.promoted and "exactly at the bound" in verdict.reason


def test_an_undecided_verdict_promotes_nothing_and_says_why() -> None:
    """It has no rules, names its reason, and keeps the generation that was seen last."""
    found = undecided("the store is away", 3)
    assert found == Verdict(False, (), "not decided yet: the store is away", 3, decided=False)
    assert found.promoted is False and found.decided is False
    assert found.word == "undecided"


def test_a_verdict_without_rules_says_so() -> None:
    """It is a rejection like any other, with a reason."""
    assert verdict_of((), "close") == Verdict(False, (), "the gate has no rules")
