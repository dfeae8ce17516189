"""Tell a person about a run: in a file beside the model, and on a page of the Prefect UI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fmnist.config import Settings, deviations
from fmnist.environment import Environment
from fmnist.evaluation import CONFIDENCE, ClassScores, Evaluation
from fmnist.fetch import DataOrigin
from fmnist.gate import Verdict
from fmnist.history import TrainingResult
from fmnist.preprocess import PreparedData
from fmnist.registry import Champion

_WEAKEST = 3


@dataclass(frozen=True)
class Run:
    """Everything there is to tell about a finished run.

    `location` is where its files lie in the store; `champion_before` the champion it met.
    """

    run_id: str
    started_at: datetime
    location: str
    settings: Settings
    data: DataOrigin
    prepared: PreparedData
    training: TrainingResult
    evaluation: Evaluation
    verdict: Verdict
    environment: Environment
    champion_before: Champion | None

    @property
    def champion_after(self) -> str | None:
        """The run id of the champion once this run is published."""
        if self.verdict.promoted:
            return self.run_id
        return self.champion_before.run_id if self.champion_before else None


def markdown(run: Run, images: Mapping[str, str], files: Sequence[str] = ()) -> str:
    """The report of a run. `images` maps each figure's title to its address or data.

    `files`, if given, are listed with their place in the store.
    """
    parts = [
        f"# {run.verdict.word.capitalize()}: {run.run_id}",
        run.verdict.reason[:1].upper() + run.verdict.reason[1:] + ".",
        _rules(run.verdict),
        _figures_of_merit(run),
        *(f"## {title}\n\n![{title}]({address})" for title, address in images.items()),
        "## Classes\n\n" + _table(*classification_table(run.evaluation)),
        "## Most confused\n\n" + _confused_pairs(run.evaluation),
        "## How it was made\n\n" + _provenance(run),
        "## Use it\n\n" + _usage(run),
        "## Go back\n\n" + _way_back(run),
    ]
    if files:
        parts.append(
            "## Files\n\n" + "\n".join(f"- `{run.location}/{name}`" for name in sorted(files))
        )
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
    interval = run.evaluation.interval
    return "  ".join(
        (
            run.verdict.word,
            run.run_id,
            f"test accuracy {run.evaluation.accuracy:.4f} "
            f"[{interval.low:.4f}, {interval.high:.4f}], "
            f"needs {run.settings.gate.min_accuracy:.4f}",
            f"{seconds:.0f} s",
            f"{run.location}/report.md",
        )
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """A Markdown table; all columns but the first stand right, unless they are `words`."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    rule = "---" if words else "---:"
    lines = [header, ["---", *[rule] * (len(header) - 1)], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rules(verdict: Verdict) -> str:
    def number(value: float | None) -> str:
        if value is None:
            return "missing"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

    return _table(
        ["rule", "measured", "needed", "result"],
        [
            [rule.name, number(rule.value), number(rule.bound), "pass" if rule.passed else "FAIL"]
            for rule in verdict.rules
        ],
    )


def _figures_of_merit(run: Run) -> str:
    evaluation, training = run.evaluation, run.training
    before = run.champion_before
    rows = [
        [
            "test accuracy",
            f"{evaluation.accuracy:.4f}, {CONFIDENCE:.0%} interval "
            f"{evaluation.interval.low:.4f} to {evaluation.interval.high:.4f}",
        ],
        ["test loss", f"{evaluation.loss:.4f}"],
        ["calibration error (test)", f"{evaluation.calibration_error:.4f}"],
        ["validation accuracy, kept epoch", f"{training.best.val_accuracy:.4f}"],
        ["last validation loss / lowest", f"{training.end_of_validation_loss:.3f}"],
        ["weakest classes", _weakest(evaluation)],
        ["against the champion", _against(evaluation.accuracy, before)],
        ["champion before", f"{before.run_id} ({before.accuracy:.4f})" if before else "none"],
        ["champion after", run.champion_after or "none"],
    ]
    return _table(["figure", "value"], rows, words=True)


def _weakest(evaluation: Evaluation) -> str:
    weakest = sorted(evaluation.classes, key=lambda scores: scores.f1)[:_WEAKEST]
    return ", ".join(f"{scores.name} (F1 {scores.f1:.4f})" for scores in weakest)


def _against(accuracy: float, champion: Champion | None) -> str:
    if champion is None:
        return "there was none"
    points = (accuracy - champion.accuracy) * 100
    if points == 0:
        return f"level with its {champion.accuracy:.4f}"
    side = "better" if points > 0 else "worse"
    return f"{abs(points):.2f} points {side} than its {champion.accuracy:.4f}"


def _confused_pairs(evaluation: Evaluation) -> str:
    if not evaluation.confused_pairs:
        return "None: every test image was classified right."
    rows = [[pair.true, pair.predicted, str(pair.images)] for pair in evaluation.confused_pairs]
    return _table(["true class", "taken for", "images"], rows)


def _provenance(run: Run) -> str:
    training, recipe, environment = run.training, run.settings.training, run.environment
    kind = "the official files" if run.data.official else "NOT the official files"
    ending = "stopped early" if training.stopped_early else "ran to the end"
    rows = [
        ["data", f"{run.data.source}, {kind}, SHA-256 in `data.json`"],
        [
            "images",
            f"{run.prepared.train_images:,} training, {run.prepared.validation_images:,} "
            f"validation, {run.prepared.test_images:,} test",
        ],
        ["network", f"{training.parameters:,} parameters, hidden {run.settings.model.hidden}"],
        [
            "training",
            f"{len(training.history)} of {recipe.epochs} epochs ({ending}), epoch "
            f"{training.best_epoch} kept, {training.seconds:.0f} s, seed {recipe.seed}",
        ],
        ["temperature", f"{training.temperature:.3f}, fitted on validation"],
        *_settings(run.settings),
        ["code", environment.commit or "not in a git checkout"],
        [
            "machine",
            f"{environment.processor}, {environment.cores} cores, {environment.platform}",
        ],
        [
            "versions",
            f"Python {environment.python}, TensorFlow {environment.packages['tensorflow']}, "
            f"Keras {environment.packages['keras']}; all in `environment.json`",
        ],
        ["started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"],
    ]
    return _table(["what", "value"], rows, words=True)


def _settings(settings: Settings) -> list[list[str]]:
    changed = deviations(settings)
    count = f"{len(changed)} changed, the others" if changed else "all"
    return [
        ["settings", f"{count} by default; in `settings.json`"],
        # One row each: a page does not wrap a table's cells.
        *([f"`{name}`", str(value)] for name, value in changed.items()),
    ]


def _way_back(run: Run) -> str:
    before = run.champion_before
    if not run.verdict.promoted:
        return "Nothing to go back from: this run changed no champion."
    if before is None:
        return "There was no champion before this run."
    return (
        f"The champion before, {before.run_id}, is still whole in the store. This makes it the "
        "champion again, from the project's folder and with the store's keys in the environment:\n\n"
        "```python\n"
        "from datetime import UTC, datetime\n"
        "from fmnist.registry import reinstate\n"
        "from fmnist.store import open_store\n\n"
        f'store = open_store("{run.settings.store.url}")\n'
        f'reinstate(store, "{before.run_id}", datetime.now(UTC))\n'
        "```"
    )


def _usage(run: Run) -> str:
    return (
        "The model takes raw grey images, `(n, 28, 28)` of 0 to 255, and gives ten calibrated "
        "probabilities. Scaling and flattening are inside; nothing of this project is needed.\n\n"
        "```python\n"
        "import keras\n\n"
        f"# the file {run.location}/model.keras\n"
        f"# SHA-256 {run.training.model_sha256}\n"
        'model = keras.models.load_model("model.keras", safe_mode=True)\n'
        "probabilities = model.predict(images)\n"
        "```"
    )
