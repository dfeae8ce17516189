"""Draw what a person should see: confusion, learning curves, mistakes, champion and challenger.

Figures are made without pyplot, so that drawing needs no display and leaves nothing behind.
"""

import io
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import numpy as np
import seaborn
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from fmnist.data.records import Bytes
from fmnist.evaluation.comparison import ChangedImage, Comparison
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


def _plain(name: str) -> str:
    """The name, escaped so that matplotlib does not read it as a formula."""
    return name.replace("$", r"\$")


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
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"Confusion on {evaluation.images:,} test images: "
        f"{evaluation.images - evaluation.correct:,} wrong",
    )
    axes.tick_params(axis="x", rotation=40)
    axes.tick_params(axis="y", rotation=0)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="right", rotation_mode="anchor")
    return figure


def learning_curves(result: TrainingResult) -> Figure:
    """Loss, accuracy and learning rate by epoch; the epoch whose weights were kept is marked."""
    epochs = [epoch.number for epoch in result.history]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True
    ):
        training = [getattr(epoch, name) for epoch in result.history]
        validation = [getattr(epoch, f"val_{name}") for epoch in result.history]
        rate = axes.twinx()
        rates = [epoch.learning_rate for epoch in result.history]
        rate.fill_between(epochs, rates, color=_RATE, alpha=0.12, linewidth=0)
        rate.set_ylim(bottom=0)
        rate.set_ylabel("learning rate (shaded)", color=_RATE)
        rate.tick_params(colors=_RATE)
        axes.set_zorder(rate.get_zorder() + 1)
        axes.patch.set_visible(False)
        style = {"marker": "o"} if len(epochs) == 1 else {}
        axes.plot(epochs, training, color=_TRAINING, label="training (augmented)", **style)
        axes.plot(epochs, validation, color=_VALIDATION, label="validation", **style)
        axes.axvline(
            result.best_epoch,
            color=_BEST,
            linestyle="--",
            linewidth=1,
            label=f"kept: epoch {result.best_epoch}",
        )
        # The first epochs' jump would flatten everything after it.
        settled = np.concatenate([training[len(epochs) // 20 :], validation[len(epochs) // 20 :]])
        margin = 0.05 * (settled.max() - settled.min() or 1)
        axes.set_ylim(settled.min() - margin, settled.max() + margin)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(loc="upper right" if name == "loss" else "lower right")
    return figure


def confident_mistakes(evaluation: Evaluation, images: Bytes) -> Figure:
    """The misclassified test images that the model was surest of, most confident first."""
    rows = max(1, -(-len(evaluation.mistakes) // _COLUMNS))
    figure = Figure(figsize=(10, 1.65 * rows + 0.5), layout="constrained")
    figure.suptitle("Most confident mistakes: true class, then what it was taken for")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, mistake in zip(grid.flat, evaluation.mistakes, strict=False):
        axes.imshow(images[mistake.index], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(
            f"{_short(mistake.true, _LONGEST_CAPTION)}\n"
            f"{_short(mistake.predicted, _LONGEST_CAPTION - 4)} {mistake.confidence:.0%}",
            fontsize=8.5,
        )
    return figure


def champion_and_challenger(comparison: Comparison, images: Bytes) -> Figure:
    """What each class gains and loses against the champion, and some of the images.

    Those the challenger is surest of are shown, the lost ones first.
    """
    sides = {
        "Lost, the surest first: true class, then what the challenger takes it for": [
            image for image in comparison.changed if not image.gained
        ],
        "Gained, the surest first: true class, then what the champion took it for": [
            image for image in comparison.changed if image.gained
        ],
    }
    shown = {title: side[:_COLUMNS] for title, side in sides.items() if side}
    heights = [max(2.5, 1 + 0.3 * len(comparison.classes)), *[1.85] * len(shown)]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _recall_differences(parts[0], comparison)
    for part, (title, side) in zip(parts[1:], shown.items(), strict=True):
        _changed_images(part, title, side, images)
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


def _changed_images(part: SubFigure, title: str, side: list[ChangedImage], images: Bytes) -> None:
    part.suptitle(title, fontsize=10, color=_GAINED if side[0].gained else _LOST)
    grid = part.subplots(1, _COLUMNS)
    for axes in grid:
        axes.axis("off")
    for axes, image in zip(grid, side, strict=False):
        axes.imshow(images[image.index], cmap="gray_r", vmin=0, vmax=255)
        wrong = image.champion if image.gained else image.challenger
        axes.set_title(
            f"{_short(image.true, _LONGEST_CAPTION)}\n{_short(wrong, _LONGEST_CAPTION)}",
            fontsize=8.5,
        )


def _short(name: str, longest: int) -> str:
    """The name as `_plain` gives it, without its middle if it is too long."""
    half = (longest - 1) // 2
    return _plain(name if len(name) <= longest else f"{name[:half]}…{name[-half:]}")


# ---- the figures of a report --------------------------------------------------------------------


@dataclass(frozen=True)
class ReportFigure:
    """A figure of every run's report.

    Attributes:
        title: its heading.
        file: its name among the run's files.
        draw: makes it from the run and the test images `(n, height, width)`; `None` if this run has
            nothing to show in it.
    """

    title: str
    file: str
    draw: Callable[[Run, Bytes], Figure | None]


def _champion_and_challenger(run: Run, images: Bytes) -> Figure | None:
    if not isinstance(run.against, Comparison):
        return None
    return champion_and_challenger(run.against, images)


# In the order in which a report shows them.
FIGURES = (
    ReportFigure(
        CHAMPION_AND_CHALLENGER, "figures/champion_and_challenger.png", _champion_and_challenger
    ),
    ReportFigure(
        "Learning curves",
        "figures/learning_curves.png",
        lambda run, _: learning_curves(run.training),
    ),
    ReportFigure(
        "Confusion matrix",
        "figures/confusion_matrix.png",
        lambda run, _: confusion_matrix(run.evaluation),
    ),
    ReportFigure(
        "Most confident mistakes",
        "figures/confident_mistakes.png",
        lambda run, images: confident_mistakes(run.evaluation, images),
    ),
)


def draw_figures(run: Run, images: Bytes) -> Mapping[str, bytes]:
    """All figures of a run's report as PNG files' bytes, by their names among the run's files."""
    drawn = {figure.file: figure.draw(run, images) for figure in FIGURES}
    return {file: png(figure) for file, figure in drawn.items() if figure is not None}


def figure_titles(files: Container[str]) -> Mapping[str, str]:
    """The files of a run that are figures of its report, by the figures' titles."""
    return {figure.title: figure.file for figure in FIGURES if figure.file in files}
