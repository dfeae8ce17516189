"""Draw what a person should see: confusion, learning curves, mistakes, champion and challenger.

Figures are made without pyplot, so that drawing needs no display and leaves nothing behind.
"""

import io
from collections.abc import Container, Mapping

import numpy as np
import seaborn
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from fmnist.data.records import Bytes
from fmnist.evaluation.comparison import Comparison
from fmnist.evaluation.metrics import Evaluation
from fmnist.report.run import CHAMPION_AND_CHALLENGER, Run
from fmnist.training.records import TrainingResult

_TRAINING, _VALIDATION, _RATE, _BEST = "#4878a8", "#d1603d", "#8a8a8a", "#3a7d44"
_GAINED, _LOST = _TRAINING, _VALIDATION
_COLUMNS = 8
_LONGEST_NAME, _LONGEST_CAPTION = 24, 15
_DOTS_PER_INCH = 96
_COLOURS = 128


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, in a palette of 128 colours.

    That is a third of the size, so that all of a run's figures fit on a page of the Prefect UI.
    """
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS_PER_INCH)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(reduced, "png", optimize=True)
    return reduced.getvalue()


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Heat map of true by predicted classes: counts, coloured by share of the true class."""
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    # Above ten classes the cells shrink, so that the figure grows more slowly than their number.
    side = max(5.0, 2.4 + 0.48 * min(classes, 10) + 0.36 * max(classes - 10, 0))
    names = [_short(scores.name, _LONGEST_NAME) for scores in evaluation.classes]
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    seaborn.heatmap(
        shares,
        ax=axes,
        annot=np.where(counts == 0, "·", counts.astype(str)),
        fmt="",
        annot_kws={"fontsize": 10 if classes <= 10 else 8},
        # A square root keeps the few confused images visible beside the many correct ones.
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        cmap="Blues",
        square=True,
        linewidths=0.5,
        xticklabels=names,
        yticklabels=names,
        cbar_kws={
            "label": "share of the true class",
            "format": PercentFormatter(1),
            "shrink": 0.7,
            "aspect": 30,
        },
    )
    wrong = f"{evaluation.images - evaluation.correct:,} wrong"
    title = f"Confusion on {evaluation.images:,} test images: {wrong}"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.tick_params(axis="y", rotation=0)
    for label in axes.get_xticklabels():
        label.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")
    return figure


def learning_curves(result: TrainingResult) -> Figure:
    """Loss, accuracy and learning rate by epoch; the epoch whose weights were kept is marked."""
    epochs = [epoch.number for epoch in result.history]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    rates = [epoch.learning_rate for epoch in result.history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        training = [getattr(epoch, name) for epoch in result.history]
        validation = [getattr(epoch, f"val_{name}") for epoch in result.history]
        rate = axes.twinx()
        rate.fill_between(epochs, rates, color=_RATE, alpha=0.12, linewidth=0)
        rate.set_ylim(bottom=0)
        rate.set_ylabel("learning rate (shaded)", color=_RATE)
        rate.tick_params(colors=_RATE)
        axes.set_zorder(rate.get_zorder() + 1)
        axes.patch.set_visible(False)
        style = {"marker": "o"} if len(epochs) == 1 else {}
        axes.plot(epochs, training, color=_TRAINING, label="training (augmented)", **style)
        axes.plot(epochs, validation, color=_VALIDATION, label="validation", **style)
        kept = f"kept: epoch {result.best_epoch}"
        axes.axvline(result.best_epoch, color=_BEST, linestyle="--", linewidth=1, label=kept)
        # The first epochs' jump would flatten everything after it.
        first = len(epochs) // 20
        settled = training[first:] + validation[first:]
        margin = 0.05 * (max(settled) - min(settled) or 1)
        axes.set_ylim(min(settled) - margin, max(settled) + margin)
        axes.set(title=name.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(loc="upper right" if name == "loss" else "lower right")
    return figure


def confident_mistakes(evaluation: Evaluation, images: Bytes) -> Figure:
    """The misclassified test images that the model was surest of, most confident first."""
    rows = max(1, -(-len(evaluation.mistakes) // _COLUMNS))
    figure = Figure(figsize=(10, 1.65 * rows + 0.5), layout="constrained")
    figure.suptitle("Most confident mistakes: true class, then what it was taken for")
    captions = {
        mistake.index: f"{_short(mistake.true, _LONGEST_CAPTION)}\n"
        f"{_short(mistake.predicted, _LONGEST_CAPTION - 4)} {mistake.confidence:.0%}"
        for mistake in evaluation.mistakes
    }
    _show_images(figure, rows, captions, images)
    return figure


def _show_images(part: FigureBase, rows: int, captions: Mapping[int, str], images: Bytes) -> None:
    """Draw test images in rows; `captions` has what stands above each, by its place in `images`."""
    places = list(part.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in places:
        axes.axis("off")
    for axes, (index, caption) in zip(places, captions.items(), strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=8.5)


def champion_and_challenger(comparison: Comparison, images: Bytes) -> Figure:
    """What each class gains and loses against the champion, and some of the images.

    Those the challenger is surest of are shown, the lost ones first.
    """
    changed = comparison.changed
    # The title of each row of images, its colour, and what stands above each image.
    rows = [
        (
            "Lost, the surest first: true class, then what the challenger takes it for",
            _LOST,
            {one.index: _caption(one.true, one.challenger) for one in changed if not one.gained},
        ),
        (
            "Gained, the surest first: true class, then what the champion took it for",
            _GAINED,
            {one.index: _caption(one.true, one.champion) for one in changed if one.gained},
        ),
    ]
    shown = [row for row in rows if row[2]]
    heights = [max(2.5, 1 + 0.3 * len(comparison.classes)), *[1.85] * len(shown)]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _recall_differences(parts[0], comparison)
    for part, (title, colour, captions) in zip(parts[1:], shown, strict=True):
        part.suptitle(title, fontsize=10, color=colour)
        _show_images(part, 1, captions, images)
    return figure


def _recall_differences(part: SubFigure, comparison: Comparison) -> None:
    """A bar for each class's difference in recall, with the counts of images on the right."""
    points = [-100 * scores.drop for scores in comparison.classes]
    axes = part.add_subplot()
    places = range(len(points))
    axes.barh(places, points, color=[_GAINED if value > 0 else _LOST for value in points])
    axes.axvline(0, color="black", linewidth=0.8)
    reach = max(1.0, 1.1 * max(map(abs, points)))
    axes.set(
        xlim=(-reach, reach),
        xlabel="recall of the challenger less the champion's, in points",
        title=f"Against the champion {comparison.champion}: images gained {comparison.gained:,}, "
        f"lost {comparison.lost:,}",
    )
    axes.set_yticks(places, [_short(each.name, _LONGEST_NAME) for each in comparison.classes])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(
        places, [f"+{each.gained:,}  \N{MINUS SIGN}{each.lost:,}" for each in comparison.classes]
    )
    counts.tick_params(length=0)
    counts.set_ylabel("images gained, lost")


def _caption(true: str, taken_for: str) -> str:
    return f"{_short(true, _LONGEST_CAPTION)}\n{_short(taken_for, _LONGEST_CAPTION)}"


def _short(name: str, longest: int) -> str:
    """The name, without its middle if it is too long, and not read as a formula by matplotlib."""
    half = (longest - 1) // 2
    shown = name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
    return shown.replace("$", r"\$")


# The figures of a report: the titles, in the order in which it shows them, and the files of a run.
FIGURES = {
    CHAMPION_AND_CHALLENGER: "figures/champion_and_challenger.png",
    "Learning curves": "figures/learning_curves.png",
    "Confusion matrix": "figures/confusion_matrix.png",
    "Most confident mistakes": "figures/confident_mistakes.png",
}


def draw_figures(run: Run, images: Bytes) -> Mapping[str, bytes]:
    """All figures of a run's report as PNG files' bytes, by their names among the run's files.

    `images` are the test images `(n, height, width)`.
    """
    drawn = {
        "Learning curves": learning_curves(run.training),
        "Confusion matrix": confusion_matrix(run.evaluation),
        "Most confident mistakes": confident_mistakes(run.evaluation, images),
    }
    if isinstance(run.against, Comparison):
        drawn[CHAMPION_AND_CHALLENGER] = champion_and_challenger(run.against, images)
    return {FIGURES[title]: png(figure) for title, figure in drawn.items()}


def figure_titles(files: Container[str]) -> Mapping[str, str]:
    """The files of a run that are figures of its report, by the figures' titles."""
    return {title: file for title, file in FIGURES.items() if file in files}
