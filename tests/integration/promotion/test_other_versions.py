"""Stores that other versions have written: everything can be read, judged and replaced.

`tests/support/earlier_store` was written by the version before the package had folders: two runs of
a small network on the real data, both promoted.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fmnist import load_champion
from fmnist.cli.app import main
from fmnist.data.records import DataOrigin, DataRecord
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.records import Comparison, Evaluation
from fmnist.registry import keys
from fmnist.registry.recorded_settings import recorded_changes, recorded_section
from fmnist.registry.records import RecordedFigures
from fmnist.registry.runs import read_record, read_run, seal_run, upload_run
from fmnist.settings import GateSettings
from fmnist.store.folder import FolderStore
from tests.support.registry import NOW, champion_of, champions, edited, without

EARLIER = Path(__file__).parents[2] / "support" / "earlier_store"
FIRST, SECOND = "20261125T022730Z-a1f1dd27", "20261125T022752Z-c2e9cc66"
THIRD, FOURTH = "20270101T000000Z-00000003", "20270102T000000Z-00000004"
Call = Callable[..., str]
Changes = dict[str, Callable[[bytes], bytes]]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A copy of the earlier store, written long ago."""
    folder = Path(shutil.copytree(EARLIER, tmp_path / "store"))
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return FolderStore(str(folder))


@pytest.fixture
def call(
    store: FolderStore,
    data_source: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """Runs a command on the store, which must succeed; returns what it printed."""
    monkeypatch.setenv("FMNIST_STORE__URL", store.url)
    monkeypatch.setenv("FMNIST_DATA__SOURCE", data_source)

    def run(*words: str) -> str:
        code = main(words)
        printed = capsys.readouterr().out
        assert code == 0, printed
        return printed

    return run


def put_like_second(store: FolderStore, run_id: str, changes: Changes | None = None) -> None:
    """Store the run `SECOND` again under another id, with some files changed."""
    folder = Path(shutil.copytree(EARLIER / keys.RUNS / SECOND, Path(store.url).parent / run_id))
    (folder / keys.MANIFEST).unlink()
    for name, change in (changes or {}).items():
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    seal_run(folder, run_id, NOW)
    upload_run(store, folder)


# ---- the version before -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["runs"], [FIRST, SECOND, "0.7059", "promoted", "* the champion"]),
        (["show", FIRST], [FIRST, "0.7059", "10,000 images", "promoted: test accuracy"]),
        (["show", SECOND], [f"against the champion {FIRST}", "training.shift_fraction 0.25"]),
        (["champion"], [SECOND, "0.7059", "by promotion", f"rollback leads to  {FIRST}"]),
        (["history"], [f"none -> {FIRST}", f"{FIRST} -> {SECOND}"]),
        (["verify"], ["2 runs", "0 leftovers"]),
        (["prune", "--keep", "1", "--delete"], ["0 runs, 0 leftovers"]),
    ],
    ids=lambda words: words[0],
)
def test_every_command_reads_an_earlier_store(
    command: list[str], parts: list[str], call: Call
) -> None:
    """What that version recorded is shown as it was then."""
    printed = call(*command)
    assert not [part for part in parts if part not in printed], printed


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (keys.EVALUATION, Evaluation),
        (keys.EVALUATION, RecordedFigures),
        (keys.VERDICT, Verdict),
        (keys.COMPARISON, Comparison),
        (keys.DATA, DataOrigin),
        (keys.DATA, DataRecord),
    ],
)
def test_earlier_records_are_complete_ones_today(
    name: str, kind: type[Any], store: FolderStore
) -> None:
    """A field that is added to a record has a default, or this store could not be read."""
    assert read_record(store, read_run(store, SECOND), name, kind)


def test_earlier_settings_have_their_present_names(store: FolderStore) -> None:
    """Renamed settings are listed under the name by which they can be set today."""
    run = read_run(store, SECOND)
    changes = recorded_changes(store, run)
    assert changes["training.shift_fraction"] == 0.25
    recorded = read_record(store, run, keys.SETTINGS, dict[str, dict[str, Any]])["training"]
    assert {"warmup", "shifted", "erased"} <= recorded.keys()
    assert not {f"training.{name}" for name in ("warmup", "shifted", "erased")} & changes.keys()
    expected = GateSettings(min_accuracy=0.3, champion="not_worse")
    assert recorded_section(store, run, "gate", GateSettings) == expected


def test_an_earlier_champion_is_rolled_back_and_judged_again(
    store: FolderStore, call: Call
) -> None:
    """The one before it is the champion again, which it is then compared with."""
    call("rollback", "--no-hold")
    assert champions(store) == [FIRST, SECOND, FIRST]
    printed = call("promote", SECOND, "--gate.champion", "not_worse")
    assert f"against the champion {FIRST}" in printed and "not significantly worse" in printed
    assert champions(store) == [SECOND, FIRST, SECOND, FIRST]


def test_an_earlier_champion_is_loaded_in_one_line(store: FolderStore) -> None:
    """Its model is a network that can predict."""
    assert load_champion(store.url).output_shape == (None, 10)


def test_an_earlier_champion_is_replaced_and_pruned(store: FolderStore, call: Call) -> None:
    """Two promotions later the first run is removed, and the store is still sound."""
    for run_id in (THIRD, FOURTH):
        put_like_second(store, run_id)
        call("promote", run_id)
    assert champions(store)[:2] == [FOURTH, THIRD]
    assert FIRST in call("prune", "--keep", "1", "--delete")
    call("verify")
    current = champion_of(store)
    assert FIRST in current.retired and current.generation == 5


# ---- versions to come ---------------------------------------------------------------------------


def only(*names: str) -> Callable[[bytes], bytes]:
    """What leaves nothing but these fields of a record."""
    return lambda content: json.dumps(
        {name: value for name, value in json.loads(content).items() if name in names}
    ).encode()


OTHERS: dict[str, Changes] = {
    "a field less": {keys.EVALUATION: without("calibration_error"), keys.VERDICT: without("notes")},
    "a field more": {
        keys.EVALUATION: lambda old: edited(old, top_2_accuracy=0.97),
        keys.VERDICT: lambda old: edited(old, approved_by="somebody"),
        keys.DATA: lambda old: edited(old, licence="MIT"),
        keys.COMPARISON: lambda old: edited(old, kappa=0.9),
    },
    "what is needed": {
        keys.EVALUATION: only("accuracy", "interval", "classes"),
        keys.VERDICT: only("promoted"),
    },
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_records_of_another_version_hinder_nothing(
    changes: Changes, store: FolderStore, call: Call
) -> None:
    """Such a run is promoted, shown, verified, met as the champion, and rolled back to."""
    put_like_second(store, THIRD, changes)
    call("promote", THIRD)
    assert f"{THIRD}" in call("runs") and "damaged" not in call("runs")
    assert "0.7059" in call("show", THIRD)
    assert "0.7059" in call("champion")
    call("verify")
    put_like_second(store, FOURTH)
    assert "not significantly worse" in call("promote", FOURTH)
    call("rollback")
    assert champions(store) == [THIRD, FOURTH, THIRD, SECOND, FIRST]


def test_a_shown_record_is_passed_on_as_it_is(store: FolderStore, call: Call) -> None:
    """With --json a program gets the figures that this version does not know, too."""
    put_like_second(store, THIRD, OTHERS["a field more"])
    document = json.loads(call("show", THIRD, "--json"))
    assert document["evaluation"]["top_2_accuracy"] == 0.97
