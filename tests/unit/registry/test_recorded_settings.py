"""The settings that a stored run was made with, as this version reads them."""

import json
from typing import Any

import pytest

from fmnist.errors import ExitCode
from fmnist.registry import keys
from fmnist.registry.recorded_settings import recorded_changes, recorded_section
from fmnist.settings import GateSettings
from tests.support.memory import MemoryStore
from tests.support.registry import put, refused


def test_a_setting_of_another_version_hinders_nothing() -> None:
    """One that was added since has its default; one that no longer exists is ignored."""
    store = MemoryStore()
    content = json.dumps({"gate": {"min_accuracy": 0.7, "gone": 1}, "top": 5}).encode()
    run = put(store, "one", files={keys.SETTINGS: content})
    assert recorded_section(store, run, "gate", GateSettings) == GateSettings(min_accuracy=0.7)


def test_only_what_differs_from_the_defaults_is_listed_by_its_present_name() -> None:
    """Renamed settings have their new names, and those that no longer exist their old ones."""
    store = MemoryStore()
    training = {"warmup": 0.2, "shifted": 0.1, "erased": 3, "seed": 0, "gone": 1}
    run = put(store, "one", files={keys.SETTINGS: json.dumps({"training": training}).encode()})
    assert recorded_changes(store, run) == {
        "training.warmup_fraction": 0.2,
        "training.shift_fraction": 0.1,
        "training.max_erase_size": 3,
        "training.gone": 1,
    }


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"gate": 3}, "gate: Input should be"),
        ({"gate": None}, "gate: Input should be"),
        ({"gate": {"min_accuracy": 7}}, "less than or equal to 1"),
        ([], "its content"),
    ],
)
def test_a_damaged_gate_is_not_replaced_by_the_default(recorded: Any, told: str) -> None:
    """A run whose settings make no sense is damaged, rather than judged by another gate."""
    store = MemoryStore()
    run = put(store, "one", files={keys.SETTINGS: json.dumps(recorded).encode()})
    refused(
        lambda: recorded_section(store, run, "gate", GateSettings),
        ExitCode.DAMAGED,
        "runs/one/settings.json cannot be read",
        told,
    )
