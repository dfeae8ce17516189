"""The figures: that they draw in every case, show what they should, and stay small."""

import base64
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from fmnist.data.idx import read_idx
from fmnist.data.records import FetchedData
from fmnist.evaluation.comparison import compare
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Comparison, Evaluation
from fmnist.report.figures import (
    _DOTS_PER_INCH,
    _FONT,
    _OTHER_FONTS,
    _letters,
    _other_fonts,
    champion_and_challenger,
    confident_mistakes,
    confusion_matrix,
    draw_figures,
    figure_titles,
    learning_curves,
    mean_images,
    png,
)
from fmnist.report.markdown import markdown
from fmnist.report.run import Run
from fmnist.training.records import TrainingResult
from tests.support import records

IMAGES = records.drawn_images()


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A figure that draws with a warning does not show what was meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texts(figure: Figure) -> list[str]:
    """Every text of a figure that a person would read."""
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        legend = axes.get_legend()
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        found += [text.get_text() for text in (legend.get_texts() if legend else [])]
    return found


def test_the_figures_of_a_run_are_small(real_data: FetchedData) -> None:
    run = records.run(champion_before=records.champion(), against=records.comparison())
    drawn = draw_figures(run, read_idx(real_data.test_images, 3), records.mean_images())
    for content in drawn.values():
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) < 120_000
    inside = {
        title: "data:image/png;base64," + base64.b64encode(drawn[file]).decode()
        for title, file in figure_titles(drawn).items()
    }
    page = markdown(run, inside, sorted(records.FILES | records.COMPARISON_FILES))
    assert len(inside) == 5 and all(address in page for address in inside.values())
    assert len(page.encode()) < 200_000


EVALUATIONS = {
    "usual": records.evaluation(),
    "no mistakes": records.evaluation(10_000),
    "one mistake": records.evaluation(9_999),
    "all wrong": records.evaluation(0),
    "a class without images": records.evaluation(without_class=6),
}


@pytest.mark.parametrize("evaluation", EVALUATIONS.values(), ids=EVALUATIONS.keys())
def test_every_evaluation_can_be_drawn(evaluation: Evaluation) -> None:
    confusion_matrix(evaluation).draw_without_rendering()
    confident_mistakes(evaluation, IMAGES).draw_without_rendering()


FLAT = records.training_result(epochs=3, best_epoch=1)
TRAININGS = {
    "one epoch": records.training_result(epochs=1, best_epoch=1),
    "two epochs": records.training_result(epochs=2, best_epoch=2),
    "usual": records.training_result(),
    "always the same": replace(
        FLAT,
        history=tuple(
            replace(e, loss=1.0, val_loss=1.0, accuracy=0.5, val_accuracy=0.5, learning_rate=0.0)
            for e in FLAT.history
        ),
    ),
}


@pytest.mark.parametrize("result", TRAININGS.values(), ids=TRAININGS.keys())
def test_every_training_can_be_drawn(result: TrainingResult) -> None:
    learning_curves(result).draw_without_rendering()


def test_the_confusion_matrix_names_all_classes_and_counts() -> None:
    evaluation = records.evaluation()
    figure = confusion_matrix(evaluation)
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(records.CLASS_NAMES)
    cells = [text.get_text() for text in axes.texts]
    expected = [str(count) if count else "·" for row in evaluation.confusion for count in row]
    assert cells == expected
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert "10,000 test images: 858 wrong" in axes.get_title()


@pytest.mark.parametrize(
    ("classes", "name"), [(2, "{:03}"), (10, "WWWWWWWWWWWWWWW {:03}"), (30, "{:040}")]
)
def test_figures_of_other_classes_have_no_overlapping_text(classes: int, name: str) -> None:
    """Up to 30 classes with long names, no name, count or caption runs into its neighbour."""
    names = [name.format(number) for number in range(classes)]
    evaluation, compared = judged(names)
    images = np.zeros((2_000, 32, 48), np.uint8)
    for figure in (
        confusion_matrix(evaluation),
        confident_mistakes(evaluation, images),
        champion_and_challenger(compared, images),
        mean_images(evaluation, images[:classes]),
    ):
        figure.set_dpi(_DOTS_PER_INCH)
        figure.draw_without_rendering()
        for axes in figure.axes:
            assert not overlaps(axes.get_yticklabels())
            assert not overlaps([text for text in axes.texts if text.get_text() != "·"])
        captions = [axes.title for axes in figure.axes if axes.images]
        assert not overlaps(captions)
        for caption in captions:
            box = caption.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def judged(names: Sequence[str]) -> tuple[Evaluation, Comparison]:
    """A model that has half of the images of these classes right, and one to compare it with."""
    labels = (np.arange(2_000) % len(names)).astype(np.uint8)
    random = np.random.default_rng(0)
    answers = (labels + random.integers(0, 2, (2, len(labels)))) % len(names)
    before, after = np.eye(len(names), dtype=np.float32)[answers]
    compared = compare("old", before, after, labels, names, same_test_set=True)
    return evaluate(after, labels, names), compared


def test_long_names_do_not_squeeze_the_confusion_matrix() -> None:
    """The figure grows by what the names need, and the cells keep their size."""
    widths = []
    for name in ("{}", "Women's wear no. {:03}", "WWWWWWWWWWWWWWWWWWW{:03}"):
        evaluation, _ = judged([name.format(number) for number in range(10)])
        figure = confusion_matrix(evaluation)
        figure.draw_without_rendering()
        widths.append(figure.axes[0].get_window_extent().width / figure.dpi)
    assert min(widths) > 5.5
    assert max(widths) - min(widths) < 0.5


def overlaps(texts: Sequence[Text]) -> bool:
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return any(one.overlaps(other) for one, other in pairwise(boxes))


def test_the_colours_of_the_confusion_matrix_are_shares_of_the_true_class() -> None:
    """A cell's colour stands for its share of the true class, and an empty class for none."""
    evaluation = records.evaluation(without_class=6)
    shares = confusion_matrix(evaluation).axes[0].collections[0].get_array().reshape(10, 10)
    sums = shares.sum(axis=1)
    assert sums[6] == 0
    assert all(abs(total - 1) < 1e-9 for place, total in enumerate(sums) if place != 6)


def test_the_learning_curves_tell_the_kept_epoch() -> None:
    result = records.training_result(epochs=40, best_epoch=33)
    figure = learning_curves(result)
    curves = [axes for axes in figure.axes if axes.get_title() in ("Loss", "Accuracy")]
    assert len(curves) == 2
    for axes in curves:
        assert "kept: epoch 33" in texts(figure)
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines["kept: epoch 33"].get_xdata()) == {33}
        name = axes.get_title().lower()
        shown = list(lines["validation"].get_ydata())
        assert shown == [getattr(epoch, f"val_{name}") for epoch in result.history]
        assert list(lines["validation"].get_xdata()) == list(range(1, 41))


def test_a_single_epoch_is_seen() -> None:
    """A curve of one point is drawn with a marker, since a line would not show."""
    axes = learning_curves(TRAININGS["one epoch"]).axes[0]
    curves = [line for line in axes.lines if not line.get_label().startswith("kept")]
    assert len(curves) == 2
    assert all(line.get_marker() == "o" for line in curves)


def test_the_mistakes_name_both_classes_and_the_confidence() -> None:
    evaluation = records.evaluation()
    figure = confident_mistakes(evaluation, IMAGES)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == len(evaluation.mistakes) == 24
    for axes, mistake in zip(shown, evaluation.mistakes, strict=True):
        title = f"{mistake.true}\n{mistake.predicted} {mistake.confidence:.0%}"
        assert axes.get_title() == title
        assert (axes.images[0].get_array() == IMAGES[mistake.index]).all()


# ---- champion and challenger --------------------------------------------------------------------

COMPARISONS = {
    "usual": records.comparison(),
    "the same model": records.comparison(0, 0),
    "one image lost": records.comparison(0, 1),
    "one image gained": records.comparison(1, 0),
    "all lost": records.comparison(0, 9_000, correct=1_000),
    "long class names": records.comparison(
        class_names=[f"A class with a very long and windy name, number {n}" for n in range(10)]
    ),
}


@pytest.mark.parametrize("comparison", COMPARISONS.values(), ids=COMPARISONS.keys())
def test_every_comparison_can_be_drawn(comparison: Comparison) -> None:
    """From two models of the same answers to two that share none, and with any class names."""
    champion_and_challenger(comparison, IMAGES).draw_without_rendering()


def test_the_comparison_shows_what_each_class_gains_and_loses() -> None:
    """A bar for each class is its difference in points, with the two counts beside it."""
    comparison = records.comparison(305, 210)
    figure = champion_and_challenger(comparison, IMAGES)
    axes = figure.axes[0]
    points = [100 * (each.challenger - each.champion) for each in comparison.classes]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(points)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(records.CLASS_NAMES)
    counts = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert counts == [f"+{each.gained}  \N{MINUS SIGN}{each.lost}" for each in comparison.classes]
    assert axes.get_title() == (
        "Against the champion 20260301T000000Z-ffffffff: images gained 305, lost 210"
    )
    low, high = axes.get_xlim()
    assert low == -high and high > max(map(abs, points))


def test_gains_and_losses_differ_in_side_and_colour() -> None:
    """A class that gains has a blue bar to the right, one that loses an orange one to the left."""
    comparison = records.comparison(0, 0)
    classes = (
        replace(comparison.classes[0], challenger=1.0, champion=0.9),
        replace(comparison.classes[1], challenger=0.9, champion=1.0),
        *comparison.classes[2:],
    )
    figure = champion_and_challenger(replace(comparison, classes=classes), IMAGES)
    gain, loss = figure.axes[0].patches[:2]
    assert gain.get_width() > 0 > loss.get_width()
    red, _, blue, _ = gain.get_facecolor()
    assert blue > red
    red, _, blue, _ = loss.get_facecolor()
    assert red > blue


@pytest.mark.parametrize(("gained", "lost"), [(20, 30), (2, 3), (0, 3), (3, 0), (0, 0)])
def test_the_images_that_changed_sides_are_shown_lost_ones_first(gained: int, lost: int) -> None:
    """Up to eight of each side, with the true class and the wrong answer under a title."""
    comparison = records.comparison(gained, lost)
    figure = champion_and_challenger(comparison, IMAGES)
    shown = [axes for axes in figure.axes if axes.images]
    losses = [each for each in comparison.changed if not each.gained][:8]
    gains = [each for each in comparison.changed if each.gained][:8]
    assert len(shown) == len(losses) + len(gains) == min(lost, 8) + min(gained, 8)
    for axes, each in zip(shown, [*losses, *gains], strict=True):
        wrong = each.champion if each.gained else each.challenger
        assert axes.get_title() == f"{each.true}\n{wrong}"
        assert (np.asarray(axes.images[0].get_array()) == IMAGES[each.index]).all()
    titles = [part.get_suptitle().split(",")[0] for part in figure.subfigs[1:]]
    assert titles == ["Lost"] * bool(lost) + ["Gained"] * bool(gained)


def test_long_class_names_are_cut_in_the_middle_so_that_they_still_differ() -> None:
    """Names that begin alike can be told apart, and leave the bars their room."""
    figure = champion_and_challenger(COMPARISONS["long class names"], IMAGES)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(names)) == 10
    assert all("…" in name for name in names)
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


def test_class_names_are_drawn_as_they_are_written() -> None:
    """A user's own class name is not read as a formula, and breaks no figure."""
    odd = ["top $5 or $6", r"$\shirt$", "under_score^2", "100 %"]
    names = [*odd, *records.CLASS_NAMES[4:]]
    found = records.evaluation()
    mistakes = [
        replace(each, true=name, predicted=name)
        for name, each in zip(odd, found.mistakes, strict=False)
    ]
    classes = [replace(each, name=name) for name, each in zip(names, found.classes, strict=True)]
    found = replace(found, classes=tuple(classes), mistakes=tuple(mistakes))
    for figure in (
        confusion_matrix(found),
        confident_mistakes(found, IMAGES),
        mean_images(found, records.mean_images()),
        champion_and_challenger(records.comparison(class_names=names), IMAGES),
    ):
        figure.draw_without_rendering()
        shown = [text.replace(r"\$", "$") for text in texts(figure)]
        assert all(any(name in text for text in shown) for name in odd)


# ---- mean images --------------------------------------------------------------------------------


def test_each_classs_mean_image_stands_under_its_name() -> None:
    evaluation, means = records.evaluation(), records.mean_images()
    shown = [axes for axes in mean_images(evaluation, means).axes if axes.images]
    assert [axes.get_title() for axes in shown] == list(records.CLASS_NAMES)
    for axes, image in zip(shown, means, strict=True):
        assert (np.asarray(axes.images[0].get_array()) == image).all()
        # Black means dark in every one of them alike.
        assert axes.images[0].get_clim() == (0, 255)


# ---- names in letters that our usual font lacks -------------------------------------------------

FOREIGN = ["裤子", "ドレス", "가방", *records.CLASS_NAMES[3:]]


@pytest.fixture
def foreign() -> Run:
    """A run whose first classes have names in Chinese, Japanese and Korean."""
    evaluation, compared = judged(FOREIGN)
    run = records.run(champion_before=records.champion(), against=compared)
    return replace(run, evaluation=evaluation)


def drawn_with(run: Run, fonts: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """All figures as they would be on a machine with these font files besides our own."""
    _other_fonts.cache_clear()
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: fonts)
    found: list[Figure] = []
    monkeypatch.setattr(
        "fmnist.report.figures.png", lambda figure: png(found.append(figure) or figure)
    )
    try:
        files = draw_figures(run, IMAGES, records.mean_images())
    finally:
        _other_fonts.cache_clear()
    return dict(zip(files, found, strict=True))


def test_a_name_that_no_font_can_draw_is_shown_as_its_number(
    foreign: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In every figure, without boxes, warnings or log lines; the other names stay."""
    figures = drawn_with(foreign, [], monkeypatch)
    assert len(figures) == 5
    for name, figure in figures.items():
        shown = "\n".join(texts(figure))
        assert not any(letter in shown for word in FOREIGN[:3] for letter in word)
        if "learning" not in name:
            assert all(word in shown for word in ("class 0", "class 1", "class 2", "Dress"))
    assert not caplog.records


def test_another_installed_font_draws_what_our_usual_one_lacks(
    foreign: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is found by its file's name, and used only where it is needed."""
    letter = "の"
    data = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    installed = shutil.copy(data / "STIXGeneral.ttf", tmp_path / _OTHER_FONTS[0])
    assert letter in _letters("STIXGeneral") and letter not in _letters(_FONT)
    evaluation, compared = judged([f"{letter} one", *FOREIGN[3:]])
    run = replace(foreign, evaluation=evaluation, against=compared)
    figures = drawn_with(run, [str(installed), "/usr/share/fonts/other.ttf"], monkeypatch)
    shown = texts(figures["figures/confusion_matrix.png"])
    assert f"{letter} one" in shown and "class 0" not in shown
    assert matplotlib.rcParams["font.family"] != [_FONT, "STIXGeneral"]


def test_other_fonts_are_not_looked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for them may take seconds, and usual names need none."""
    monkeypatch.setattr("fmnist.report.figures._other_fonts", lambda: pytest.fail("looked for"))
    monkeypatch.setattr("fmnist.report.figures.png", lambda _: b"")
    assert draw_figures(records.run(), IMAGES, records.mean_images())
