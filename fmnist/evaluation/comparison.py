"""Compare a challenger with the champion, both scored on the same test images."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, binomtest, norm

from fmnist.data.duplicates import Mask
from fmnist.data.records import Bytes, Probabilities
from fmnist.evaluation.metrics import CONFIDENCE, Interval, surest_first


@dataclass(frozen=True)
class RecallDifference:
    """The recall of one class under the champion and under the challenger.

    Attributes:
        name: of the class.
        champion: the champion's recall; 0 if the class has no images.
        challenger: the challenger's recall; likewise.
        gained: how many images of the class only the challenger classifies right.
        lost: how many of them only the champion classifies right.
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
    """A test image that only one of the two models classifies right.

    Attributes:
        index: its place in the test set, from 0.
        true: its class.
        champion: the class that the champion takes it for.
        challenger: the class that the challenger takes it for.
        confidence: the probability that the challenger gives to that class.
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

    Attributes:
        champion: the champion's run id.
        images: how many test images they are compared on.
        champion_accuracy: the champion's accuracy on them.
        accuracy: the challenger's accuracy on them.
        difference: the challenger's accuracy minus the champion's.
        interval: the difference's confidence interval.
        gained: how many images only the challenger classifies right.
        lost: how many images only the champion classifies right.
        p_value: of McNemar's exact test, two-sided.
        same_test_set: whether the champion was judged on this test set and class names too.
        classes: the recall of each class, by class number.
        changed: every image counted in `lost`, then those in `gained`; of each those first that
            the challenger is surest of.
        left_out: how many test images are left out, since one of the two may have been trained on
            them; `None` if it is not known which, so that they are compared on all.
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
    left_out: int | None = None

    @property
    def test_images(self) -> int:
        """How many images the test set has."""
        return self.images + (self.left_out or 0)

    @property
    def p_value_worse(self) -> float:
        """How probable so few gains are for equal models: McNemar's exact test, one-sided."""
        return _never_zero(binom.cdf(self.gained, self.gained + self.lost, 0.5))

    @property
    def p_value_better(self) -> float:
        """How probable so many gains are for equal models: McNemar's exact test, one-sided."""
        return _never_zero(binom.cdf(self.lost, self.gained + self.lost, 0.5))

    @property
    def largest_drop(self) -> RecallDifference:
        """The class that loses most recall; a loss that is not a number counts as the largest."""
        return max(self.classes, key=lambda scores: (math.isnan(scores.drop), scores.drop))

    @property
    def in_words(self) -> str:
        """How the challenger compares with the champion, in points."""
        champion = f"the champion's {self.champion_accuracy:.4f} on the same images"
        if self.gained == self.lost:
            return f"level with {champion}"
        side = "better" if self.gained > self.lost else "worse"
        return f"{abs(self.difference) * 100:.2f} points {side} than {champion}"


@dataclass(frozen=True)
class ComparisonFailed:
    """A champion that could not be scored on the test images.

    Attributes:
        champion: its run id.
        reason: why, in words.
    """

    champion: str
    reason: str


# The comparison with the champion; `None` if there is no champion.
Against = Comparison | ComparisonFailed | None


def compare(
    champion: str,
    champion_probabilities: Probabilities,
    probabilities: Probabilities,
    labels: Bytes,
    class_names: Sequence[str],
    *,
    same_test_set: bool,
    unseen: Mask | None = None,
) -> Comparison:
    """Compare two models by their probabilities `(n, classes)` for images of these labels `(n,)`.

    `unseen` says which images neither was trained on: only they count. `None` if it is not known.

    The p-value is that of McNemar's test (1947), exact, by the binomial distribution of the images
    that changed sides: are gains and losses as likely as a fair coin's sides?
    """
    places = np.arange(len(labels)) if unseen is None else np.flatnonzero(unseen)
    labels, probabilities = labels[places], probabilities[places]
    before, after = champion_probabilities[places].argmax(axis=1), probabilities.argmax(axis=1)
    was_right, is_right = before == labels, after == labels
    confidence = probabilities.max(axis=1)
    gains, losses = is_right & ~was_right, was_right & ~is_right
    gained, lost = int(gains.sum()), int(losses.sum())
    return Comparison(
        champion=champion,
        images=len(labels),
        champion_accuracy=_share(was_right),
        accuracy=_share(is_right),
        difference=(gained - lost) / max(len(labels), 1),
        interval=difference_interval(gained, lost, len(labels)),
        gained=gained,
        lost=lost,
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
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
                index=int(places[found]),
                true=class_names[labels[found]],
                champion=class_names[before[found]],
                challenger=class_names[after[found]],
                confidence=float(confidence[found]),
            )
            for side in (losses, gains)
            for found in surest_first(np.flatnonzero(side), confidence)
        ),
        left_out=None if unseen is None else len(unseen) - len(places),
    )


def in_points(difference: float) -> str:
    """A difference of two shares in points, with its sign."""
    # Adding 0 turns -0.0 into 0.
    return f"{round(difference * 100, 2) + 0:+.2f}"


def in_digits(p_value: float) -> str:
    """What follows `p`: a p-value in four digits, which are never all 0."""
    return f"= {p_value:.4f}" if p_value >= 0.0001 else "< 0.0001"


def difference_interval(gained: int, lost: int, images: int) -> Interval:
    """The confidence interval for the difference of two accuracies on the same images.

    The adjusted Wald interval for paired proportions (Bonett and Price, 2012). In close cases it
    may exclude 0 although McNemar's exact test, which the gate uses, is not significant.
    """
    more, fewer = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    difference = more - fewer
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    margin = z * math.sqrt((more + fewer - difference**2) / (images + 2))
    return Interval(max(-1.0, difference - margin), min(1.0, difference + margin))


def _never_zero(p_value: float) -> float:
    """A p-value, also where it is too small for a float."""
    return max(float(p_value), sys.float_info.min)


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else 0.0
