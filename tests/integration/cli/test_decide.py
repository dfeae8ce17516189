"""The commands that change the champion."""

import getpass
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmnist.errors import ExitCode
from fmnist.evaluation.gate import GateContext, decide
from fmnist.promotion.judge import make_test_set
from fmnist.promotion.publish import write_run
from fmnist.promotion.stored import digest_of_gate
from fmnist.promotion.workspace import finished_folder
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, promote_run, read_champion, retire, roll_back
from fmnist.registry.fingerprints import find_by_fingerprint
from fmnist.registry.runs import find_run, later_verdicts
from fmnist.settings import GateSettings
from fmnist.store.base import Conflict, Store, open_store
from fmnist.store.folder import FolderStore
from tests.integration.cli.conftest import (
    IMAGES,
    Call,
    Machine,
    Network,
    Put,
    World,
    champion_of,
    images,
    overwrite,
    put_networks,
    run_id,
    sealed,
)
from tests.support import records
from tests.support.processes import files_in

# For what is decided before any data are asked for.
NO_DATA = ("--data.source", "nowhere")


@pytest.fixture(autouse=True)
def places(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the data that the runs were made with, and a work folder."""
    monkeypatch.setenv("FMNIST_DATA__SOURCE", str(world.data))
    monkeypatch.setenv("FMNIST_STORE__WORK", "work")


@pytest.fixture
def store(world: World, store_run: Put) -> FolderStore:
    """The store of the settings, with a good champion, then a poor run and a better one."""
    store = FolderStore("store")
    put_networks(store, store_run, world)
    return store


def test_a_stored_run_is_promoted_by_the_gate(networks: Store, world: World, call: Call) -> None:
    """A run that passes becomes the champion, by this command, with the comparison shown."""
    output = call("promote", run_id(3))
    assert output.code == ExitCode.OK
    assert output.last.startswith(f"promoted  {run_id(3)}  generation 2  test accuracy ")
    assert f"against the champion {run_id(1)}:" in output.text
    head = current_champion(networks)
    assert head is not None
    assert (head.run_id, head.move) == (run_id(3), "promotion")
    assert head.by == f"fmnist promote, {getpass.getuser()}@{platform.node()}"
    assert head.accuracy == world.better.evaluation.accuracy


def test_a_run_that_does_not_pass_is_rejected_and_recorded(
    networks: Store, call: Call, machine: Machine
) -> None:
    """A rejection has code 3, is kept beside the run, and leaves the champion."""
    words = ("promote", run_id(2))
    output = call(*words)
    assert output.code == ExitCode.REJECTED
    assert output.last.startswith(f"rejected  {run_id(2)}  test accuracy ")
    assert "FAIL" in output.text
    (kept,) = later_verdicts(networks, run_id(2))
    assert not kept.promoted and kept.generation == 1
    found = machine(*words)
    assert (found["ok"], found["kind"], found["exit_code"]) == (False, "rejected", 3)
    assert found["message"] == kept.reason
    assert champion_of(networks) == run_id(1)


def test_the_gate_is_the_one_the_run_was_made_for(
    store: FolderStore, world: World, store_run: Put, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded gate counts, then the command line's; never that of the environment here."""
    strict = GateSettings(champion="better")
    store_run(store, run_id(4), gate=strict, **world.run_of(world.better))
    monkeypatch.setenv("FMNIST_GATE__CHAMPION", "off")
    monkeypatch.setenv("FMNIST_GATE__MIN_ACCURACY", "0")
    assert call("promote", run_id(2)).code == ExitCode.REJECTED
    rejected = call("promote", run_id(4))
    assert rejected.code == ExitCode.REJECTED and "significantly better" in rejected.last
    passed = call("promote", run_id(4), "--gate.champion", "off")
    assert passed.code == ExitCode.OK


@pytest.mark.usefixtures("store")
def test_force_promotes_with_its_reason(call: Call, machine: Machine) -> None:
    """A forced promotion is one whatever the verdict, and the history keeps both."""
    forced = ("--force", "--reason", "the others are gone")
    output = call("promote", run_id(2), *forced)
    assert output.code == ExitCode.OK
    assert output.last == f"promoted  {run_id(2)}  generation 2  forced: the others are gone"
    move = machine("history", "--limit", "1")["moves"][0]
    assert move["move"] == "forced promotion"
    assert move["reason"].startswith("the others are gone (verdict: test accuracy")


@pytest.mark.usefixtures("store")
def test_the_champion_is_not_promoted_again(machine: Machine) -> None:
    """Promoting the champion changes nothing, asks for no data and is no failure."""
    found = machine("promote", run_id(1), "--data.source", "nowhere")
    assert found["champion"]["generation"] == 1
    assert files_in(Path("store/history")) == set()


@pytest.mark.usefixtures("store")
def test_a_run_of_other_data_is_refused(world: World, call: Call) -> None:
    """A run that was made with other data is promoted only by force; code 4 and nothing changed."""
    before = files_in(Path("store"))
    call("promote", run_id(3), "--data.source", str(world.other_data)).fails(
        ExitCode.DATA, str(world.other_data), str(world.data)
    )
    assert files_in(Path("store")) == before
    forced = ("--force", "--reason", "moved to new data")
    output = call("promote", run_id(3), "--data.source", str(world.other_data), *forced)
    assert output.code == ExitCode.OK


@pytest.mark.parametrize("file", ["model.keras", "report.md", "settings.json"])
def test_a_damaged_run_is_never_promoted(
    store: FolderStore, file: str, world: World, call: Call
) -> None:
    """Whichever file is not what its manifest lists, force or not: code 8, nothing changed."""
    overwrite(store, f"runs/{run_id(3)}/{file}", world.poor.content)
    forced = ("--force", "--reason", "why not")
    for words in ((), forced):
        call("promote", run_id(3), *words).fails(ExitCode.DAMAGED, f"{run_id(3)}/{file}")
    assert champion_of(store) == run_id(1)


def test_a_run_that_is_removed_meanwhile_is_not_promoted(
    store: FolderStore, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune while the model is being scored wins: the promotion is refused."""
    scorer = make_test_set

    def retire_first(*arguments: Any) -> Any:
        retire(store, [run_id(3)], by="test")
        return scorer(*arguments)

    monkeypatch.setattr("fmnist.promotion.stored.make_test_set", retire_first)
    call("promote", run_id(3)).fails(ExitCode.STORE, "was removed by")
    assert champion_of(store) == run_id(1)


def test_a_promotion_decides_again_when_the_champion_moved(
    store: FolderStore, world: World, store_run: Put, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A champion that came while the model was scored is met too, and named in the verdict."""
    gate = GateSettings(min_accuracy=0, champion="not_worse")
    store_run(store, run_id(4), gate=gate, **world.run_of(world.poor))
    assert call("promote", run_id(2), "--force", "--reason", "x").code == 0
    real, moved = promote_run, []

    def overtaken(*arguments: Any, **options: Any) -> Any:
        if not moved:
            moved.append(roll_back(store, None, reason="", by="another"))
        return real(*arguments, **options)

    monkeypatch.setattr("fmnist.promotion.judge.promote_run", overtaken)
    output = call("promote", run_id(4))
    assert output.code == ExitCode.REJECTED
    assert f"against the champion {run_id(1)}:" in output.text
    (kept,) = later_verdicts(store, run_id(4))
    assert kept.generation == 3


def test_promoting_in_a_store_that_is_not_there_makes_none(call: Call) -> None:
    """A mistyped store is told, and no folder of that name is made."""
    call("promote", run_id(1), "--store.url", "typo", *NO_DATA).fails(ExitCode.STORE)
    assert not Path("typo").exists()


def test_a_champion_is_held_and_released(store: FolderStore, call: Call, machine: Machine) -> None:
    """Both are moves with a reason and a person; once more changes nothing, and says so."""
    output = call("hold", "--reason", "it is good")
    assert output.last.startswith(f"ok  {run_id(1)}  generation 2  held until `fmnist release`  ")
    assert "nothing to change" in call("hold").last
    assert call("champion").text.count("yes, until `fmnist release`") == 1
    assert "* the champion (held)" in call("runs").lines
    assert "not held" in call("release").last
    moves = machine("history")["moves"]
    assert [move["move"] for move in moves] == ["release", "hold", "promotion"]
    assert f"{getpass.getuser()}@{platform.node()}" in moves[1]["by"]


def test_what_passes_while_the_champion_is_held_waits(
    store: FolderStore, world: World, store_run: Put, call: Call
) -> None:
    """It is judged and not promoted, with exit code 3; a forced champion is shown as one."""
    store_run(store, run_id(4), **world.run_of(world.better))
    assert call("hold").code == 0
    output = call("promote", run_id(4), "--data.source", str(world.data))
    assert output.code == ExitCode.REJECTED and output.last.startswith(f"held  {run_id(4)}")
    words = ("promote", run_id(4), "--force", "--reason", "now", "--data.source", str(world.data))
    assert call(*words).last.endswith("forced: now  the champion stays held")
    assert "* the champion (forced, held)" in call("runs").lines


def test_rollback_goes_back_step_by_step(
    url: str, store_run: Put, call: Call, machine: Machine
) -> None:
    """To the champion before, then to the one before that, then to none; or to a named one."""
    store = open_store(url)
    for number in (1, 2, 3):
        store_run(store, run_id(number), promote=True)
    store_run(store, run_id(4))
    output = call("rollback")
    where = store.location(f"runs/{run_id(2)}")
    assert (
        output.last
        == f"ok  {run_id(2)}  generation 4  before {run_id(3)}  held until `fmnist release`  {where}"
    )
    found = machine("rollback", "--reason", "again")
    assert found["champion"]["run_id"] == run_id(1) and found["champion"]["reason"] == "again"
    assert "no champion before" in call("rollback").last
    assert call("rollback", run_id(3)).code == 0
    never = call("rollback", run_id(4))
    assert never.code == ExitCode.STORE and "was never the champion" in never.last


def test_rollback_to_a_damaged_run_is_refused(store_run: Put, call: Call) -> None:
    """Every file of the champion to go back to is checked first."""
    store = FolderStore("store")
    for number in (1, 2):
        store_run(store, run_id(number), promote=True)
    overwrite(store, f"runs/{run_id(1)}/model.keras", b"other")
    assert call("rollback").code == ExitCode.DAMAGED
    assert champion_of(store) == run_id(2)


def kept(world: World, number: int, network: Network, **how: Any) -> Path:
    """A run as a job keeps it that could not publish it."""
    folder = finished_folder(Path("work").resolve() / run_id(number))
    sealed(folder, run_id(number), **world.run_of(network), **how)
    return folder


def test_a_kept_run_is_published_and_promoted(
    url: str, world: World, call: Call, machine: Machine
) -> None:
    """The run is stored whole and promoted, and the folder that the job kept is removed."""
    folder = kept(world, 1, world.good)
    names = files_in(folder)
    output = call("publish", str(folder))
    assert output.code == ExitCode.OK
    assert output.last.startswith(f"promoted  {run_id(1)}  generation 1  test accuracy")
    store = open_store(url)
    head, files = read_champion(store)
    assert head.run_id == run_id(1) and head.by.startswith("fmnist publish, ")
    assert set(files) == names
    assert files_in(Path("work")) == set()
    found = machine("publish", str(kept(world, 2, world.better)))
    assert found["folder_removed"] is True and found["champion"]["previous"] == run_id(1)


def test_a_real_finished_run_is_published(world: World, call: Call) -> None:
    """What the job puts together goes through, figures too, and no later run has to repeat it."""
    folder = finished_folder(Path("work").resolve() / run_id(1))
    folder.mkdir(parents=True)
    (folder / "model.keras").write_bytes(world.good.content)
    made = records.run(run_id=run_id(1), folder=folder.parent)
    verdict = decide(world.good.evaluation, GateSettings(), GateContext(IMAGES))
    made = replace(made, evaluation=world.good.evaluation, verdict=verdict, data=world.origin)
    write_run(made, images(0), records.mean_images(), folder)
    assert call("publish", str(folder)).code == ExitCode.OK
    assert files_in(Path("store/runs") / run_id(1)) == records.FILES | {"manifest.json"}
    assert call("verify").last.startswith("ok  1 run, ")
    found = find_by_fingerprint(FolderStore("store"), made.fingerprint)
    assert found and found.run_id == run_id(1) and found.verdict.promoted
    assert found.gate == digest_of_gate(made.settings.gate)


def test_a_kept_run_that_was_rejected_is_stored_as_such(
    world: World, call: Call, machine: Machine
) -> None:
    """A run that its own verdict rejected is stored, not judged again, and nothing is promoted."""
    output = call("publish", str(kept(world, 1, world.poor)), *NO_DATA)
    assert output.code == ExitCode.REJECTED
    assert output.last.startswith(f"rejected  {run_id(1)}  test accuracy")
    store = FolderStore("store")
    assert find_run(store, run_id(1)) and current_champion(store) is None
    assert later_verdicts(store, run_id(1)) == []
    assert files_in(Path("work")) == set()
    assert machine("publish", str(kept(world, 2, world.poor)), *NO_DATA)["kind"] == "rejected"


@pytest.mark.parametrize("network", ["good", "poor"])
def test_a_kept_run_without_a_verdict_is_judged_now(network: str, world: World, call: Call) -> None:
    """Where the store could not be asked when the run was trained, the gate decides now."""
    folder = kept(world, 1, getattr(world, network), undecided=True)
    output = call("publish", str(folder))
    assert output.code == (ExitCode.OK if network == "good" else ExitCode.REJECTED)


def test_a_folder_of_somebodys_own_is_left(world: World, call: Call) -> None:
    """A folder outside the work folder stays as it is, and the last line says so."""
    folder = kept(world, 1, world.good)
    before = files_in(folder)
    output = call("publish", str(folder), "--store.work", "elsewhere")
    assert output.code == ExitCode.OK
    assert output.last.endswith(f"  {folder} is left as it is")
    assert files_in(folder) == before


def test_publishing_again_does_not_bring_an_old_champion_back(world: World, call: Call) -> None:
    """A run that was promoted and replaced since is not promoted by publishing it once more."""
    folder = kept(world, 1, world.good)
    words = ("--store.work", "elsewhere")
    assert call("publish", str(folder), *words).code == 0
    assert call("publish", str(kept(world, 2, world.better)), *words).code == 0
    output = call("publish", str(folder), *words)
    assert output.code == 0 and "was promoted already" in output.last
    assert champion_of(FolderStore("store")) == run_id(2)


def test_a_promotion_that_fails_keeps_the_folder(world: World, call: Call) -> None:
    """Nothing is removed before the whole publication has succeeded."""
    folder = kept(world, 1, world.good)
    before = files_in(folder)
    call("publish", str(folder), "--data.source", str(world.other_data)).fails(ExitCode.DATA)
    assert files_in(folder) == before


def test_a_folder_that_is_no_run_is_not_published(tmp_path: Path, world: World, call: Call) -> None:
    """No manifest is code 2, a damaged file code 8; nothing is stored either time."""
    (tmp_path / "some").mkdir()
    for place in (tmp_path / "some", tmp_path / "nowhere"):
        output = call("publish", str(place), *NO_DATA)
        output.fails(ExitCode.SETTINGS, f"{place} is not a finished run")
    folder = kept(world, 1, world.good)
    (folder / "model.keras").write_bytes(b"other")
    call("publish", str(folder), *NO_DATA).fails(ExitCode.DAMAGED, "nothing is published")
    (folder / "manifest.json").write_bytes(b"{}")
    assert call("publish", str(folder), *NO_DATA).code == ExitCode.DAMAGED
    assert not [name for name in files_in(Path("store")) if not name.startswith(".")]


def test_a_forced_promotion_whose_answer_was_lost_is_told_as_made(
    store: FolderStore, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another run is the champion by now, it was promoted, in the generation told."""
    swap = FolderStore.compare_and_swap

    def lose_the_answer(self: FolderStore, key: str, version: str | None, content: bytes) -> None:
        swap(self, key, version, content)
        if key == keys.CHAMPION:
            monkeypatch.setattr(FolderStore, "compare_and_swap", swap)
            roll_back(store, run_id(1), reason="", by="another")
            raise Conflict("the retried request was refused")

    monkeypatch.setattr(FolderStore, "compare_and_swap", lose_the_answer)
    output = call("promote", run_id(2), "--force", "--reason", "I want it")
    assert output.code == 0
    assert output.last.startswith(f"promoted  {run_id(2)}  generation 2  forced: I want it")
    champion = current_champion(store)
    assert champion and (champion.run_id, champion.generation) == (run_id(1), 3)
