"""Describe a data set, and say how much it differs from the champion's.

With tens of thousands of images every difference is significant, so what counts is its effect size;
the p-value only says whether it could be chance. The settings' default thresholds are those that
are commonly called small:

- Class shares: 0.1, Cohen's small effect (Statistical Power Analysis, 1988, chapter 7; for two data
  sets his w and Cramér's V are the same). It is what one of ten classes losing half its images
  gives. V is largest for data sets of equal size: the same change at 10:1 gives 0.05.
- Brightness: 0.1, which is what a shift by a quarter of the standard deviation gives; Cohen's small
  effect, a fifth (chapter 2), gives 0.08, his medium one, a half, 0.2.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency, kstwo
from scipy.stats.contingency import association

from fmnist.data.records import (
    GREY_LEVELS,
    Bytes,
    ClassStatistics,
    DataStatistics,
    LabelledImages,
    SetChange,
    ShareChange,
)
from fmnist.settings import DataSettings

_NAMED = 3
_Floats = npt.NDArray[np.float64]


def describe_sets(
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    class_names: Sequence[str],
) -> DataStatistics:
    """Count each class's images, and measure how bright they are.

    A class's brightness is that of the images a model learns from: training and validation.
    """
    training, validated, tested = (
        _count(data.labels, len(class_names)) for data in (train, validation, test)
    )
    labels = np.concatenate([train.labels, validation.labels])
    brightness = np.concatenate([_brightness(train.images), _brightness(validation.images)])
    of_classes = [brightness[labels == number] for number in range(len(class_names))]
    return DataStatistics(
        classes=tuple(
            ClassStatistics(
                name,
                training[number],
                validated[number],
                tested[number],
                brightness=float(of_classes[number].mean()),
                spread=float(of_classes[number].std()),
            )
            for number, name in enumerate(class_names)
        ),
        brightness=_histogram(brightness),
        test_brightness=_histogram(_brightness(test.images)),
    )


def mean_images(data: LabelledImages, classes: int) -> Bytes:
    """The mean image of each class `(classes, height, width)`; each class must have an image."""
    means = [data.images[data.labels == number].mean(axis=0) for number in range(classes)]
    return np.rint(means).astype(np.uint8)


def compare_statistics(before: DataStatistics, now: DataStatistics) -> tuple[SetChange, ...]:
    """Compare this run's data with the champion's, which have the same classes."""
    both, names = (before, now), [one.name for one in now.classes]
    return (
        _compare_set(
            "training and validation",
            names,
            [[one.training + one.validation for one in data.classes] for data in both],
            [data.brightness for data in both],
        ),
        _compare_set(
            "test",
            names,
            [[one.test for one in data.classes] for data in both],
            [data.test_brightness for data in both],
        ),
    )


def notable_changes(sets: Sequence[SetChange], settings: DataSettings) -> list[str]:
    """What differs more than the settings call notable, in words."""
    found = []
    for one in sets:
        if one.cramers_v > settings.notable_share_change:
            named = ", ".join(
                f"{share.name} {share.before:.1%} to {share.now:.1%}" for share in one.most_changed
            )
            found.append(
                f"class shares of the {one.name} images: Cramér's V {one.cramers_v:.3f}, above "
                f"{settings.notable_share_change:g} ({named})"
            )
        if one.ks_distance > settings.notable_brightness_change:
            found.append(
                f"brightness of the {one.name} images: Kolmogorov-Smirnov D {one.ks_distance:.3f}, "
                f"above {settings.notable_brightness_change:g} (mean {one.brightness_before:.1f} "
                f"to {one.brightness:.1f})"
            )
    return found


def _compare_set(
    name: str,
    class_names: Sequence[str],
    images: Sequence[Sequence[int]],
    brightness: Sequence[Sequence[int]],
) -> SetChange:
    """Compare one set by how many images of each class and brightness it had, and has now."""
    table, histograms = np.array(images), np.array(brightness)
    totals, sizes = table.sum(axis=1), histograms.sum(axis=1)
    changes = [
        ShareChange(each, *map(float, shares))
        for each, shares in zip(class_names, (table / totals[:, None]).T, strict=True)
    ]
    most_changed = sorted(changes, key=lambda one: -abs(one.now - one.before))[:_NAMED]
    cumulated = histograms.cumsum(axis=1) / sizes[:, None]
    distance = float(np.abs(cumulated[0] - cumulated[1]).max())
    means = histograms @ (np.arange(GREY_LEVELS) + 0.5) / sizes
    return SetChange(
        name=name,
        images_before=int(totals[0]),
        images=int(totals[1]),
        cramers_v=float(association(table, "cramer")),
        shares_p_value=float(chi2_contingency(table, correction=False).pvalue),
        most_changed=tuple(one for one in most_changed if one.now != one.before),
        brightness_before=float(means[0]),
        brightness=float(means[1]),
        ks_distance=distance,
        # As `scipy.stats.ks_2samp` approximates it for large samples.
        brightness_p_value=float(kstwo.sf(distance, round(sizes.prod() / sizes.sum()))),
    )


def _brightness(images: Bytes) -> _Floats:
    """The mean of each image's pixels `(n,)`."""
    found: _Floats = images.reshape(len(images), -1).mean(axis=1)
    return found


def _histogram(brightness: _Floats) -> tuple[int, ...]:
    return tuple(_count(brightness.astype(np.uint8), GREY_LEVELS))


def _count(numbers: Bytes, bound: int) -> list[int]:
    """How often each number below `bound` occurs."""
    found: list[int] = np.bincount(numbers, minlength=bound).tolist()
    return found
