"""Recognising that a training would repeat an earlier one."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fmnist import environment as environment_module
from fmnist.configure import all_settings, load_named_settings
from fmnist.data.records import FILES, DataOrigin
from fmnist.environment import _digest_of_source, describe_environment
from fmnist.errors import StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.promotion.stored import GateRequest, Promotion, remember
from fmnist.promotion.unchanged import find_unchanged, fingerprint_of
from fmnist.registry import keys
from fmnist.registry.records import RetiredError, UnknownRunError
from fmnist.settings import GateSettings, Settings
from fmnist.store.base import Store
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.registry import once, put, run_id

SAME = "5a" * 32
RUN = records.run()
SAME_MODEL = {"training.when": "changed", "data.source": "elsewhere", "store.url": "another"}
# One value for each setting that determines the model, other than its default.
OTHER_MODEL = {
    "data.class_names": "a,b,c",
    "split.validation": "0.1",
    "split.seed": "1",
    "model.hidden": "1,2,3",
    "model.dropout": "0,0,0",
    "model.leaky_slope": "0.2",
    "training.epochs": "3",
    "training.batch_size": "64",
    "training.learning_rate": "0.1",
    "training.warmup_fraction": "0.2",
    "training.weight_decay": "0",
    "training.shift_fraction": "0",
    "training.max_erase_size": "0",
    "training.patience": "3",
    "training.seed": "1",
    "training.deterministic": "false",
    "training.precision": "bfloat16",
}


def fingerprint(changes: Mapping[str, str] = {}, **others: object) -> str:
    run = replace(RUN, settings=load_named_settings(dict(changes)), **others)
    return fingerprint_of(run.settings, run.data, run.environment)


@pytest.mark.parametrize(("name", "value"), OTHER_MODEL.items())
def test_a_setting_that_determines_the_model_changes_the_fingerprint(name: str, value: str) -> None:
    assert fingerprint({name: value}) != fingerprint()


def test_no_setting_of_the_network_the_split_or_the_training_is_forgotten() -> None:
    determining = {
        setting.name
        for setting in all_settings()
        if setting.name.partition(".")[0] in ("split", "model", "training")
    }
    assert determining - {"training.when"} == OTHER_MODEL.keys() - {"data.class_names"}


@pytest.mark.parametrize(
    ("name", "value"), [*SAME_MODEL.items(), ("gate.min_accuracy", "0.95"), ("data.timeout", "1")]
)
def test_other_settings_do_not_change_it(name: str, value: str) -> None:
    """Where data and runs are, and what the gate requires, makes no other model."""
    assert fingerprint({name: value}) == fingerprint()


@pytest.mark.parametrize("name", FILES)
def test_other_data_change_it(name: str) -> None:
    digests = {**RUN.data.sha256, name: "00" * 32}
    assert fingerprint(data=DataOrigin("mirrors", False, digests)) != fingerprint()


@pytest.mark.parametrize("package", ["tensorflow", "keras", "numpy"])
def test_another_version_of_what_computes_changes_it(package: str) -> None:
    versions = {**RUN.environment.packages, package: "99"}
    found = fingerprint(environment=replace(RUN.environment, packages=versions))
    assert found != fingerprint()


def test_other_packages_machines_and_commits_do_not_change_it() -> None:
    """A commit may change no more than the README; the source has a digest of its own."""
    versions = {**RUN.environment.packages, "prefect": "99"}
    other = replace(RUN.environment, packages=versions, commit="00" * 20, processor="another")
    assert fingerprint(environment=other) == fingerprint()
    assert fingerprint(environment=replace(other, source="1" * 64)) != fingerprint()


def test_the_source_is_every_python_file_of_the_package_by_name_and_content(tmp_path: Path) -> None:
    package = Path(environment_module.__file__).parent
    assert describe_environment().source == _digest_of_source(package)
    shutil.copytree(package, tmp_path / "fmnist", ignore=shutil.ignore_patterns("__pycache__"))
    copy = tmp_path / "fmnist"
    assert _digest_of_source(copy) == _digest_of_source(package)
    network = copy / "training" / "network.py"
    content = network.read_text()
    network.write_text(content.replace("a", "b", 1))  # as long as before
    assert _digest_of_source(copy) != _digest_of_source(package)
    network.write_text(content)
    network.rename(network.with_name("net.py"))
    assert _digest_of_source(copy) != _digest_of_source(package)


def store_with_run(gate: GateSettings) -> MemoryStore:
    store = MemoryStore()
    put(store, 1, fingerprint=SAME)
    remember(store, SAME, run_id(1), 0.91, gate, Verdict(False, reason="not good enough"))
    return store


def test_the_earlier_run_and_its_latest_verdict_are_found_without_a_write() -> None:
    store = store_with_run(Settings().gate)
    store.writes.clear()
    found = find_unchanged(store, records.RUN_ID, Settings(), SAME, by="tests")
    assert found and (found.earlier, found.accuracy) == (run_id(1), 0.91)
    assert found.verdict.reason == "not good enough" and not found.judged_again
    assert found.reason == f"unchanged: same data, settings, code and versions as {run_id(1)}"
    assert not store.writes


def test_a_changed_gate_judges_the_earlier_run_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new verdict is kept for the next run of the same gate."""
    store, asked = store_with_run(GateSettings(min_accuracy=0.95)), []

    def judge(_: Store, run: str, request: GateRequest) -> Promotion:
        asked.append((run, request.gate_overrides["min_accuracy"]))
        return Promotion(run, None, None, Verdict(True, reason="fine"), None, "fine")

    monkeypatch.setattr("fmnist.promotion.unchanged.promote_stored_run", judge)
    for again in (True, False):
        found = find_unchanged(store, records.RUN_ID, Settings(), SAME, by="tests")
        assert found and found.judged_again is again and found.verdict.reason == "fine"
    assert asked == [(run_id(1), 0.9)]


@pytest.mark.parametrize("error", [RetiredError, UnknownRunError])
def test_a_run_that_is_pruned_while_it_is_judged_again_is_trained_again(
    error: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Promotion:
        raise error("it was removed")

    store = store_with_run(GateSettings(min_accuracy=0.95))
    monkeypatch.setattr("fmnist.promotion.unchanged.promote_stored_run", gone)
    assert find_unchanged(store, records.RUN_ID, Settings(), SAME, by="tests") is None


def test_without_such_a_run_there_is_something_to_train() -> None:
    assert find_unchanged(MemoryStore(), records.RUN_ID, Settings(), SAME, by="tests") is None


def test_a_fingerprint_that_cannot_be_recorded_does_not_fail_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run is published by then: the next one trains once too often."""
    store = MemoryStore()

    def fail() -> None:
        raise StoreError("the store is gone")

    once(store, "before", "compare_and_swap", keys.of_fingerprint(SAME), fail)
    remember(store, SAME, run_id(1), 0.91, GateSettings(), Verdict(True))
    assert "so the next run will train: the store is gone" in caplog.text
