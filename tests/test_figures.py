"""The figures: that they draw in every case, show what they should, and stay small."""

import base64
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from fmnist import figures, report
from fmnist.dataset import read_idx
from fmnist.evaluation import Evaluation
from fmnist.fetch import FetchedData
from fmnist.history import TrainingResult
from tests import records

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A figure that draws with a warning shows something else than what was meant."""
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
    """Each figure is a PNG of less than 120 kB, and a page with all three below 200,000 bytes."""
    images = read_idx(real_data.test_images, 3)
    run = records.run()
    drawn = {
        "Learning curves": figures.png(figures.learning_curves(run.training)),
        "Confusion matrix": figures.png(figures.confusion_matrix(run.evaluation)),
        "Mistakes": figures.png(figures.confident_mistakes(run.evaluation, images)),
    }
    for content in drawn.values():
        assert content.startswith(SIGNATURE)
        assert len(content) < 120_000
    inside = {
        title: "data:image/png;base64," + base64.b64encode(content).decode()
        for title, content in drawn.items()
    }
    assert len(report.markdown(run, inside).encode()) < 200_000


EVALUATIONS = {
    "usual": records.evaluation(),
    "no mistakes": records.evaluation(10_000),
    "one mistake": records.evaluation(9_999),
    "all wrong": records.evaluation(0),
    "a class without images": records.evaluation(without_class=6),
}


@pytest.mark.parametrize("evaluation", EVALUATIONS.values(), ids=EVALUATIONS.keys())
def test_every_evaluation_can_be_drawn(evaluation: Evaluation) -> None:
    """The confusion matrix and the mistakes draw for the best, the worst and odd models."""
    images = records.drawn_images()
    assert figures.png(figures.confusion_matrix(evaluation)).startswith(SIGNATURE)
    assert figures.png(figures.confident_mistakes(evaluation, images)).startswith(SIGNATURE)


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
    """The learning curves draw for one epoch, for many, and where nothing moves."""
    assert figures.png(figures.learning_curves(result)).startswith(SIGNATURE)


def test_the_confusion_matrix_names_all_classes_and_counts() -> None:
    """Both axes have all ten classes, and each cell its number of images."""
    evaluation = records.evaluation()
    figure = figures.confusion_matrix(evaluation)
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(records.CLASS_NAMES)
    cells = [text.get_text() for text in axes.texts]
    expected = [str(count) if count else "·" for row in evaluation.confusion for count in row]
    assert cells == expected
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert "10,000 test images: 858 wrong" in axes.get_title()


def test_the_colours_of_the_confusion_matrix_are_shares_of_the_true_class() -> None:
    """A cell's colour stands for its share of the true class, and an empty class for none."""
    evaluation = records.evaluation(without_class=6)
    shares = figures.confusion_matrix(evaluation).axes[0].collections[0].get_array().reshape(10, 10)
    sums = shares.sum(axis=1)
    assert sums[6] == 0
    assert all(abs(total - 1) < 1e-9 for place, total in enumerate(sums) if place != 6)


def test_the_learning_curves_tell_the_kept_epoch() -> None:
    """The epoch whose weights were kept is marked and named in both curves."""
    result = records.training_result(epochs=40, best_epoch=33)
    figure = figures.learning_curves(result)
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
    axes = figures.learning_curves(TRAININGS["one epoch"]).axes[0]
    curves = [line for line in axes.lines if not line.get_label().startswith("kept")]
    assert len(curves) == 2
    assert all(line.get_marker() == "o" for line in curves)


def test_the_mistakes_name_both_classes_and_the_confidence() -> None:
    """Each mistake shows its image, the true class, the one it was taken for, and how surely."""
    evaluation, images = records.evaluation(), records.drawn_images()
    figure = figures.confident_mistakes(evaluation, images)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == len(evaluation.mistakes) == 24
    for axes, mistake in zip(shown, evaluation.mistakes, strict=True):
        title = f"{mistake.true}\n{mistake.predicted} {mistake.confidence:.0%}"
        assert axes.get_title() == title
        assert (axes.images[0].get_array() == images[mistake.index]).all()


@pytest.mark.parametrize("name", ["top $5 or $6", r"$\shirt$", "under_score^2", "100 %"])
def test_class_names_are_drawn_as_they_are_written(name: str) -> None:
    """A class name of the user's own is no formula, and never hinders a figure."""
    found = records.evaluation()
    mistake = replace(found.mistakes[0], true=name, predicted=name)
    evaluation = replace(
        found,
        classes=(replace(found.classes[0], name=name), *found.classes[1:]),
        mistakes=(mistake, *found.mistakes[1:]),
    )
    for figure in (
        figures.confusion_matrix(evaluation),
        figures.confident_mistakes(evaluation, records.drawn_images()),
    ):
        assert figures.png(figure).startswith(SIGNATURE)
        assert any(name in text.replace(r"\$", "$") for text in texts(figure))
