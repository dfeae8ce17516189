"""The report of a run, and its summary in one line."""

import html
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from fmnist.data.records import DataChange, DataStatistics, Duplicates
from fmnist.data.statistics import compare_statistics
from fmnist.evaluation.gate import undecided
from fmnist.evaluation.records import Comparison, ComparisonFailed, Evaluation
from fmnist.report.markdown import markdown, summary
from fmnist.report.run import CHAMPION_AND_CHALLENGER, MEAN_IMAGES, Run
from fmnist.settings import DataSettings, GateSettings, Settings, StoreSettings, TrainingSettings
from tests.support import records

IMAGES = {"Learning curves": "a.png", "Confusion matrix": "b.png"}
FAILED = ComparisonFailed("20260301T000000Z-ffffffff", "its | model is gone")


def challenger(
    against: Comparison | ComparisonFailed | None = None,
    settings: Settings | None = None,
    promoted: bool = True,
) -> Run:
    """A run that met a champion."""
    against = against or records.comparison()
    return records.run(
        promoted, champion_before=records.champion(), against=against, settings=settings
    )


def section(run: Run, title: str, images: Mapping[str, str] = IMAGES) -> str:
    """The text of one section of a run's report."""
    report = markdown(run, images)
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1].strip()


def against_the_champion(
    against: Comparison | ComparisonFailed | None = None, settings: Settings | None = None
) -> str:
    """The text of the section about the comparison."""
    return section(challenger(against, settings), CHAMPION_AND_CHALLENGER)


@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_the_report_begins_with_verdict_and_reason(promoted: bool) -> None:
    run = records.run(promoted)
    lines = markdown(run, IMAGES).split("\n")
    assert lines[0] == f"# {'Promoted' if promoted else 'Rejected'}: {run.run_id}"
    assert lines[2].lower() == f"{run.verdict.reason}.".lower()
    assert ("142 of 10,000 images" if promoted else "below the required 0.9000") in lines[2]


@pytest.mark.parametrize("lower_bound", [True, False])
@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_the_report_shows_every_rule(promoted: bool, lower_bound: bool) -> None:
    settings = Settings(gate=GateSettings(lower_bound=lower_bound))
    run = records.run(promoted, settings=settings)
    report = markdown(run, IMAGES)
    accuracy, result = ("0.9142", "pass") if promoted else ("0.8790", "FAIL")
    assert "| every test image scored | 10,000 | 10,000 | pass |" in report
    assert f"| test accuracy | {accuracy} | 0.9000 | {result} |" in report
    assert ("lower end of its 95 % interval" in report) is lower_bound
    assert len(run.verdict.rules) == 2 + lower_bound


def test_a_figure_that_is_missing_is_shown_as_missing() -> None:
    run = records.run(False)
    rules = (replace(run.verdict.rules[1], value=None, passed=False),)
    run = replace(run, verdict=replace(run.verdict, rules=rules))
    assert "| test accuracy | missing | 0.9000 | FAIL |" in markdown(run, IMAGES)


def test_the_report_has_a_row_for_each_class_and_average() -> None:
    run = records.run()
    classes, averages = run.evaluation.classes, run.evaluation.averages
    names = [*records.CLASS_NAMES, "macro average", "weighted average"]
    assert [scores.name for scores in (*classes, *averages)] == names
    assert section(run, "Classes").splitlines() == [
        "| class | precision | recall | F1 | images |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {scores.name} | {scores.precision:.4f} | {scores.recall:.4f} | {scores.f1:.4f} "
            f"| {scores.support:,} |"
            for scores in (*classes, *averages)
        ),
    ]


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
    run = records.run(promoted, champion_before=records.champion() if had_champion else None)
    report = markdown(run, IMAGES)
    assert f"| champion before | {before} |" in report
    assert f"| champion after | {after} |" in report


def test_the_report_tells_how_the_model_came_about() -> None:
    settings = Settings(training=TrainingSettings(epochs=150))
    table = section(records.run(settings=settings), "How it was made")
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
    """Its location, its digest, the code that loads it safely, and what it takes and returns."""
    run = records.run()
    run = replace(
        run,
        training=replace(run.training, image_shape=(32, 20)),
        evaluation=replace(run.evaluation, classes=run.evaluation.classes[:5]),
    )
    text = section(run, "Use it")
    assert f"{run.location}/model.keras" in text
    assert run.training.model_sha256 in text
    assert "`(n, 32, 20)` of 0 to 255, and returns 5 calibrated probabilities" in text
    assert 'keras.models.load_model("model.keras", safe_mode=True)' in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    compile(code[1], "report", "exec")


def test_the_report_shows_its_figures_and_files() -> None:
    run = records.run()
    report = markdown(run, IMAGES, ["report.md", "model.keras"])
    for title, address in IMAGES.items():
        assert f"![{title}]({address})" in report
    listed = f"## Files\n\n- `{run.location}/model.keras`\n- `{run.location}/report.md`\n"
    assert report.endswith(listed)
    assert "## Files" not in markdown(run, IMAGES)


@pytest.mark.parametrize(
    "against",
    [None, records.comparison(), records.comparison(0, 0), FAILED],
    ids=["no champion", "usual champion", "the same model", "a damaged champion"],
)
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
def test_every_table_of_the_report_is_well_formed(
    judged: Evaluation, against: Comparison | ComparisonFailed | None
) -> None:
    """All rows of each table have as many cells as its header, whatever was measured."""
    report = markdown(records.run(judged=judged, against=against), IMAGES)
    tables = re.findall(r"(?:^\|.*\|\n)+", report, re.MULTILINE)
    assert len(tables) >= (6 if isinstance(against, Comparison) else 4)
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert re.fullmatch(r"\| --- (\| ---:? )+\|", table.splitlines()[1])


def test_a_class_name_with_a_bar_does_not_break_a_table() -> None:
    found = records.evaluation()
    named = (replace(found.classes[0], name="top|shirt"), *found.classes[1:])
    table = section(records.run(judged=replace(found, classes=named)), "Classes")
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
    assert cells == {6}


def test_a_perfect_model_has_no_confused_classes() -> None:
    run = records.run(judged=records.evaluation(10_000))
    assert section(run, "Most confused").startswith("None: every test image")


def test_the_most_confused_classes_come_first() -> None:
    table = section(records.run(), "Most confused")
    counts = [int(line.split("|")[3]) for line in table.splitlines()[2:]]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0


def test_the_summary_is_one_line_of_the_documented_form() -> None:
    assert summary(records.run(), 71.4) == (
        f"promoted  {records.RUN_ID}  test accuracy 0.9142 [0.9086, 0.9195], needs 0.9000  71 s  "
        f"s3://models/team/runs/{records.RUN_ID}/report.md"
    )
    rejected = summary(records.run(False), 3599.6)
    assert rejected.startswith(f"rejected  {records.RUN_ID}  test accuracy 0.8790 [")
    assert "  3600 s  " in rejected and "\n" not in rejected


@pytest.mark.parametrize(
    ("against", "words"),
    [
        (records.comparison(301, 210), "0.91 points better than the champion's 0.9051"),
        (records.comparison(10, 68), "0.58 points worse than the champion's 0.9200"),
        (records.comparison(50, 50), "level with the champion's 0.9142"),
        (FAILED, "it could not be scored"),
        (None, "there was none"),
    ],
    ids=["better", "worse", "level", "not scored", "none"],
)
def test_the_report_compares_with_the_champion(
    against: Comparison | ComparisonFailed | None, words: str
) -> None:
    """The difference is measured on the same images, whatever accuracy was once recorded."""
    before = records.champion(accuracy=0.1234) if against else None
    report = markdown(records.run(champion_before=before, against=against), IMAGES)
    how = " on the same images" if isinstance(against, Comparison) else ""
    assert f"| against the champion | {words}{how} |" in report


def test_the_report_names_the_weakest_classes() -> None:
    run = records.run()
    f1 = sorted((scores.f1, scores.name) for scores in run.evaluation.classes)[:3]
    words = ", ".join(f"{name} (F1 {value:.4f})" for value, name in f1)
    assert f"| weakest classes | {words} |" in markdown(run, IMAGES)


def test_the_report_tells_the_settings_that_were_changed() -> None:
    settings = Settings(gate=GateSettings(min_accuracy=0.85))
    changed = section(records.run(settings=settings), "How it was made")
    assert "| settings | 1 changed, the others at their defaults;" in changed
    assert "| `gate.min_accuracy` | 0.85 |" in changed
    default = section(records.run(), "How it was made")
    assert "| settings | all at their defaults; in `settings.json` |" in default


@pytest.mark.parametrize(
    "url", ["s3://models/fashion-mnist", "store", "/srv/team's models/fashion mnist"]
)
def test_the_report_tells_how_to_go_back(url: str) -> None:
    """A promoted run names its predecessor and the command that makes it the champion again."""
    run = challenger(settings=Settings(store=StoreSettings(url=url)))
    text = section(run, "Go back")
    assert f"{records.champion().run_id}, is still in the store" in text
    command = re.search(r"```sh\n(.*)\n```", text)
    assert command
    assert shlex.split(command[1]) == [
        "fmnist", "rollback", records.champion().run_id, "--store.url", url,
    ]  # fmt: skip


def test_the_report_does_not_vouch_for_a_champion_that_could_not_be_scored() -> None:
    """A person is told to check it before going back to it."""
    text = section(challenger(FAILED), "Go back")
    assert "is still in the store" not in text
    assert f"check it first with `fmnist verify {FAILED.champion}`" in text
    assert f"fmnist rollback {FAILED.champion}" in text


def test_a_run_that_replaced_no_champion_says_there_is_nothing_to_undo() -> None:
    assert section(records.run(), "Go back") == "There was no champion before this run."
    rejected = section(challenger(promoted=False), "Go back")
    assert rejected == "Nothing to undo: this run did not change the champion."


# ---- notes, and the comparison with the champion ------------------------------------------------


def test_the_notes_stand_right_under_the_rules() -> None:
    run = records.run()
    run = replace(run, verdict=replace(run.verdict, notes=("it rained", "the store is slow")))
    report = markdown(run, IMAGES)
    assert "| 0.9000 | pass |\n\n- It rained.\n- The store is slow.\n\n| figure | value |" in report
    without = markdown(replace(run, verdict=replace(run.verdict, notes=())), IMAGES)
    assert "| 0.9000 | pass |\n\n| figure | value |" in without
    own = "\n- This test set has judged 1 model in this store.\n"
    assert own in markdown(records.run(), IMAGES)


def test_a_rules_figures_are_shown_as_the_gate_words_them() -> None:
    """A tiny p-value is not shown as 0.0000, nor a near miss as the bound itself."""
    settings = Settings(gate=GateSettings(champion="not_worse", min_accuracy=0.91424))
    report = markdown(challenger(records.comparison(10, 300), settings), IMAGES)
    name = "not significantly worse than the champion, McNemar's one-sided p"
    assert f"| {name} | below 0.0001 | 0.0250 | FAIL |" in report
    assert "| test accuracy | 0.91420 | 0.91424 | FAIL |" in report


def test_the_section_has_the_figures_of_the_comparison() -> None:
    found = records.comparison()
    text = against_the_champion(found)
    low, high = 100 * found.interval.low, 100 * found.interval.high
    for row in (
        "| accuracy of the champion | 0.9051 |",
        "| accuracy of the challenger | 0.9142 |",
        f"| difference | +0.91 points, 95% interval {low:+.2f} to {high:+.2f} |",
        "| McNemar's exact test | p < 0.0001, two-sided |",
        "| images that changed sides | 511, all in `comparison.json` |",
        "| gained: only the challenger is right | 301 |",
        "| lost: only the champion is right | 210 |",
    ):
        assert row in text
    assert f"the champion {found.champion}, both scored on the same 10,000 test images" in text
    other = records.comparison(120, 100)
    row = f"| McNemar's exact test | p = {other.p_value:.4f}, two-sided |"
    assert row in against_the_champion(other)


def test_the_section_has_the_recall_of_each_class() -> None:
    found = records.comparison(305, 210)
    text = against_the_champion(found)
    for scores in found.classes:
        row = (
            f"| {scores.name} | {scores.champion:.4f} | {scores.challenger:.4f} | "
            f"{100 * (scores.challenger - scores.champion):+.2f} | {scores.gained} | {scores.lost} |"
        )
        assert row in text
    assert "| 31 | 21 |" in text and "| 30 | 21 |" in text


def test_no_difference_has_no_minus_sign() -> None:
    text = against_the_champion(records.comparison(0, 0))
    assert "-0.00" not in text
    assert text.count("| +0.00 | 0 | 0 |") == 10


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({}, "`gate.champion` is `off`: this is shown and does not decide."),
        (
            {"champion": "not_worse"},
            "`gate.champion` is `not_worse`: a significantly worse challenger is rejected.",
        ),
        (
            {"champion": "better"},
            "`gate.champion` is `better`: only a significantly better challenger passes.",
        ),
        (
            {"max_class_drop": 0.02},
            "`gate.max_class_drop` is 0.02: a challenger that loses more recall than that in any "
            "class is rejected.",
        ),
    ],
    ids=["off", "not_worse", "better", "a class"],
)
def test_the_section_says_what_the_comparison_decides(gate: dict[str, Any], words: str) -> None:
    """The current policy is stated beside the figures; `off` only where nothing is required."""
    text = against_the_champion(settings=Settings(gate=GateSettings(**gate)))
    assert words in text
    assert ("does not decide" in text) is (not gate)


def test_a_comparison_on_other_data_is_said_not_to_decide() -> None:
    """Whatever the policy, since the champion may have been trained on some of the images."""
    settings = Settings(gate=GateSettings(champion="better"))
    text = against_the_champion(records.comparison(same_test_set=False), settings)
    assert "and may have been trained on these images: this is shown and does not decide." in text
    assert "`better`" not in text


def test_images_left_out_of_the_comparison_are_counted() -> None:
    found = replace(records.comparison(same_test_set=False), images=9_800, left_out=200)
    text = against_the_champion(found, Settings(gate=GateSettings(champion="better")))
    assert "both scored on the same 9,800 test images. The other 200 are left out" in text
    assert "`gate.champion` is `better`" in text and "does not decide" not in text


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({}, "No rule of the gate needs a comparison"),
        (
            {"champion": "not_worse"},
            "`gate.champion` is `not_worse`: a significantly worse challenger is rejected. That takes a comparison: this run is rejected.",
        ),
        ({"max_class_drop": 0.1}, "this run is rejected."),
    ],
    ids=["off", "not_worse", "a class"],
)
def test_the_section_says_why_a_champion_could_not_be_scored(
    gate: dict[str, Any], words: str
) -> None:
    """The reason, what it means for this run, and how to look closer."""
    run = challenger(FAILED, Settings(gate=GateSettings(**gate)))
    text = section(run, CHAMPION_AND_CHALLENGER)
    assert f"The champion {FAILED.champion} could not be scored: its | model is gone." in text
    assert f"`fmnist verify {FAILED.champion}`" in text
    assert words in text
    assert run.verdict.promoted is ("this run is rejected" not in text)


def test_the_figure_of_the_comparison_stands_in_its_section() -> None:
    """It is not shown a second time among the others, and not at all without a comparison."""
    images = {CHAMPION_AND_CHALLENGER: "c.png", **IMAGES}
    report = markdown(challenger(), images)
    assert report.count("c.png") == 1
    shown = section(challenger(), CHAMPION_AND_CHALLENGER, images)
    assert f"![{CHAMPION_AND_CHALLENGER}](c.png)" in shown
    assert "c.png" not in markdown(records.run(), images)
    assert CHAMPION_AND_CHALLENGER not in markdown(records.run(), IMAGES)


def test_an_undecided_run_claims_nothing_about_a_champion() -> None:
    """Where the store could not be asked, the report says so, and shows no rules or champion."""
    run = replace(records.run(), verdict=undecided("the store is away", 3))
    report = markdown(run, IMAGES)
    assert report.startswith(f"# Undecided: {run.run_id}\n\nNot decided yet: the store is away.\n")
    assert "| champion | not known yet |" in report
    assert "| rule |" not in report and "champion after" not in report
    assert section(run, "Go back") == "Nothing to undo: nothing has been decided yet."


# ---- the data -----------------------------------------------------------------------------------

CHAMPION = records.champion().run_id


def with_data(change: DataChange | None, settings: Settings | None = None) -> Run:
    """A run whose data have so changed."""
    return replace(records.run(settings=settings), data_change=change)


def changed(now: DataStatistics) -> DataChange:
    return DataChange(CHAMPION, compare_statistics(records.statistics(), now))


def test_the_report_has_a_row_for_each_class_of_the_data() -> None:
    """Images in each set, and mean and spread of their brightness."""
    text = section(with_data(None), "Data")
    for place, name in enumerate(records.CLASS_NAMES):
        assert f"| {name} | 4,800 | 1,200 | 1,000 | {80 + place}.0 | 9.5 |" in text
    assert "champion" not in text


def test_the_mean_images_stand_in_the_section_about_the_data() -> None:
    """They are not shown a second time among the other figures."""
    images = {MEAN_IMAGES: "m.png", **IMAGES}
    assert f"![{MEAN_IMAGES}](m.png)" in section(records.run(), "Data", images)
    assert markdown(records.run(), images).count("m.png") == 1


@pytest.mark.parametrize(("leaked", "conflicting"), [(0, 0), (12, 0), (0, 1_234), (12, 1_234)])
def test_the_report_counts_images_that_occur_twice(leaked: int, conflicting: int) -> None:
    """Only if there are any."""
    run = records.run()
    found = Duplicates(leaked, (), conflicting, ())
    text = section(replace(run, prepared=replace(run.prepared, duplicates=found)), "Data")
    words = "- 12 of the 10,000 test images are among the training images too;"
    assert (words in text) is bool(leaked)
    assert ("- 1,234 images have the pixels of another one" in text) is bool(conflicting)
    assert text.startswith("- ") is bool(leaked or conflicting)


def test_a_notable_change_of_the_data_is_flagged() -> None:
    """Each as a sentence, above the figures of all tests."""
    text = section(with_data(changed(records.statistics((12_000, *(6_000,) * 9), 80))), "Data")
    assert text.startswith(f"Against the data of the champion {CHAMPION}:\n\n- **Notable change** ")
    assert text.count("\n- **Notable change** in the ") == 4
    assert "class shares of the training and validation images: Cramér's V 0.1" in text
    assert "(T-shirt/top 10.0% to 18.2%, " in text
    assert "brightness of the test images: Kolmogorov-Smirnov D 0.333, above 0.1" in text
    for row in (
        "| images | training and validation | test |",
        "| how many | 60,000 → 66,000 | 10,000 → 11,000 |",
        "| mean brightness | 85.0 → 95.0 | 85.0 → 95.0 |",
        "| brightness, Kolmogorov-Smirnov D | 0.333, p < 0.0001 | 0.333, p < 0.0001 |",
    ):
        assert row in text


def test_a_change_below_the_settings_thresholds_is_shown_and_not_flagged() -> None:
    settings = Settings(data=DataSettings(notable_share_change=0.5, notable_brightness_change=0.5))
    now = records.statistics((12_000, *(6_000,) * 9), 80)
    text = section(with_data(changed(now), settings), "Data")
    assert text.startswith(
        f"No notable change against the data of the champion {CHAMPION}.\n\n| images"
    )
    assert "**" not in text and "| 0.333, p < 0.0001 |" in text
    same = section(with_data(changed(records.statistics())), "Data")
    unchanged = "0.000, chi-squared p = 1.0000"
    assert f"| class shares, Cramér's V | {unchanged} | {unchanged} |" in same


def test_data_that_were_not_compared_say_why() -> None:
    text = section(with_data(DataChange(CHAMPION, reason="they are the very same files")), "Data")
    words = f"Not compared with the data of the champion {CHAMPION}: they are the very same files."
    assert text.startswith(words + "\n\n")
    assert "Cramér" not in text


# ---- what others have written -------------------------------------------------------------------

HOSTILE = "<img src=x onerror=alert(1)> *a* _b_ `c` | [d](e) ~~f~~ $g$ &amp; \\ #1"


def shown(report: str) -> str:
    """The report as a person would see it on a page, without what a browser would not show."""
    page = MarkdownIt("gfm-like", {"linkify": False}).enable("table").render(report)
    assert not re.search(
        r"<(?!/?(p|h\d|table|thead|tbody|t[rhd]|ul|li|code|pre|strong|img)\b)", page
    )
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def hostile(run: Run) -> Run:
    """The run with something hostile in every place that others write to."""
    judged, comparison = run.evaluation, records.comparison(class_names=[HOSTILE] * 10)
    statistics = records.statistics(class_names=[HOSTILE] * 10)
    now = records.statistics((12_000, *(6_000,) * 9), class_names=[HOSTILE] * 10)
    return replace(
        run,
        location=f"/srv/{HOSTILE}",
        data=replace(run.data, source=HOSTILE),
        settings=Settings(data=DataSettings(class_names=(HOSTILE, "other"))),
        environment=replace(run.environment, commit=HOSTILE, processor=HOSTILE),
        evaluation=replace(
            judged,
            classes=tuple(replace(one, name=HOSTILE) for one in judged.classes),
            confused_pairs=tuple(
                replace(pair, true=HOSTILE, predicted=HOSTILE) for pair in judged.confused_pairs
            ),
        ),
        verdict=replace(
            run.verdict,
            reason=f"the recall of {HOSTILE}",
            notes=(f"a note about {HOSTILE}",),
            rules=(replace(run.verdict.rules[1], name=f"the rule of {HOSTILE}"),),
        ),
        against=comparison,
        prepared=replace(run.prepared, statistics=statistics),
        data_change=DataChange(CHAMPION, compare_statistics(statistics, now)),
    )


def test_what_others_wrote_is_shown_as_they_wrote_it() -> None:
    """In names, places and settings it is text: no HTML, emphasis, link, code or formula."""
    run = hostile(challenger())
    report = markdown(run, {}, ["model.keras"])
    seen = shown(report)
    assert "<img src=x" not in report.replace(f"/srv/{HOSTILE}", "")
    # Ten classes in three tables, ten confused pairs, the weakest classes, and so on.
    assert seen.count(HOSTILE) > 55
    for place in (
        f"{HOSTILE}, the official files", f"{HOSTILE}, 2 cores", f"/srv/{HOSTILE}/model.keras",
        f"the rule of {HOSTILE}", f"('{HOSTILE.replace(chr(92), chr(92) * 2)}', 'other')",
        f"({HOSTILE} 10.0% to 18.2%",
    ):  # fmt: skip
        assert place in seen
    failed = replace(run, against=ComparisonFailed(CHAMPION, f"its model is {HOSTILE}"))
    assert "its model is &lt;img src=x" in markdown(failed, {})


def test_the_gates_own_words_keep_their_code() -> None:
    """What a reason or note has in backticks is code; what it quotes besides is text."""
    run = records.run()
    run = replace(
        run,
        verdict=replace(
            run.verdict,
            reason="after `fmnist release`, <b>x</b> is *judged* again",
            notes=("see `gate.min_accuracy` and a lone ` backtick",),
        ),
    )
    report = markdown(run, {})
    assert "After `fmnist release`, &lt;b&gt;x&lt;/b&gt; is \\*judged\\* again." in report
    assert "- See `gate.min_accuracy` and a lone \\` backtick." in report


def test_a_line_break_in_a_stored_name_cannot_fake_a_line_of_the_report() -> None:
    run = hostile(challenger())
    faked = "\n\n# Promoted: another\n\n"
    run = replace(
        run,
        location=f"/srv{faked}",
        data=replace(run.data, source=faked),
        verdict=replace(run.verdict, reason=f"because{faked}of", notes=(faked,)),
        against=ComparisonFailed(CHAMPION, faked),
    )
    report = markdown(run, {}, ["model.keras"])
    assert not re.search(r"^[\\#\s]*Promoted: another", report, re.MULTILINE)
