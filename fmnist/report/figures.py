"""Draw what a person should see of a run.

Figures are made without pyplot, so that drawing needs no display and leaves nothing behind.
"""

import functools
import io
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import seaborn
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from fmnist.data.records import Bytes
from fmnist.evaluation.records import Comparison, Evaluation
from fmnist.report.run import CHAMPION_AND_CHALLENGER, MEAN_IMAGES, Run
from fmnist.training.records import TrainingResult

_TRAINING, _VALIDATION, _RATE, _BEST = "#4878a8", "#d1603d", "#8a8a8a", "#3a7d44"
_GAINED, _LOST = _TRAINING, _VALIDATION
_WIDTH = 10.0
_COLUMNS = 8
_NAME_SIZE, _CAPTION_SIZE = 10.0, 8.5
_WIDEST_NAME = 2.0
_TILT = 40
_DOTS_PER_INCH = 96
_COLOURS = 128
_FONT = "DejaVu Sans"  # matplotlib brings it along
# Files of fonts that have Chinese, Japanese and Korean letters, as common systems name them. The
# last four are those of macOS and Windows.
_OTHER_FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("Arial Unicode.ttf", "msyh.ttc", "meiryo.ttc", "malgun.ttf"),
)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, in a palette of 128 colours.

    That is a third of the size, so that all of a run's figures fit on a page of the Prefect UI.
    """
    # Drawn once: `savefig` would draw twice, and work out the layout each time.
    figure.set_dpi(_DOTS_PER_INCH)
    canvas, reduced = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(_COLOURS).save(reduced, "png", optimize=True)
    return reduced.getvalue()


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Heat map of true by predicted classes: counts, coloured by share of the true class."""
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    # Above ten classes the cells shrink, so that the figure grows more slowly than their number.
    side = max(3.6, 0.6 * min(classes, 10) + 0.36 * max(classes - 10, 0))
    labels = _labels([scores.name for scores in evaluation.classes])
    names = [_fitted(label, _WIDEST_NAME) for label in labels.values()]
    # The names take what room they need beside the cells, not from them.
    beside = max(_width(name) for name in names)
    below = beside * math.sin(math.radians(_TILT))
    figure = Figure(figsize=(side + beside + 1.9, side + below + 1.0), layout="constrained")
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
        label.set(rotation=_TILT, horizontalalignment="right", rotation_mode="anchor")
    return figure


def learning_curves(result: TrainingResult) -> Figure:
    """Loss, accuracy and learning rate by epoch; the epoch whose weights were kept is marked."""
    epochs = [epoch.number for epoch in result.history]
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
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
    figure = Figure(figsize=(_WIDTH, 1.65 * rows + 0.5), layout="constrained")
    figure.suptitle("Most confident mistakes: true class, then what it was taken for")
    labels = _labels([scores.name for scores in evaluation.classes])
    captions = {
        mistake.index: _caption(
            _COLUMNS, labels[mistake.true], labels[mistake.predicted], f" {mistake.confidence:.0%}"
        )
        for mistake in evaluation.mistakes
    }
    _show_images(figure, rows, _COLUMNS, captions, images)
    return figure


def mean_images(evaluation: Evaluation, means: Bytes) -> Figure:
    """The mean image of each class, given those of all classes `(classes, height, width)`."""
    labels = _labels([scores.name for scores in evaluation.classes])
    columns = min(len(means), 10)
    rows = -(-len(means) // columns)
    figure = Figure(figsize=(_WIDTH, 1.25 * rows + 0.4), layout="constrained")
    figure.suptitle("Mean training image of each class")
    captions = {number: _caption(columns, label) for number, label in enumerate(labels.values())}
    _show_images(figure, rows, columns, captions, means)
    return figure


def _show_images(
    part: FigureBase, rows: int, columns: int, captions: Mapping[int, str], images: Bytes
) -> None:
    """Draw images in rows; `captions` has what stands above each, by its place in `images`."""
    places = list(part.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.axis("off")
    for axes, (index, caption) in zip(places, captions.items(), strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        # Told its place, the title does not look for one that is free, which takes longest of all.
        axes.set_title(caption, fontsize=_CAPTION_SIZE, y=1)


def _caption(columns: int, true: str, taken_for: str = "", confidence: str = "") -> str:
    """What stands above one of the images in a row, in one line or two."""
    widest = 0.92 * _WIDTH / columns
    room = widest - _width(confidence, _CAPTION_SIZE)
    lines = _fitted(true, widest, _CAPTION_SIZE), _fitted(taken_for, room, _CAPTION_SIZE)
    return "\n".join(filter(None, lines)) + confidence


def champion_and_challenger(comparison: Comparison, images: Bytes) -> Figure:
    """What each class gains and loses against the champion, and some of the images.

    Those the challenger is surest of are shown, the lost ones first.
    """
    changed = comparison.changed
    labels = _labels([scores.name for scores in comparison.classes])

    def captions(*, gained: bool) -> dict[int, str]:
        return {
            one.index: _caption(
                _COLUMNS, labels[one.true], labels[one.champion if gained else one.challenger]
            )
            for one in changed
            if one.gained is gained
        }

    # The title of each row of images, its colour, and what stands above each image.
    rows = [
        (
            "Lost, the surest first: true class, then what the challenger takes it for",
            _LOST,
            captions(gained=False),
        ),
        (
            "Gained, the surest first: true class, then what the champion took it for",
            _GAINED,
            captions(gained=True),
        ),
    ]
    shown = [row for row in rows if row[2]]
    heights = [max(2.5, 1 + 0.3 * len(comparison.classes)), *[1.85] * len(shown)]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _recall_differences(parts[0], comparison, labels.values())
    for part, (title, colour, above) in zip(parts[1:], shown, strict=True):
        part.suptitle(title, fontsize=10, color=colour)
        _show_images(part, 1, _COLUMNS, above, images)
    return figure


def _recall_differences(part: SubFigure, comparison: Comparison, labels: Iterable[str]) -> None:
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
    axes.set_yticks(places, [_fitted(label, _WIDEST_NAME) for label in labels])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(
        places, [f"+{each.gained:,}  \N{MINUS SIGN}{each.lost:,}" for each in comparison.classes]
    )
    counts.tick_params(length=0)
    counts.set_ylabel("images gained, lost")


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What to call each class: its name, or its number if the fonts lack a letter of the name."""
    known = set[str]().union(*map(_letters, matplotlib.rcParams["font.family"]))
    return {
        name: name if known.issuperset(name) else f"class {number}"
        for number, name in enumerate(names)
    }


def _fitted(label: str, widest: float, size: float = _NAME_SIZE) -> str:
    """The label without its middle if it is wider than that, in inches; not read as a formula."""
    shown, kept = label, len(label)
    while kept > 1 and _width(shown, size) > widest:
        kept -= 1
        shown = f"{label[: (kept + 1) // 2]}…{label[len(label) - kept // 2 :]}"
    return shown.replace("$", r"\$")


@functools.cache
def _width(text: str, size: float = _NAME_SIZE) -> float:
    """The width of a text of that size in points, in inches."""
    font = font_manager.FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / 72


@functools.cache
def _letters(family: str) -> frozenset[str]:
    """The letters that a font has."""
    path = font_manager.findfont(font_manager.FontProperties(family=[family]))
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))


def _fonts_for(names: Sequence[str]) -> list[str]:
    """The families to draw these names with: our usual one, others only for letters it lacks."""
    return [_FONT] if _letters(_FONT).issuperset("".join(names)) else [_FONT, *_other_fonts()]


@functools.cache
def _other_fonts() -> list[str]:
    """The families of `_OTHER_FONTS` that are installed.

    They are looked up by file, since matplotlib's own list is as old as its cache.
    """
    installed = {Path(path).name: path for path in font_manager.findSystemFonts()}
    files = [installed[name] for name in _OTHER_FONTS if name in installed]
    for file in files:
        font_manager.fontManager.addfont(file)
    return [font_manager.get_font(file).family_name for file in files]


class Drawing(NamedTuple):
    """A figure of the report.

    Attributes:
        file: its name among the run's files.
        draw: returns it for a run, the test images and the classes' mean images, or `None` if the
            run has nothing to show in it.
    """

    file: str
    draw: Callable[[Run, Bytes, Bytes], Figure | None]


# The figures of a report by their titles, in the order in which it shows them.
FIGURES = {
    MEAN_IMAGES: Drawing(
        "figures/mean_images.png", lambda run, _, means: mean_images(run.evaluation, means)
    ),
    CHAMPION_AND_CHALLENGER: Drawing(
        "figures/champion_and_challenger.png",
        lambda run, test, _: (
            champion_and_challenger(run.against, test)
            if isinstance(run.against, Comparison)
            else None
        ),
    ),
    "Learning curves": Drawing(
        "figures/learning_curves.png", lambda run, *_: learning_curves(run.training)
    ),
    "Confusion matrix": Drawing(
        "figures/confusion_matrix.png", lambda run, *_: confusion_matrix(run.evaluation)
    ),
    "Most confident mistakes": Drawing(
        "figures/confident_mistakes.png",
        lambda run, test, _: confident_mistakes(run.evaluation, test),
    ),
}


def draw_figures(run: Run, test_images: Bytes, mean_images: Bytes) -> Mapping[str, bytes]:
    """All figures of a run's report as PNG files' bytes, by their names among the run's files.

    Images are `(n, height, width)`; `mean_images` has one for each class.
    """
    fonts = _fonts_for([scores.name for scores in run.evaluation.classes])
    with matplotlib.rc_context({"font.family": fonts}):
        drawn = {
            figure.file: figure.draw(run, test_images, mean_images) for figure in FIGURES.values()
        }
        return {file: png(figure) for file, figure in drawn.items() if figure}


def figure_titles(files: Container[str]) -> Mapping[str, str]:
    """The files of a run that are figures of its report, by the figures' titles."""
    return {title: figure.file for title, figure in FIGURES.items() if figure.file in files}
