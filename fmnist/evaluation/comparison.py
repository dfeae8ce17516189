"""Compare a challenger with the champion, both scored on the same test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, binomtest, norm

from fmnist.data.records import Bytes
from fmnist.evaluation.metrics import CONFIDENCE, Interval


@dataclass(frozen=True)
class RecallDifference:
    """The recall of one class under the champion and under the challenger.

    `gained` counts its images that only the challenger has right, `lost` those that only the
    champion has. A class without images has a recall of 0 under both.
    """

    name: str
    champion: float
    challenger: float
    gained: int
    lost: int

    @property
    def drop(self) -> float:
        """What the challenger loses; negative where it gains."""
        return self.champion - self.challenger


@dataclass(frozen=True)
class ChangedImage:
    """A test image, by its place, that just one of the two classified right.

    `champion` and `challenger` are the classes that they took it for, `confidence` is the
    challenger's in its own.
    """

    index: int
    true: str
    champion: str
    challenger: str
    confidence: float

    @property
    def gained(self) -> bool:
        """Whether it is the challenger that has it right."""
        return self.challenger == self.true


@dataclass(frozen=True)
class Comparison:
    """Champion and challenger on the same test images.

    `gained` counts the images that only the challenger has right, `lost` those that only the
    champion has. `difference` is the challenger's accuracy less the champion's, `interval` its
    confidence interval, `p_value` that of McNemar's exact test, two-sided. `same_test_set` tells
    whether the champion was once judged on these test images too, under these class names; if not,
    they may be among those that it was trained on. `changed` has every image that changed sides:
    the lost ones, then the gained ones, of each those first that the challenger is surest of.
    """

    champion: str
    images: int
    champion_accuracy: float
    accuracy: float
    difference: float
    interval: Interval
    gained: int
    lost: int
    p_value: float
    same_test_set: bool
    classes: tuple[RecallDifference, ...]
    changed: tuple[ChangedImage, ...]

    @property
    def p_value_worse(self) -> float:
        """McNemar's exact test, one-sided: how likely so few gains are of two equally good models.

        Small where the challenger is worse.
        """
        return float(binom.cdf(self.gained, self.gained + self.lost, 0.5))

    @property
    def p_value_better(self) -> float:
        """McNemar's exact test, one-sided: how likely so many gains are of two equally good models.

        Small where the challenger is better.
        """
        return float(binom.cdf(self.lost, self.gained + self.lost, 0.5))

    @property
    def largest_drop(self) -> RecallDifference:
        """The class that loses most recall; one whose loss is not a number comes before all."""
        return max(self.classes, key=lambda scores: (math.isnan(scores.drop), scores.drop))

    @property
    def in_words(self) -> str:
        """How the challenger stands to the champion, in points."""
        champion = f"the champion's {self.champion_accuracy:.4f} on the same images"
        if self.gained == self.lost:
            return f"level with {champion}"
        side = "better" if self.gained > self.lost else "worse"
        return f"{abs(self.difference) * 100:.2f} points {side} than {champion}"


@dataclass(frozen=True)
class ComparisonFailed:
    """A champion that could not be scored on the test images, and why."""

    champion: str
    reason: str


def compare(
    champion: str,
    champion_probabilities: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    labels: Bytes,
    class_names: Sequence[str],
    *,
    same_test_set: bool,
) -> Comparison:
    """Compare two models by their probabilities `(n, classes)` for images of these labels `(n,)`."""
    before, after = champion_probabilities.argmax(axis=1), probabilities.argmax(axis=1)
    was_right, is_right = before == labels, after == labels
    confidence = probabilities.max(axis=1)
    gains, losses = is_right & ~was_right, was_right & ~is_right
    gained, lost = int(gains.sum()), int(losses.sum())
    return Comparison(
        champion=champion,
        images=len(labels),
        champion_accuracy=float(was_right.mean()),
        accuracy=float(is_right.mean()),
        difference=(gained - lost) / len(labels),
        interval=difference_interval(gained, lost, len(labels)),
        gained=gained,
        lost=lost,
        p_value=mcnemar_p_value(gained, lost),
        same_test_set=same_test_set,
        classes=tuple(
            RecallDifference(
                name,
                champion=_share(was_right[labels == number]),
                challenger=_share(is_right[labels == number]),
                gained=int(gains[labels == number].sum()),
                lost=int(losses[labels == number].sum()),
            )
            for number, name in enumerate(class_names)
        ),
        changed=tuple(
            ChangedImage(
                index=int(index),
                true=class_names[labels[index]],
                champion=class_names[before[index]],
                challenger=class_names[after[index]],
                confidence=float(confidence[index]),
            )
            for side in (losses, gains)
            for index in _surest_first(np.flatnonzero(side), confidence)
        ),
    )


def in_points(difference: float) -> str:
    """A difference of two shares in points, with its sign."""
    # Adding 0 makes of -0.0 a 0.
    return f"{round(difference * 100, 2) + 0:+.2f}"


def in_digits(p_value: float) -> str:
    """A p value in four digits, which are never all 0."""
    return f"{p_value:.4f}" if p_value >= 0.0001 else "below 0.0001"


def mcnemar_p_value(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided: are gains and losses as even as a fair coin's?

    Source: McNemar, 1947; exact by the binomial distribution of the discordant pairs.
    """
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def difference_interval(gained: int, lost: int, images: int) -> Interval:
    """The confidence interval for the difference of two accuracies on the same images.

    The adjusted Wald interval for paired proportions (Bonett and Price, 2012). Close to the edge it
    may exclude 0 where McNemar's exact test, by which the gate decides, is not yet significant.
    """
    more, fewer = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    difference = more - fewer
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    margin = z * math.sqrt((more + fewer - difference**2) / (images + 2))
    return Interval(max(-1.0, difference - margin), min(1.0, difference + margin))


def _surest_first(
    places: npt.NDArray[np.intp], confidence: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp]:
    return places[np.argsort(-confidence[places], kind="stable")]


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else 0.0
