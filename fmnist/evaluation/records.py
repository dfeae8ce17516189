"""What is known of a model on the test set: its figures, and how it compares with the champion.

Reading and showing these takes none of the packages that compute them.
"""

import math
import sys
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval for a share, at the level `CONFIDENCE`.

    Attributes:
        low: its lower bound.
        high: its upper bound.
    """

    low: float
    high: float


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class, or their average over the classes.

    Attributes:
        name: of the class, or `macro average` or `weighted average`.
        precision: share of the images predicted as this class that are of it.
        recall: share of the images of this class that were predicted as it.
        f1: the harmonic mean of the two.
        support: how many images are of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes of which one was taken for the other.

    Attributes:
        true: the class of the images.
        predicted: the class they were taken for.
        images: how many.
    """

    true: str
    predicted: str
    images: int


@dataclass(frozen=True)
class Mistake:
    """A test image that was classified wrongly.

    Attributes:
        index: its place in the test set, from 0.
        true: its class.
        predicted: the class it was taken for.
        confidence: the probability given to that class.
    """

    index: int
    true: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """A model's figures on the test set.

    Attributes:
        images: how many images were scored.
        correct: how many of them were classified right.
        accuracy: the share of those.
        interval: the accuracy's confidence interval (Wilson).
        loss: the mean cross-entropy.
        calibration_error: the expected calibration error.
        classes: the scores of each class, by class number.
        averages: their macro and weighted averages.
        confusion: `confusion[true][predicted]` counts images.
        confused_pairs: the classes confused most often, worst first.
        mistakes: the mistakes that the model was surest of, most confident first.
        predictions_sha256: see `digest_of_predictions`; empty in older files.
    """

    images: int
    correct: int
    accuracy: float
    interval: Interval
    loss: float
    calibration_error: float
    classes: tuple[ClassScores, ...]
    averages: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused_pairs: tuple[ConfusedPair, ...]
    mistakes: tuple[Mistake, ...]
    predictions_sha256: str = ""


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
        return _probability_of_at_most(self.gained, self.gained + self.lost)

    @property
    def p_value_better(self) -> float:
        """How probable so many gains are for equal models: McNemar's exact test, one-sided."""
        return _probability_of_at_most(self.lost, self.gained + self.lost)

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


def in_points(difference: float) -> str:
    """A difference of two shares in points, with its sign."""
    # Adding 0 turns -0.0 into 0.
    return f"{round(difference * 100, 2) + 0:+.2f}"


def in_digits(p_value: float) -> str:
    """What follows `p`: a p-value in four digits, which are never all 0."""
    return f"= {p_value:.4f}" if p_value >= 0.0001 else "< 0.0001"


def _probability_of_at_most(hits: int, throws: int) -> float:
    """That a fair coin shows its head at most so often; never 0, although it may be that small."""
    from scipy.special import bdtr  # slow

    return max(float(bdtr(hits, throws, 0.5)), sys.float_info.min)
