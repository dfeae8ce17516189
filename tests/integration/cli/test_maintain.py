"""The commands that look after a store."""

import getpass
import platform
import subprocess
from pathlib import Path

import pytest

from fmnist.cli.doctor import Finding
from fmnist.errors import ExitCode
from fmnist.registry.runs import list_run_ids
from fmnist.settings import GateSettings
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.integration.cli.conftest import Call, Machine, Put, overwrite, run_id
from tests.support.processes import ROOT, files_in


@pytest.mark.usefixtures("networks")
def test_a_good_store_is_verified(call: Call, machine: Machine) -> None:
    output = call("verify")
    assert output.code == 0
    assert output.lines[-1].startswith("ok  3 runs, ")
    assert output.last.endswith("  0 leftovers, 0 of them safe to delete")
    found = machine("verify")
    assert [run["problems"] for run in found["runs"]] == [[], [], []]
    assert machine("verify", run_id(2))["runs"][0]["run_id"] == run_id(2)


def test_damage_is_found_and_named(
    networks: Store, store_run: Put, call: Call, machine: Machine
) -> None:
    store_run(networks, run_id(4))
    overwrite(networks, f"runs/{run_id(2)}/report.md", b"other")
    output = call("verify")
    assert output.code == ExitCode.DAMAGED
    assert output.last.startswith("failed  -  damaged: 2 faults, listed above  4 runs, ")
    assert any("report.md is not the file" in line for line in output.lines)
    assert any(
        f"{run_id(4)}/model.keras: " in line and "no network" in line for line in output.lines
    )
    found = machine("verify")
    assert found["kind"] == "damaged"
    assert [len(run["problems"]) for run in found["runs"]] == [0, 1, 0, 1]
    assert call("verify", run_id(1)).code == 0
    assert call("verify", run_id(2)).code == ExitCode.DAMAGED
    assert call("verify", run_id(9)).code == ExitCode.SETTINGS


def test_leftovers_are_no_damage(networks: Store, call: Call) -> None:
    """What no manifest lists is told with its place, and ends with code 0."""
    networks.put_if_absent(f"runs/{run_id(8)}/model.keras", b"model")
    networks.put_if_absent(f"runs/{run_id(1)}/notes.txt", b"notes")
    output = call("verify")
    assert output.code == 0
    assert output.last.endswith("  2 leftovers, 0 of them safe to delete")
    (orphan,) = [line for line in output.lines if run_id(8) in line]
    assert "has no manifest.json" in orphan and orphan.endswith("may be in use")
    assert any(
        "notes.txt is not listed in the run's manifest.json" in line for line in output.lines
    )


def test_prune_first_only_says_what_it_would_remove(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    """Without --delete nothing changes; with it exactly what was told is gone."""
    store = open_store(url)
    for number in range(1, 7):
        # One that was not rejected may be on its way to be the champion.
        gate = GateSettings(min_accuracy=0.9 if number == 2 else 0.99)
        store_run(store, run_id(number), promote=number == 2, gate=gate)
    before = dict(store.list_entries("runs/"))
    output = call("prune", "--keep", "2")
    assert output.code == 0
    assert output.lines[:6] == [
        f"keep      {run_id(2)} is the champion",
        *(f"keep      {run_id(number)} is among the newest" for number in (5, 6)),
        *(f"run       {run_id(number)}" for number in (1, 3, 4)),
    ]
    assert output.last.startswith("ok  3 runs, 0 leftovers (0.0 MB) would be removed; --delete")
    assert dict(store.list_entries("runs/")) == before
    found = machine("prune", "--keep", "2", "--delete")
    assert (found["runs"], found["deleted"]) == ([run_id(1), run_id(3), run_id(4)], True)
    assert found["kept"][run_id(2)] == "is the champion"
    assert list_run_ids(store) == [run_id(6), run_id(5), run_id(2)]
    (move,) = machine("history", "--limit", "1")["moves"]
    assert move["by"] == f"fmnist prune, {getpass.getuser()}@{platform.node()}"
    assert call("prune", "--keep", "2", "--delete").last.startswith("ok  0 runs")


@pytest.mark.parametrize("arguments", [["pull"], ["publish"]])
def test_a_folder_in_the_home_of_nobody_is_told(
    arguments: list[str], store_run: Put, call: Call
) -> None:
    store_run(FolderStore("store"), run_id(1), promote=True)
    call(*arguments, "~nobody-of-this-name/x").fails(ExitCode.SETTINGS, "home of an unknown user")


def test_nothing_is_pruned_before_the_first_promotion(url: str, store_run: Put, call: Call) -> None:
    """Without a champion nobody knows yet which run will be one."""
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number))
    output = call("prune", "--keep", "1", "--delete")
    assert output.code == 0 and "there is no champion yet" in output.last
    assert len(list_run_ids(store)) == 3


def test_the_champion_is_pulled_whole(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    """All its files come into a new folder; once more changes nothing and is no failure."""
    stored = store_run(open_store(url), run_id(1), promote=True)
    output = call("pull")
    assert output.last == f"ok  {run_id(1)}  7 files  champion"
    assert files_in(Path("champion")) == {*stored.manifest.files, "manifest.json"}
    assert call("pull").last.endswith("was there already, complete  champion")
    found = machine("pull", "deep/down")
    assert (found["new"], found["folder"]) == (True, "deep/down")
    assert files_in(Path("deep/down")) == files_in(Path("champion"))


def test_where_pull_writes_by_default_is_ignored_by_git() -> None:
    """Nobody commits a model by mistake in the project's own checkout."""
    asked = ["git", "check-ignore", "--quiet", "--no-index", "champion/model.keras"]
    assert subprocess.run(asked, cwd=ROOT, check=False).returncode == 0


def test_pull_overwrites_nothing(store_run: Put, call: Call) -> None:
    """Another run, somebody's files or a damaged copy in the folder's place are left: code 2."""
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    assert call("pull").code == 0
    store_run(store, run_id(2), promote=True)
    before = files_in(Path("champion"))
    call("pull").fails(ExitCode.SETTINGS, "champion exists already", run_id(2))
    assert files_in(Path("champion")) == before
    Path("file").write_text("mine")
    assert call("pull", "file").code == ExitCode.SETTINGS
    assert call("pull", "fresh").code == 0
    Path("fresh/model.keras").write_bytes(b"other")
    assert call("pull", "fresh").code == ExitCode.SETTINGS


def test_a_damaged_champion_is_not_pulled(store_run: Put, call: Call) -> None:
    store = FolderStore("store")
    store_run(store, run_id(1), promote=True)
    overwrite(store, f"runs/{run_id(1)}/model.keras", b"other")
    call("pull").fails(ExitCode.DAMAGED, "model.keras")
    assert {path.name for path in Path().iterdir()} <= {"store", "sealed"}


def test_doctor_prints_a_line_for_each_finding(
    call: Call, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finding is a line, good or bad; the first bad one gives the code."""
    good = Finding("settings", True, "all valid", ExitCode.OK)
    bad = Finding("data", False, "not there; set data.source", ExitCode.DATA)
    worse = Finding("store", False, "full", ExitCode.STORE)
    monkeypatch.setattr("fmnist.cli.doctor.examine", lambda _: iter([good, bad, worse]))
    output = call("doctor")
    assert output.lines == [
        "good  settings: all valid",
        "BAD   data: not there; set data.source",
        "BAD   store: full",
        "failed  -  data: 2 of 3 checks failed: data, store",
    ]
    assert output.code == ExitCode.DATA
    found = machine("doctor")
    assert (found["kind"], len(found["findings"])) == ("data", 3)
    monkeypatch.setattr("fmnist.cli.doctor.examine", lambda _: iter([good]))
    assert call("doctor").last == "ok  1 checks, all good"
