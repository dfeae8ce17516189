"""What is said of a data set, and of how much it differs from another."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from fmnist.data.records import DataStatistics, LabelledImages, SetChange, ShareChange
from fmnist.data.statistics import compare_statistics, describe_sets, mean_images, notable_changes
from fmnist.settings import DataSettings
from tests.support import records

NAMES = ("square", "circle")
EQUAL = (6_000,) * 10
# One of ten classes has half its images, and the others share the rest.
HALVED = (3_000, *(6_333,) * 9)


def grey(*levels: int, label: int = 0) -> LabelledImages:
    """Images of one class, each of a single grey level."""
    images = np.repeat(np.array(levels, np.uint8), 64).reshape(-1, 8, 8)
    return LabelledImages(images, np.full(len(levels), label, np.uint8))


def together(*parts: LabelledImages) -> LabelledImages:
    return LabelledImages(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


@pytest.fixture
def described() -> DataStatistics:
    """The statistics of a few images: the first class dark, the second bright."""
    return describe_sets(
        together(grey(10, 30), grey(200, label=1)),
        together(grey(20), grey(255, label=1)),
        together(grey(0, 5, 5), grey(7, 7, label=1)),
        NAMES,
    )


def change(before: DataStatistics, now: DataStatistics) -> SetChange:
    """How the images to learn from have changed."""
    return compare_statistics(before, now)[0]


# ---- one data set -------------------------------------------------------------------------------


def test_each_class_is_counted_in_each_set(described: DataStatistics) -> None:
    counts = [(one.name, one.training, one.validation, one.test) for one in described.classes]
    assert counts == [("square", 2, 1, 3), ("circle", 1, 1, 2)]


def test_a_classs_brightness_is_that_of_the_images_it_is_learned_from(
    described: DataStatistics,
) -> None:
    """Training and validation images count alike, test images not at all."""
    dark, bright = described.classes
    assert (dark.brightness, dark.spread) == pytest.approx((20, np.std([10, 30, 20])))
    assert (bright.brightness, bright.spread) == pytest.approx((227.5, 27.5))


def test_images_are_counted_by_their_brightness_rounded_down(described: DataStatistics) -> None:
    """The training and validation images apart from the test images, black to white."""
    learned = {level: count for level, count in enumerate(described.brightness) if count}
    assert learned == {10: 1, 20: 1, 30: 1, 200: 1, 255: 1}
    tested = {level: count for level, count in enumerate(described.test_brightness) if count}
    assert tested == {0: 1, 5: 2, 7: 2}
    almost = grey(9, 9)
    almost.images[0, 0, 0] = 0
    found = describe_sets(almost, grey(9), grey(9), ["one"])
    assert (found.brightness[8], found.brightness[9]) == (1, 2)


def test_the_mean_image_is_that_of_each_class() -> None:
    """Pixel by pixel, rounded, whatever the other class looks like."""
    data = together(grey(10, 13), grey(200, label=1))
    data.images[0, 0, 0] = 255
    means = mean_images(data, 2)
    assert means.shape == (2, 8, 8) and means.dtype == np.uint8
    assert means[0, 0, 0] == 134 and set(means[0].ravel()[1:]) == {12}
    assert set(means[1].ravel()) == {200}


@pytest.mark.parametrize(
    "fields",
    [
        {"brightness": (1,) * 255},
        {"brightness": (0,) * 256},
        {"test_brightness": (2, -1, *(0,) * 254)},
        {"classes": (replace(records.statistics().classes[0], test=0),)},
        {"classes": (replace(records.statistics().classes[0], training=0, validation=0),)},
    ],
    ids=["too short", "no image", "less than none", "nothing to test on", "nothing to learn from"],
)
def test_statistics_that_no_data_have_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="images"):
        replace(records.statistics(), **fields)  # type: ignore[arg-type]


# ---- against another ----------------------------------------------------------------------------


def test_equal_data_have_not_changed() -> None:
    for found in compare_statistics(records.statistics(), records.statistics()):
        assert (found.cramers_v, found.ks_distance, found.most_changed) == (0, 0, ())
        assert (found.shares_p_value, found.brightness_p_value) == (1, 1)
        assert found.brightness_before == found.brightness == pytest.approx(85)


def test_both_sets_are_compared_each_with_its_own() -> None:
    """A change of the test images alone is not taken for one of the others."""
    before = records.statistics()
    tested = records.statistics(HALVED, 90)
    classes = tuple(
        replace(one, test=other.test)
        for one, other in zip(before.classes, tested.classes, strict=True)
    )
    now = replace(before, classes=classes, test_brightness=tested.test_brightness)
    learned, test = compare_statistics(before, now)
    assert (learned.name, test.name) == ("training and validation", "test")
    assert (learned.images_before, test.images_before) == (60_000, 10_000)
    assert learned.cramers_v == learned.ks_distance == 0
    assert test.cramers_v > 0.05 and test.ks_distance > 0.5


def test_shares_are_compared_by_the_chi_squared_test_of_homogeneity() -> None:
    """Without a correction; V is the root of its statistic for each image."""
    before, now = (6_000, 6_000), (6_100, 5_500)
    found = change(
        records.statistics(before, class_names=NAMES), records.statistics(now, class_names=NAMES)
    )
    statistic, p_value, *_ = chi2_contingency([before, now], correction=False)
    assert found.shares_p_value == pytest.approx(p_value)
    assert found.cramers_v == pytest.approx(np.sqrt(statistic / (sum(before) + sum(now))))


def test_a_class_that_loses_half_its_images_is_a_small_effect() -> None:
    """As the default threshold's documentation says."""
    found = change(records.statistics(EQUAL), records.statistics(HALVED))
    assert found.cramers_v == pytest.approx(0.095, abs=0.001)


def test_the_classes_that_changed_most_are_named_in_order() -> None:
    """Up to three, with their shares, and none that did not change."""
    now = records.statistics((6_000, 9_000, 5_000, 2_000, 8_000, *EQUAL[5:]))
    assert change(records.statistics(), now).most_changed == (
        ShareChange("Dress", 0.1, pytest.approx(2 / 60)),
        ShareChange("Trouser", 0.1, pytest.approx(0.15)),
        ShareChange("Coat", 0.1, pytest.approx(8 / 60)),
    )
    one = records.statistics((3_000, 9_000, *EQUAL[2:]))
    assert [share.name for share in change(records.statistics(), one).most_changed] == [
        "T-shirt/top",
        "Trouser",
    ]


@pytest.mark.parametrize("count", [40, 3_000])
def test_brightness_is_compared_by_the_kolmogorov_smirnov_test(count: int) -> None:
    """Images of whole grey levels give the very distance and p-value of the images themselves."""
    random = np.random.default_rng(0)
    before, now = random.normal(70, 30, 3_000), random.normal(76, 25, count)
    levels = [np.clip(np.rint(values), 0, 255).astype(np.uint8) for values in (before, now)]
    both = together(grey(9), grey(9, label=1))
    first, second = (describe_sets(grey(*each), both, both, NAMES) for each in levels)
    # The validation images are some of them.
    samples = [np.append(each, [9, 9]) for each in levels]
    expected = ks_2samp(*samples, method="asymp")
    found = change(first, second)
    assert found.ks_distance == pytest.approx(expected.statistic)
    assert found.brightness_p_value == pytest.approx(expected.pvalue)
    means = [found.brightness_before, found.brightness]
    assert means == pytest.approx([sample.mean() for sample in samples], abs=0.6)


# ---- what is notable ----------------------------------------------------------------------------


def flagged(now: DataStatistics, **settings: float) -> list[str]:
    """What is said of the images to learn from, and of the test images."""
    sets = compare_statistics(records.statistics(), now)
    return notable_changes(sets, DataSettings(**settings))  # type: ignore[arg-type]


def test_a_change_of_shares_above_the_threshold_is_flagged_with_its_classes() -> None:
    now = records.statistics(HALVED)
    assert flagged(now) == []
    words = flagged(now, notable_share_change=0.09)
    assert len(words) == 2
    assert words[0].startswith(
        "class shares of the training and validation images: Cramér's V 0.095, above 0.09 "
        "(T-shirt/top 10.0% to 5.0%, "
    )
    assert words[1].startswith("class shares of the test images: ")


def test_a_change_of_brightness_above_the_threshold_is_flagged_with_its_means() -> None:
    now = records.statistics(brightness=73)
    assert flagged(now, notable_brightness_change=0.1001) == []
    assert flagged(now, notable_brightness_change=0.0999) == [
        f"brightness of the {name} images: Kolmogorov-Smirnov D 0.100, above 0.0999 "
        "(mean 85.0 to 88.0)"
        for name in ("training and validation", "test")
    ]


def test_a_significant_but_small_change_is_not_notable() -> None:
    """With 60,000 images the p-value of every change is tiny: only the effect size counts."""
    now = records.statistics((5_500, 6_500, *EQUAL[2:]), brightness=71)
    found = change(records.statistics(), now)
    assert max(found.shares_p_value, found.brightness_p_value) < 1e-4
    assert flagged(now) == []


def test_a_threshold_of_zero_flags_every_change_and_nothing_else() -> None:
    settings = {"notable_share_change": 0.0, "notable_brightness_change": 0.0}
    assert flagged(records.statistics(), **settings) == []
    now = records.statistics((5_999, 6_001, *EQUAL[2:]), brightness=71)
    assert len(flagged(now, **settings)) == 4
