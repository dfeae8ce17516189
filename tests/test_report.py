"""The report of a run, and its summary in one line."""

import re
from dataclasses import replace

import pytest

from fmnist.config import GateSettings, Settings
from fmnist.evaluation import Evaluation
from fmnist.report import classification_table, markdown, summary
from tests import records

IMAGES = {"Learning curves": "a.png", "Confusion matrix": "b.png"}


def section(report: str, title: str) -> str:
    """The text of one section of a report."""
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_the_report_begins_with_verdict_and_reason(promoted: bool) -> None:
    """The first lines of a report are the verdict, the run's id, and the reason."""
    run = records.run(promoted)
    lines = markdown(run, IMAGES).split("\n")
    assert lines[0] == f"# {'Promoted' if promoted else 'Rejected'}: {run.run_id}"
    assert lines[2].lower() == f"{run.verdict.reason}.".lower()
    assert ("142 of 10,000 images" if promoted else "210 of 10,000 images") in lines[2]


@pytest.mark.parametrize("lower_bound", [True, False])
@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_the_report_shows_every_rule(promoted: bool, lower_bound: bool) -> None:
    """Each rule of the gate is shown with what was measured, what was needed, and the result."""
    settings = Settings(gate=GateSettings(lower_bound=lower_bound))
    run = records.run(promoted, settings=settings)
    report = markdown(run, IMAGES)
    accuracy, result = ("0.9142", "pass") if promoted else ("0.8790", "FAIL")
    assert "| every test image scored | 10,000 | 10,000 | pass |" in report
    assert f"| test accuracy | {accuracy} | 0.9000 | {result} |" in report
    assert ("lower end of its 95 % interval" in report) is lower_bound
    assert len(run.verdict.rules) == 2 + lower_bound


def test_a_figure_that_is_missing_is_shown_as_missing() -> None:
    """A rule that had nothing to measure says so."""
    run = records.run(False)
    rules = (replace(run.verdict.rules[1], value=None, passed=False),)
    run = replace(run, verdict=replace(run.verdict, rules=rules))
    assert "| test accuracy | missing | 0.9000 | FAIL |" in markdown(run, IMAGES)


def test_the_report_has_all_ten_classes_and_the_averages() -> None:
    """Each class and each average has its row of figures."""
    run = records.run()
    table = section(markdown(run, IMAGES), "Classes")
    for scores in (*run.evaluation.classes, *run.evaluation.averages):
        row = (
            f"| {scores.name} | {scores.precision:.4f} | {scores.recall:.4f} | {scores.f1:.4f} "
            f"| {scores.support:,} |"
        )
        assert row in table
    assert len(run.evaluation.classes) == 10
    assert len(table.strip().split("\n")) == 2 + 12


def test_the_classification_table_has_equal_rows() -> None:
    """Header and rows of the classification table have the same number of cells."""
    header, rows = classification_table(records.evaluation())
    assert {len(row) for row in rows} == {len(header)} == {5}
    assert [row[0] for row in rows] == [*records.CLASS_NAMES, "macro average", "weighted average"]


@pytest.mark.parametrize(
    ("promoted", "had_champion", "before", "after"),
    [
        (True, True, "20260301T000000Z-ffffffff (0.9051)", records.RUN_ID),
        (True, False, "none", records.RUN_ID),
        (False, True, "20260301T000000Z-ffffffff (0.9051)", "20260301T000000Z-ffffffff"),
        (False, False, "none", "none"),
    ],
)
def test_the_report_tells_the_champion_before_and_after(
    promoted: bool, had_champion: bool, before: str, after: str
) -> None:
    """The champion that the run met is shown, and the one in force after it."""
    run = records.run(promoted, champion_before=records.champion() if had_champion else None)
    report = markdown(run, IMAGES)
    assert f"| champion before | {before} |" in report
    assert f"| champion after | {after} |" in report


def test_the_report_tells_how_the_model_came_about() -> None:
    """Data, sizes, epochs, seed, code, machine and versions are in the report."""
    table = section(markdown(records.run(), IMAGES), "How it was made")
    for part in (
        "mirrors, the official files", "48,000 training, 12,000 validation, 10,000 test",
        "244,618 parameters", "150 of 150 epochs (ran to the end), epoch 131 kept", "seed 0",
        "3c" * 20, "Imaginary Processor 9000, 2 cores", "TensorFlow 2.21.0", "Keras 3.15.1",
        "2026-03-14 09:26:53 UTC", "1.083",
    ):  # fmt: skip
        assert part in table


def test_the_report_warns_of_data_that_are_not_official() -> None:
    """A run on other files than the published ones cannot be taken for one on those."""
    run = records.run()
    run = replace(run, data=replace(run.data, official=False))
    assert "NOT the official files" in markdown(run, IMAGES)


def test_the_report_tells_how_to_load_the_model() -> None:
    """The model's location, its digest and the code that loads it safely are in the report."""
    run = records.run()
    text = section(markdown(run, IMAGES), "Use it")
    assert f"{run.location}/model.keras" in text
    assert run.training.model_sha256 in text
    assert 'keras.models.load_model("model.keras", safe_mode=True)' in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    compile(code[1], "report", "exec")


def test_the_report_shows_its_figures_and_files() -> None:
    """Each figure is shown by its address, and each file is listed with its place in the store."""
    run = records.run()
    report = markdown(run, IMAGES, ["report.md", "model.keras"])
    for title, address in IMAGES.items():
        assert f"![{title}]({address})" in report
    listed = section(report, "Files")
    assert listed == f"- `{run.location}/model.keras`\n- `{run.location}/report.md`\n"
    assert "## Files" not in markdown(run, IMAGES)


@pytest.mark.parametrize(
    "judged",
    [
        records.evaluation(),
        records.evaluation(10_000),
        records.evaluation(0),
        records.evaluation(without_class=6),
    ],
    ids=["usual", "no mistake", "all wrong", "a class without images"],
)
def test_every_table_of_the_report_is_well_formed(judged: Evaluation) -> None:
    """All rows of each table have as many cells as its header, whatever was measured."""
    report = markdown(records.run(judged=judged), IMAGES)
    tables = re.findall(r"(?:^\|.*\|\n)+", report, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert re.fullmatch(r"\| --- (\| ---:? )+\|", table.splitlines()[1])


def test_a_class_name_with_a_bar_does_not_break_a_table() -> None:
    """A class name of the user's own is shown as one cell, whatever signs it has."""
    found = records.evaluation()
    named = (replace(found.classes[0], name="top|shirt"), *found.classes[1:])
    table = section(markdown(records.run(judged=replace(found, classes=named)), IMAGES), "Classes")
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
    assert cells == {6}


def test_a_perfect_model_has_no_confused_classes() -> None:
    """Where nothing was confused the report says so instead of an empty table."""
    report = markdown(records.run(judged=records.evaluation(10_000)), IMAGES)
    assert section(report, "Most confused").startswith("None: every test image")


def test_the_most_confused_classes_come_first() -> None:
    """The pairs of confused classes are listed from the most to the fewest images."""
    table = section(markdown(records.run(), IMAGES), "Most confused")
    counts = [int(line.split("|")[3]) for line in table.strip().splitlines()[2:]]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0


def test_the_summary_is_one_line_of_the_documented_form() -> None:
    """The summary has verdict, id, accuracy, interval, bound, time and report in one line."""
    assert summary(records.run(), 71.4) == (
        f"promoted  {records.RUN_ID}  test accuracy 0.9142 [0.9086, 0.9195], needs 0.9000  71 s  "
        f"s3://models/team/runs/{records.RUN_ID}/report.md"
    )
    rejected = summary(records.run(False), 3599.6)
    assert rejected.startswith(f"rejected  {records.RUN_ID}  test accuracy 0.8790 [")
    assert "  3600 s  " in rejected and "\n" not in rejected


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.9051, "0.91 points better than its 0.9051"),
        (0.9200, "0.58 points worse than its 0.9200"),
        (0.9142, "level with its 0.9142"),
        (None, "there was none"),
    ],
)
def test_the_report_compares_with_the_champion(accuracy: float | None, words: str) -> None:
    """The difference to the champion that the run met is in points, with its direction."""
    before = records.champion(accuracy=accuracy) if accuracy else None
    report = markdown(records.run(champion_before=before), IMAGES)
    assert f"| against the champion | {words} |" in report


def test_the_report_names_the_weakest_classes() -> None:
    """The three classes of the lowest F1 are named, the lowest first."""
    run = records.run()
    f1 = sorted((scores.f1, scores.name) for scores in run.evaluation.classes)[:3]
    words = ", ".join(f"{name} (F1 {value:.4f})" for value, name in f1)
    assert f"| weakest classes | {words} |" in markdown(run, IMAGES)


def test_the_report_tells_the_settings_that_were_changed() -> None:
    """What differs from the defaults is named with its value; else it says that nothing does."""
    settings = Settings(gate=GateSettings(min_accuracy=0.85))
    changed = section(markdown(records.run(settings=settings), IMAGES), "How it was made")
    assert "| settings | 1 changed, the others by default;" in changed
    assert "| `gate.min_accuracy` | 0.85 |" in changed
    default = section(markdown(records.run(), IMAGES), "How it was made")
    assert "| settings | all by default; in `settings.json` |" in default


def test_the_report_tells_how_to_go_back() -> None:
    """A promoted run names its predecessor and code that reinstates it; others change nothing."""
    before = records.champion()
    text = section(markdown(records.run(champion_before=before), IMAGES), "Go back")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code and before.run_id in code[1]
    compile(code[1], "report", "exec")
    first = section(markdown(records.run(), IMAGES), "Go back")
    assert first.strip() == "There was no champion before this run."
    rejected = section(markdown(records.run(False, champion_before=before), IMAGES), "Go back")
    assert "changed no champion" in rejected
