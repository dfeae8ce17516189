"""Compare a challenger with the champion, both scored on the same test images."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from fmnist.data.duplicates import Mask
from fmnist.data.records import Bytes, Probabilities
from fmnist.evaluation.metrics import surest_first
from fmnist.evaluation.records import (
    CONFIDENCE,
    ChangedImage,
    Comparison,
    Interval,
    RecallDifference,
)


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


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else 0.0
