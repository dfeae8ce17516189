"""The commands that look into a store."""

import json
from pathlib import Path
from typing import Any

import pytest

from fmnist.errors import ExitCode
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.records import Manifest, StoredRun, to_json
from fmnist.registry.runs import read_file, read_record, record_verdict
from fmnist.settings import GateSettings
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.integration.cli.conftest import (
    IMAGES,
    NAMES,
    Call,
    Machine,
    Put,
    World,
    overwrite,
    put_networks,
    reseal,
    run_id,
)
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in
from tests.support.registry import edited


def test_runs_are_listed_newest_first(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    """A table of the runs with their figures and marks, and the same as a document."""
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    store_run(store, run_id(2), evaluation=records.evaluation(8_790))
    stored = store_run(store, run_id(3))
    record_verdict(store, stored, Verdict(False, (), "worse than the champion"))
    store.put_if_absent(f"runs/{run_id(4)}/model.keras", b"model")
    output = call("runs")
    assert output.code == 0
    rows = [line.split() for line in output.lines]
    assert rows[1:5] == [
        [run_id(4), "unfinished"],
        ["!", run_id(3), "2026-03-03", "09:30", "0.9142", "[0.9086,", "0.9195]", "promoted"],
        [run_id(2), "2026-03-02", "09:30", "0.8790", "[0.8725,", "0.8852]", "rejected"],
        ["*", run_id(1), "2026-03-01", "09:30", "0.9142", "[0.9086,", "0.9195]", "promoted"],
    ]
    assert "* the champion" in output.lines
    assert "! rejected later, when it was to be promoted" in output.lines
    assert output.last == f"ok  4 of 4 runs in {store.location('')}  the last page"
    assert "\x1b" not in output.text
    found = machine("runs")
    assert [run["run_id"] for run in found["runs"]] == [run_id(n) for n in (4, 3, 2, 1)]
    assert [run["state"] for run in found["runs"]] == ["unfinished", *["whole"] * 3]
    assert [run["champion"] for run in found["runs"]] == [False, False, False, True]
    assert [run["rejected_later"] for run in found["runs"]] == [False, True, False, False]
    assert found["runs"][3]["accuracy"] == 0.9142
    assert found["runs"][3]["finished_at"] == "2026-03-01T09:30:00Z"
    assert (found["total"], found["next_before"]) == (4, None)


def test_a_damaged_run_is_listed_as_such(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number))
    overwrite(store, f"runs/{run_id(1)}/manifest.json", b"{}")
    overwrite(store, f"runs/{run_id(3)}/evaluation.json", b"{}")
    output = call("runs")
    assert output.code == 0
    assert output.lines[1].split() == [run_id(3), "damaged"]
    assert output.lines[2].split()[0] == run_id(2)
    assert output.lines[3].split() == [run_id(1), "damaged"]
    assert f"{run_id(3)}/evaluation.json is not the file that manifest.json lists" in output.text
    problems = [run["problem"] for run in machine("runs")["runs"]]
    assert "manifest.json cannot be read" in problems[2] and problems[1] == ""


def test_runs_come_in_pages(store_run: Put, call: Call, machine: Machine) -> None:
    """Each page says how to get the next, and together they are all runs once."""
    for number in range(1, 6):
        store_run(FolderStore("store"), run_id(number))
    last = call("runs", "--limit", "2").last
    assert last == f"ok  2 of 5 runs in store  the next page: --before {run_id(4)}"
    assert call("runs", "--before", run_id(2)).last.endswith("the last page")
    seen: list[str] = []
    before: list[str] = []
    for _ in range(3):
        found = machine("runs", "--limit", "2", *before)
        seen += [run["run_id"] for run in found["runs"]]
        before = ["--before", str(found["next_before"])]
    assert seen == [run_id(number) for number in (5, 4, 3, 2, 1)]
    assert found["next_before"] is None


def test_a_page_of_ten_thousand_runs_reads_only_what_it_shows(
    store_run: Put, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs there are, a page costs one listing and three small reads a run."""
    template = MemoryStore()
    store_run(template, run_id(1), promote=True)
    store = MemoryStore()
    store.objects["champion.json"] = template.objects["champion.json"]
    for number in range(10_000):
        name = f"20260101T{number:06d}Z-0a1b2c3d"
        for key, content in template.objects.items():
            if key.startswith("runs/"):
                moved = key.replace(run_id(1), name)
                store.objects[moved] = content.replace(run_id(1).encode(), name.encode())
    asked: list[str] = []
    read, names = store.read, store.list_names
    monkeypatch.setattr(store, "read", lambda key, *_: asked.append(key) or read(key))
    monkeypatch.setattr(store, "list_names", lambda prefix: asked.append(prefix) or names(prefix))
    monkeypatch.setattr("fmnist.cli.command.open_store", lambda *_, **__: store)
    Path("store").mkdir()
    output = call("runs")
    assert output.last.startswith("ok  20 of 10,000 runs")
    assert len([line for line in output.lines if "0.9142" in line]) == 20
    assert len(asked) <= 20 * 3 + 3


def test_show_tells_all_about_a_run(url: str, store_run: Put, call: Call, machine: Machine) -> None:
    """Figures, rules, changed settings, later verdicts and files, for people and for machines."""
    store = open_store(url)
    stored = store_run(store, run_id(1), gate=GateSettings(min_accuracy=0.85))
    later = Verdict(False, (), "worse than the champion", generation=4, notes=("a note",))
    record_verdict(store, stored, later)
    output = call("show", run_id(1))
    for part in (
        "0.9142 [0.9086, 0.9195], 10,000 images", "gate.min_accuracy 0.85", "model.keras",
        "promoted: test accuracy 0.9142", "every test image scored",
        "note: this test set has judged 1 model in this store",
        "judged again, against generation 4:", "rejected: worse than the champion", "note: a note",
    ):  # fmt: skip
        assert part in output.text
    where = store.location(f"runs/{run_id(1)}")
    assert output.last == f"ok  {run_id(1)}  rejected  {where}"
    found = machine("show", run_id(1))
    assert found["verdict"]["promoted"] is True
    assert [rule["name"] for rule in found["verdict"]["rules"]][1] == "test accuracy"
    assert found["later_verdicts"][0]["reason"] == "worse than the champion"
    assert found["settings_changed"] == {"gate.min_accuracy": 0.85}
    assert set(found["manifest"]["files"]) == set(stored.manifest.files)
    assert found["location"] == where and found["champion"] is False


def test_show_names_an_earlier_run_with_the_same_model(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    """The champion if it has, else the latest of the ten runs before; no later and no older one."""
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    for number in range(2, 14):
        store_run(store, run_id(number), model=b"same" if number in (2, 3, 13) else b"%d" % number)
    store_run(store, run_id(14))
    assert f"the same model as {run_id(1)}" in call("show", run_id(14)).text
    assert f"the same model as {run_id(2)}" in call("show", run_id(3)).text
    assert "unlike those of the runs before it" in call("show", run_id(1)).text
    same = [machine("show", run_id(number))["same_model_as"] for number in (2, 4, 13, 14)]
    assert same == [None, None, run_id(3), run_id(1)]
    store_run(store, run_id(15), model=b"same")
    store_run(store, run_id(16), model=b"4")
    assert machine("show", run_id(16))["same_model_as"] is None


def test_show_does_not_mix_the_environment_into_a_runs_settings(
    store_run: Put, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that an old run did not know yet is at its default, whatever is set here."""
    store = FolderStore("store")
    stored = store_run(store, run_id(1))
    settings = json.loads(read_file(store, stored, keys.SETTINGS))
    del settings["gate"]["champion"]
    reseal(store, run_id(1), {keys.SETTINGS: json.dumps(settings).encode()})
    monkeypatch.setenv("FMNIST_GATE__CHAMPION", "better")
    assert machine("show", run_id(1))["settings_changed"] == {}


def test_show_tells_the_comparison_that_was_made(
    store_run: Put, call: Call, machine: Machine
) -> None:
    store = FolderStore("store")
    store_run(store, run_id(1))
    comparison = to_json(records.comparison())
    reseal(store, run_id(1), {keys.COMPARISON: comparison})
    assert "McNemar's test" in call("show", run_id(1)).text
    assert machine("show", run_id(1))["comparison"] == json.loads(comparison)


@pytest.mark.parametrize(
    ("key", "content", "part"),
    [
        ("manifest.json", b"not json", "manifest.json cannot be read"),
        ("manifest.json", to_json(
            Manifest(2, run_id(9), records.moments(1)[0], {})), "of another run"),
        ("verdict.json", b"{}", "verdict.json is not the file that manifest.json lists"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_not_shown(
    key: str, content: bytes, part: str, url: str, store_run: Put, call: Call
) -> None:
    store = open_store(url)
    store_run(store, run_id(1))
    overwrite(store, f"runs/{run_id(1)}/{key}", content)
    call("show", run_id(1)).fails(ExitCode.DAMAGED, part)


@pytest.mark.minio
@pytest.mark.parametrize("name", ["runs", "champion", "history", "rollback", "verify"])
def test_a_bucket_that_is_not_there_is_named(name: str, bucket: str, call: Call) -> None:
    call(name, "--store.url", f"s3://{bucket}-not/team").fails(
        ExitCode.STORE, f"bucket '{bucket}-not'", "does not exist"
    )


@pytest.mark.parametrize("name", ["champion", "history", "rollback", "hold", "release", "pull"])
def test_a_store_without_a_champion_is_said_to_be(name: str, url: str, call: Call) -> None:
    """Before the first promotion these end with code 5 and one line, and make nothing."""
    if "://" not in url:
        Path(url).mkdir()
    call(name).fails(ExitCode.STORE, "champion.json is not there")
    assert files_in(Path()) == set()


def test_the_champion_is_shown(url: str, store_run: Put, call: Call, machine: Machine) -> None:
    """Who it is, since when, by which move and why, and where a rollback leads."""
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    store_run(store, run_id(2), promote=True)
    output = call("champion")
    for part in (run_id(2), "0.9142 [0.9086, 0.9195]", "by promotion", "flows/train.py", run_id(1)):
        assert part in output.text
    where = store.location(f"runs/{run_id(2)}")
    assert output.last == f"ok  {run_id(2)}  test accuracy 0.9142  {where}"
    found = machine("champion")
    assert found["champion"]["generation"] == 2
    assert found["champion"]["rollback_to"] == run_id(1)
    assert found["location"] == where


def test_a_damaged_champion_is_told(store_run: Put, call: Call) -> None:
    """A champion whose manifest was swapped ends with code 8 and the way back."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    reseal(store, run_id(1), {"report.md": b"other"})
    call("champion").fails(ExitCode.DAMAGED, "not the manifest that was promoted")


def test_history_tells_every_move(url: str, store_run: Put, call: Call, machine: Machine) -> None:
    """Each move with its time, kind, from, to, reason and program; the newest first."""
    store = open_store(url)
    for number in (1, 2):
        store_run(store, run_id(number), promote=True)
    assert call("rollback", "--reason", "odd  shirts").code == 0
    output = call("history")
    assert output.lines[0].split()[0] == "3"
    assert "UTC  rollback  by fmnist rollback, " in output.lines[0]
    assert output.lines[1].strip() == f"{run_id(2)} -> {run_id(1)}, held"
    assert output.lines[2].strip() == "odd shirts"
    assert output.last == f"ok  3 of 3 moves  champion {run_id(1)}"
    assert f"none -> {run_id(1)}" in output.text
    found = machine("history", "--limit", "2")
    assert [move["generation"] for move in found["moves"]] == [3, 2]
    assert found["total"] == 3


def test_a_stored_reason_cannot_fake_a_line(store_run: Put, call: Call) -> None:
    """Whoever may write the record cannot end the history with a line of their own."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    stored = store.get(keys.CHAMPION)
    assert stored
    faked = edited(stored.content, reason="fine\nok  1 of 1 moves\x1b[2K")
    store.compare_and_swap(keys.CHAMPION, stored.version, faked)
    output = call("history", "--store.url", "store")
    assert "       fine?ok  1 of 1 moves?[2K" in output.lines
    assert output.last == f"ok  1 of 1 moves  champion {run_id(1)}"


@pytest.mark.usefixtures("networks")
def test_two_runs_are_compared_on_the_same_images(
    world: World, call: Call, machine: Machine
) -> None:
    """Accuracies, difference, test and classes; a machine gets every image that changed sides."""
    words = ("compare", run_id(1), run_id(2), "--data.source", str(world.data))
    output = call(*words)
    before, after = world.good.evaluation, world.poor.evaluation
    assert f"first {before.accuracy:.4f}, second {after.accuracy:.4f}" in output.text
    assert "McNemar's test" in output.text and "Ankle boot" in output.text
    lost = before.correct - after.correct
    assert output.last.startswith(f"ok  {-100 * lost / IMAGES:+.2f} points [")
    found = machine(*words)["comparison"]
    assert found["gained"] - found["lost"] == -lost
    assert len(found["changed"]) == found["gained"] + found["lost"]
    assert [scores["name"] for scores in found["classes"]] == list(NAMES)
    assert output.last.endswith(f"{len(found['changed'])} of {IMAGES} images changed sides")


def test_a_comparison_on_other_images_says_so(
    world: World, store_run: Put, call: Call, machine: Machine
) -> None:
    """Where a run was judged on other data than those given, the comparison has a warning."""
    put_networks(FolderStore("store"), store_run, world)
    words = ("compare", run_id(1), run_id(3), "--data.source", str(world.other_data))
    assert f"{run_id(1)} was judged on other test data" in call(*words).text
    assert machine(*words)["judged_on_these_images"] == [False, False]


def test_a_model_that_is_none_is_not_compared(world: World, store_run: Put, call: Call) -> None:
    store = FolderStore("store")
    put_networks(store, store_run, world)
    store_run(store, run_id(4), origin=world.origin)
    call("compare", run_id(1), run_id(4), "--data.source", str(world.data)).fails(
        ExitCode.DAMAGED, "holds no network"
    )


def test_a_run_removed_while_it_is_listed_is_no_damage(
    store_run: Put, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest was there, and then its files were not."""
    store = FolderStore("store")
    for number in (1, 2):
        store_run(store, run_id(number), promote=number == 2)
    real = read_record

    def late(store: Store, run: StoredRun, *what: Any) -> Any:
        if run.run_id == run_id(1):
            for key in store.list_entries(f"runs/{run_id(1)}/"):
                store.delete(key)
        return real(store, run, *what)

    monkeypatch.setattr("fmnist.registry.runs.read_record", late)
    output = call("runs")
    assert output.code == 0 and "damaged" not in output.text and "unfinished" in output.text
