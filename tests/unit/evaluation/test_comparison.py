"""Champion and challenger on the same images: counts, tests, intervals, and what changed sides."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest

from fmnist.data.records import Bytes
from fmnist.evaluation.comparison import compare, difference_interval
from fmnist.evaluation.records import Comparison
from tests.support import records

NAMES = ("a", "b", "c")


def sure(classes: list[int], confidence: float | list[float] = 0.9) -> npt.NDArray[np.float32]:
    """Probabilities of a model that takes the images for these classes, this sure of itself."""
    one_hot = np.eye(len(NAMES))[classes]
    share = np.broadcast_to(confidence, len(classes))[:, None]
    return (one_hot * share + (1 - one_hot) * (1 - share) / 2).astype(np.float32)


def made(
    champion: npt.NDArray[np.float32], challenger: npt.NDArray[np.float32], labels: Bytes
) -> Comparison:
    return compare("old", champion, challenger, labels, NAMES, same_test_set=True)


LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.uint8)
CHAMPION = sure([0, 0, 1, 1, 0, 2, 2, 0])
CHALLENGER = sure([0, 1, 0, 1, 1, 2, 0, 2], [0.9, 0.6, 0.7, 0.9, 0.8, 0.9, 0.95, 0.75])


def test_the_figures_are_those_counted_by_hand() -> None:
    """Accuracies, difference, gains, losses and the recall of each class, on eight images."""
    found = made(CHAMPION, CHALLENGER, LABELS)
    assert (found.champion, found.images, found.same_test_set) == ("old", 8, True)
    assert (found.champion_accuracy, found.accuracy) == (5 / 8, 6 / 8)
    assert (found.gained, found.lost, found.difference) == (3, 2, 1 / 8)
    scores = [(s.name, s.champion, s.challenger, s.gained, s.lost) for s in found.classes]
    assert scores == [("a", 2 / 3, 2 / 3, 1, 1), ("b", 1 / 2, 1.0, 1, 0), ("c", 2 / 3, 2 / 3, 1, 1)]
    assert [scores.drop for scores in found.classes] == [0, -0.5, 0]


def test_the_images_that_changed_sides_come_lost_first_and_surest_first() -> None:
    """Each has its place, its three classes and the challenger's confidence; no other is listed."""
    found = made(CHAMPION, CHALLENGER, LABELS).changed
    assert [(i.index, i.true, i.champion, i.challenger, i.gained) for i in found] == [
        (6, "c", "c", "a", False),
        (1, "a", "a", "b", False),
        (4, "b", "a", "b", True),
        (7, "c", "a", "c", True),
        (2, "a", "b", "a", True),
    ]
    assert [image.confidence for image in found] == pytest.approx([0.95, 0.6, 0.8, 0.75, 0.7])


def test_only_images_that_neither_model_was_trained_on_count() -> None:
    """Places remain those in the whole test set, and those left out are counted."""
    unseen = np.array([True, True, False, True, True, True, False, True])
    found = compare("old", CHAMPION, CHALLENGER, LABELS, NAMES, same_test_set=False, unseen=unseen)
    assert (found.images, found.left_out, found.test_images) == (6, 2, 8)
    assert (found.champion_accuracy, found.accuracy) == (4 / 6, 5 / 6)
    assert (found.gained, found.lost) == (2, 1)
    assert [image.index for image in found.changed] == [1, 4, 7]
    assert [(each.gained, each.lost) for each in found.classes] == [(0, 1), (1, 0), (1, 0)]


def test_a_comparison_without_a_single_image_has_figures_that_prove_nothing() -> None:
    none = np.zeros(len(LABELS), bool)
    found = compare("old", CHAMPION, CHALLENGER, LABELS, NAMES, same_test_set=True, unseen=none)
    assert (found.images, found.left_out, found.p_value) == (0, 8, 1.0)
    assert found.interval.low < -0.5 and found.interval.high > 0.5


def test_images_of_one_confidence_stay_in_their_order() -> None:
    labels = np.zeros(6, np.uint8)
    found = made(sure([0, 1, 0, 1, 0, 1]), sure([1, 0, 1, 0, 1, 0]), labels).changed
    assert [image.index for image in found] == [0, 2, 4, 1, 3, 5]


def test_an_image_that_both_have_wrong_in_different_ways_changed_no_side() -> None:
    """What counts is right or wrong, not the answer."""
    found = made(sure([1]), sure([2]), np.zeros(1, np.uint8))
    assert (found.gained, found.lost, found.changed) == (0, 0, ())


def test_the_other_way_round_everything_is_mirrored() -> None:
    """Champion and challenger exchanged: gains are losses, and the difference turns its sign."""
    there, back = made(CHAMPION, CHALLENGER, LABELS), made(CHALLENGER, CHAMPION, LABELS)
    assert (back.gained, back.lost) == (there.lost, there.gained)
    assert back.difference == -there.difference
    assert back.p_value == there.p_value
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-there.interval.high, -there.interval.low)
    )
    assert back.p_value_worse == there.p_value_better
    assert [scores.drop for scores in back.classes] == [-scores.drop for scores in there.classes]
    assert {image.index for image in back.changed} == {image.index for image in there.changed}


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (3, 2), (1, 7), (0, 6), (5, 0), (301, 210), (210, 301), (40, 40)]
)
def test_the_p_values_are_those_of_scipys_binomial_test(gained: int, lost: int) -> None:
    """McNemar's exact test is the binomial one of the images that changed sides, on every side."""
    found = records.comparison(gained, lost)
    assert (found.gained, found.lost) == (gained, lost)
    if gained + lost == 0:
        assert found.p_value == found.p_value_worse == found.p_value_better == 1
        return
    for value, alternative in (
        (found.p_value, "two-sided"),
        (found.p_value_worse, "less"),
        (found.p_value_better, "greater"),
    ):
        expected = binomtest(gained, gained + lost, 0.5, alternative=alternative).pvalue
        assert value == pytest.approx(expected, rel=1e-9)


def test_two_models_of_the_same_answers_are_level() -> None:
    found = made(CHAMPION, CHAMPION, LABELS)
    assert (found.difference, found.p_value, found.changed) == (0, 1, ())
    assert found.interval.low < 0 < found.interval.high
    assert found.in_words == "level with the champion's 0.6250 on the same images"


@pytest.mark.parametrize(
    ("gained", "lost", "images", "low", "high", "digits"),
    [
        # R, statpsych: ci.prop.ps(.05, 12, 4, 26, 6)
        (26, 4, 48, 0.2548067, 0.6251933, 7),
        # Fagerland, Lydersen and Laake, 2014, table V
        (1, 7, 21, -0.508, -0.013, 3),
    ],
)
def test_the_interval_is_the_published_one(
    gained: int, lost: int, images: int, low: float, high: float, digits: int
) -> None:
    """The adjusted Wald interval gives the values of the examples in the literature."""
    found = difference_interval(gained, lost, images)
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Over 4,000 simulated tests of 10,000 images, 95 % of them, within what chance allows."""
    random = np.random.default_rng(0)
    draws = random.multinomial(10_000, [0.030, 0.025, 0.945], 4_000)
    hits = 0
    for gained, lost, _ in draws:
        interval = difference_interval(int(gained), int(lost), 10_000)
        hits += interval.low <= 0.005 <= interval.high
    assert 0.94 < hits / len(draws) < 0.96


@pytest.mark.parametrize(("gained", "lost"), [(0, 3), (3, 0)])
def test_the_interval_stays_within_what_a_difference_can_be(gained: int, lost: int) -> None:
    """Even three images that all changed sides give no difference beyond 1."""
    found = difference_interval(gained, lost, 3)
    assert -1 <= found.low < found.high <= 1


def test_a_class_without_images_has_no_recall_to_lose() -> None:
    """It is listed, with a recall of 0 under both, and no difference."""
    found = made(sure([0, 1]), sure([1, 1]), np.array([0, 1], np.uint8)).classes[2]
    assert (found.name, found.champion, found.challenger, found.drop) == ("c", 0, 0, 0)
    assert (found.gained, found.lost) == (0, 0)


def test_the_largest_drop_is_that_of_the_class_that_loses_most() -> None:
    """Recall counts, not images: one of two is more than one of three."""
    labels = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    found = made(sure([0, 0, 0, 1, 1, 0]), sure([0, 0, 1, 1, 0, 2]), labels)
    assert found.largest_drop.name == "b"
    assert found.largest_drop.drop == 0.5


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_drop_that_is_no_number_is_the_largest(broken: int) -> None:
    """Wherever it stands, a recall that was not measured right cannot hide behind another."""
    found = made(CHAMPION, CHALLENGER, LABELS)
    classes = list(found.classes)
    classes[broken] = replace(classes[broken], challenger=math.nan)
    assert replace(found, classes=tuple(classes)).largest_drop is classes[broken]


@pytest.mark.parametrize(
    ("gained", "lost", "words"),
    [
        (301, 210, "0.91 points better than the champion's 0.9051 on the same images"),
        (10, 68, "0.58 points worse than the champion's 0.9200 on the same images"),
        (50, 50, "level with the champion's 0.9142 on the same images"),
    ],
)
def test_the_words_give_the_difference_in_points(gained: int, lost: int, words: str) -> None:
    assert records.comparison(gained, lost).in_words == words
