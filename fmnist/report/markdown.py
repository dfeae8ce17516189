"""A run as Markdown and in one line.

What others have named or written (classes, places, reasons) is escaped: it is shown as it is.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from fmnist.data.records import DataChange, PreparedData
from fmnist.data.statistics import notable_changes
from fmnist.errors import printable
from fmnist.evaluation.gate import Rule, Verdict, obstacle
from fmnist.evaluation.records import (
    CONFIDENCE,
    ClassScores,
    Comparison,
    ComparisonFailed,
    Evaluation,
    in_digits,
    in_points,
)
from fmnist.report.run import CHAMPION_AND_CHALLENGER, MEAN_IMAGES, Run
from fmnist.settings import DataSettings, GateSettings, non_defaults

_WEAKEST = 3
_ARROW = "\N{RIGHTWARDS ARROW}"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ESCAPES = str.maketrans(_ENTITIES | {mark: f"\\{mark}" for mark in "\\`*_[]~$#"})


def markdown(run: Run, images: Mapping[str, str], files: Sequence[str] = ()) -> str:
    """The report of a run. `images` maps each figure's title to its address or data.

    `files`, if given, are listed with their locations in the store.
    """
    others = {
        title: address
        for title, address in images.items()
        if title not in (CHAMPION_AND_CHALLENGER, MEAN_IMAGES)
    }
    parts = [
        f"# {run.verdict.word.capitalize()}: {run.run_id}",
        sentence(run.verdict.reason),
        *_rules(run.verdict),
        _figures_of_merit(run),
        *_champion_and_challenger(run, images.get(CHAMPION_AND_CHALLENGER)),
        *_data(run, images.get(MEAN_IMAGES)),
        *(f"## {title}\n\n{_image(title, address)}" for title, address in others.items()),
        "## Classes\n\n" + _classes(run.evaluation),
        "## Most confused\n\n" + _confused_pairs(run.evaluation),
        "## How it was made\n\n" + _provenance(run),
        "## Use it\n\n" + _usage(run),
        "## Go back\n\n" + _way_back(run),
    ]
    if files:
        listed = "\n".join(f"- {code(f'{run.location}/{name}')}" for name in sorted(files))
        parts.append(f"## Files\n\n{listed}")
    return "\n\n".join(parts) + "\n"


def classification_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the classification report: each class, then the averages."""

    def row(scores: ClassScores) -> list[str]:
        figures = (scores.precision, scores.recall, scores.f1)
        return [scores.name, *(f"{figure:.4f}" for figure in figures), f"{scores.support:,}"]

    header = ["class", "precision", "recall", "F1", "images"]
    return header, [row(scores) for scores in (*evaluation.classes, *evaluation.averages)]


def summary(run: Run, seconds: float) -> str:
    """The run in one line: verdict, id, accuracy with interval, bound, time, report."""
    found, interval, bound = run.evaluation, run.evaluation.interval, run.settings.gate.min_accuracy
    accuracy = Rule("test accuracy", found.accuracy, bound, passed=found.accuracy >= bound)
    return (
        f"{run.verdict.word}  {run.run_id}  test accuracy {accuracy.measured} "
        f"[{interval.low:.4f}, {interval.high:.4f}], needs {accuracy.needed}  "
        f"{seconds:.0f} s  {run.location}/report.md"
    )


def _facts(name: str, facts: Mapping[str, str]) -> str:
    """A Markdown table of names and values in words."""
    return _table([name, "value"], list(facts.items()), rule="---")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, rule: str = "---:") -> str:
    """A Markdown table; all columns but the first are right-aligned by default."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [header, ["---", *[rule] * (len(header) - 1)], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _image(title: str, address: str) -> str:
    return f"![{title}]({address})"


def sentence(words: str) -> str:
    """Words of the gate's or of an error as a sentence of its own."""
    return _prose(f"{words[:1].upper()}{words[1:]}.")


def code(text: str) -> str:
    """Any text as Markdown's code, in one line."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks, gap = "`" * (longest + 1), " " if longest else ""
    return f"{marks}{gap}{printable(text)}{gap}{marks}"


def _prose(words: str) -> str:
    """Words of ours, which may quote others; what they have in backticks is code."""
    parts = re.split(r"(`[^`]+`)", printable(words))
    return "".join(part if at % 2 else _plain(part) for at, part in enumerate(parts))


def _plain(text: str) -> str:
    """Any text in one line, with nothing that Markdown or HTML would read as more than text.

    Tables also escape what would end a cell.
    """
    return printable(text).translate(_ESCAPES)


def _rules(verdict: Verdict) -> list[str]:
    """The rules as a table, and the notes as a list, if there are any."""
    rows = [
        [_plain(rule.name), rule.measured, rule.needed, "pass" if rule.passed else "FAIL"]
        for rule in verdict.rules
    ]
    table = [_table(["rule", "measured", "needed", "result"], rows)] if rows else []
    notes = "\n".join(f"- {sentence(note)}" for note in verdict.notes)
    return [*table, notes] if notes else table


def _figures_of_merit(run: Run) -> str:
    evaluation, training = run.evaluation, run.training
    interval = f"{evaluation.interval.low:.4f} to {evaluation.interval.high:.4f}"
    weakest = sorted(evaluation.classes, key=lambda scores: scores.f1)[:_WEAKEST]
    figures = {
        "test accuracy": f"{evaluation.accuracy:.4f}, {CONFIDENCE:.0%} interval {interval}",
        "test loss": f"{evaluation.loss:.4f}",
        "calibration error (test)": f"{evaluation.calibration_error:.4f}",
        "validation accuracy, kept epoch": f"{training.best.val_accuracy:.4f}",
        "last validation loss / lowest": f"{training.end_of_validation_loss:.3f}",
        "weakest classes": ", ".join(
            f"{_plain(scores.name)} (F1 {scores.f1:.4f})" for scores in weakest
        ),
    }
    return _facts("figure", figures | _champions(run))


def _champions(run: Run) -> dict[str, str]:
    before, against = run.champion_before, run.against
    if not run.verdict.decided:
        return {"champion": "not known yet"}
    if isinstance(against, Comparison):
        difference = against.in_words
    else:
        difference = "it could not be scored" if against else "there was none"
    return {
        "against the champion": difference,
        "champion before": f"{before.run_id} ({before.accuracy:.4f})" if before else "none",
        "champion after": run.champion_after or "none",
    }


def _champion_and_challenger(run: Run, figure: str | None) -> list[str]:
    """The section about the comparison; empty if there was no champion."""
    against, asked = run.against, " ".join(_asked(run.settings.gate))
    if against is None:
        return []
    heading = f"## {CHAMPION_AND_CHALLENGER}"
    if isinstance(against, ComparisonFailed):
        return [
            heading,
            f"The champion {against.champion} could not be scored: {_prose(against.reason)}. "
            f"`fmnist verify {against.champion}` checks its files.",
            f"{asked} That takes a comparison: this run is rejected."
            if asked
            else "No rule of the gate needs a comparison, so this decides nothing.",
        ]
    compared = (
        f"This run, the challenger, and the champion {against.champion}, both scored on the same "
        f"{against.images:,} test images."
    )
    if against.left_out:
        compared += (
            f" The other {against.left_out:,} are left out, since one of the two may have been "
            "trained on them."
        )
    if why := obstacle(against, run.settings.gate):
        asked = f"The champion {why}: this is shown and does not decide."
    return [
        heading,
        f"{compared} {asked or '`gate.champion` is `off`: this is shown and does not decide.'}",
        _difference(against),
        *([_image(CHAMPION_AND_CHALLENGER, figure)] if figure else []),
        _classes_compared(against),
    ]


def _asked(gate: GateSettings) -> list[str]:
    """What the gate requires of a challenger, one sentence each."""
    policies = {
        "not_worse": "a significantly worse challenger is rejected",
        "better": "only a significantly better challenger passes",
    }
    asked = []
    if policy := policies.get(gate.champion):
        asked.append(f"`gate.champion` is `{gate.champion}`: {policy}.")
    if gate.max_class_drop is not None:
        asked.append(
            f"`gate.max_class_drop` is {gate.max_class_drop}: a challenger that loses more recall "
            "than that in any class is rejected."
        )
    return asked


def _difference(against: Comparison) -> str:
    interval = f"{in_points(against.interval.low)} to {in_points(against.interval.high)}"
    points = f"{in_points(against.difference)} points"
    return _facts(
        "figure",
        {
            "accuracy of the champion": f"{against.champion_accuracy:.4f}",
            "accuracy of the challenger": f"{against.accuracy:.4f}",
            "difference": f"{points}, {CONFIDENCE:.0%} interval {interval}",
            "McNemar's exact test": f"p {in_digits(against.p_value)}, two-sided",
            "images that changed sides": f"{len(against.changed):,}, all in `comparison.json`",
            "gained: only the challenger is right": f"{against.gained:,}",
            "lost: only the champion is right": f"{against.lost:,}",
        },
    )


def _classes_compared(against: Comparison) -> str:
    header = ["class", "recall, champion", "recall, challenger", "points", "gained", "lost"]
    rows = []
    for scores in against.classes:
        recalls = [f"{scores.champion:.4f}", f"{scores.challenger:.4f}", in_points(-scores.drop)]
        rows.append([_plain(scores.name), *recalls, f"{scores.gained:,}", f"{scores.lost:,}"])
    return _table(header, rows)


def _data(run: Run, figure: str | None) -> list[str]:
    """The section about the data, and how they differ from the champion's."""
    change, classes = run.data_change, run.prepared.statistics.classes
    header = ["class", "training", "validation", "test", "mean brightness", "deviation"]
    rows = [
        [
            _plain(one.name),
            *(f"{count:,}" for count in (one.training, one.validation, one.test)),
            *(f"{level:.1f}" for level in (one.brightness, one.spread)),
        ]
        for one in classes
    ]
    return [
        "## Data",
        *_duplicates(run.prepared),
        *(_data_against_the_champions(change, run.settings.data) if change else []),
        "Images of each class. Brightness is the mean of an image's pixels, 0 to 255; here are its "
        "mean and standard deviation over the training and validation images.",
        _table(header, rows),
        *([_image(MEAN_IMAGES, figure)] if figure else []),
    ]


def _duplicates(prepared: PreparedData) -> list[str]:
    """What is wrong with single images, as a list; empty if nothing is."""
    found = prepared.duplicates
    leaked = (
        f"- {found.leaked:,} of the {prepared.test_images:,} test images are among the training "
        "images too; examples are in `data.json`."
    )
    conflicting = (
        f"- {found.conflicting:,} images have the pixels of another one, and another label; "
        "examples are in `data.json`."
    )
    lines = [*([leaked] if found.leaked else []), *([conflicting] if found.conflicting else [])]
    return ["\n".join(lines)] if lines else []


def _data_against_the_champions(change: DataChange, settings: DataSettings) -> list[str]:
    champion = f"the data of the champion {change.champion}"
    if not change.sets:
        return [sentence(f"not compared with {champion}: {change.reason}")]
    notable = notable_changes(change.sets, settings)
    # The sets side by side: the Prefect UI cuts off what is wider than its page.
    rows = {
        "how many": [f"{one.images_before:,} {_ARROW} {one.images:,}" for one in change.sets],
        "class shares, Cramér's V": [
            f"{one.cramers_v:.3f}, chi-squared p {in_digits(one.shares_p_value)}"
            for one in change.sets
        ],
        "mean brightness": [
            f"{one.brightness_before:.1f} {_ARROW} {one.brightness:.1f}" for one in change.sets
        ],
        "brightness, Kolmogorov-Smirnov D": [
            f"{one.ks_distance:.3f}, p {in_digits(one.brightness_p_value)}" for one in change.sets
        ],
    }
    flags = [f"- **Notable change** in the {_plain(words)}." for words in notable]
    return [
        f"Against {champion}:" if flags else f"No notable change against {champion}.",
        *(["\n".join(flags)] if flags else []),
        _table(
            ["images", *(one.name for one in change.sets)],
            [[name, *cells] for name, cells in rows.items()],
        ),
    ]


def _classes(evaluation: Evaluation) -> str:
    header, rows = classification_table(evaluation)
    return _table(header, [[_plain(name), *figures] for name, *figures in rows])


def _confused_pairs(evaluation: Evaluation) -> str:
    if not evaluation.confused_pairs:
        return "None: every test image was classified correctly."
    rows = [
        [_plain(pair.true), _plain(pair.predicted), str(pair.images)]
        for pair in evaluation.confused_pairs
    ]
    return _table(["true class", "taken for", "images"], rows)


def _provenance(run: Run) -> str:
    training, recipe, environment = run.training, run.settings.training, run.environment
    images, packages, changed = run.prepared, environment.packages, non_defaults(run.settings)
    kind = "the official files" if run.data.official else "NOT the official files"
    ending = "stopped early" if training.stopped_early else "ran to the end"
    count = f"{len(changed)} changed, the others" if changed else "all"
    facts = {
        "data": f"{_plain(run.data.source)}, {kind}, SHA-256 in `data.json`",
        "images": f"{images.train_images:,} training, {images.validation_images:,} validation, "
        f"{images.test_images:,} test",
        "network": f"{training.parameters:,} parameters",
        "training": f"{len(training.history)} of {recipe.epochs} epochs ({ending}), epoch "
        f"{training.best_epoch} kept, {training.seconds:.0f} s, seed {recipe.seed}",
        "temperature": f"{training.temperature:.3f}, fitted on validation",
        "settings": f"{count} at their defaults; in `settings.json`",
        # One row each: the Prefect UI does not wrap a table's cells.
        **{f"`{name}`": _plain(str(value)) for name, value in changed.items()},
        "code": _plain(environment.commit or "not in a git checkout"),
        "machine": _plain(
            f"{environment.processor}, {environment.cores} cores, {environment.platform}"
        ),
        "versions": f"Python {environment.python}, TensorFlow {packages['tensorflow']}, "
        f"Keras {packages['keras']}; all in `environment.json`",
        "started": f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    return _facts("what", facts)


def _way_back(run: Run) -> str:
    before = run.champion_before
    if not run.verdict.decided:
        return "Nothing to undo: nothing has been decided yet."
    if not run.verdict.promoted:
        return "Nothing to undo: this run did not change the champion."
    if before is None:
        return "There was no champion before this run."
    state = (
        f"could not be scored; check it first with `fmnist verify {before.run_id}`"
        if isinstance(run.against, ComparisonFailed)
        else "is still in the store"
    )
    return (
        f"The previous champion, {before.run_id}, {state}. To make it the champion again, run this "
        "in the project's folder, with the store's keys in the environment:\n\n"
        "```sh\n"
        f"fmnist rollback {before.run_id} --store.url {shlex.quote(run.settings.store.url)}\n"
        "```"
    )


def _usage(run: Run) -> str:
    height, width = run.training.image_shape
    return (
        f"The model takes raw grey images `(n, {height}, {width})` of 0 to 255, and returns "
        f"{len(run.evaluation.classes)} calibrated probabilities for each. It scales them itself, "
        "and needs nothing of this project.\n\n"
        "```python\n"
        "import keras\n\n"
        f"# the file {printable(run.location)}/model.keras\n"
        f"# SHA-256 {run.training.model_sha256}\n"
        'model = keras.models.load_model("model.keras", safe_mode=True)\n'
        "probabilities = model.predict(images)\n"
        "```"
    )
