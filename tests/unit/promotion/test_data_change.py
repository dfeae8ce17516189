"""A run's data beside its champion's: what is compared, and what is only said."""

import json
import logging
from dataclasses import replace

import pytest

from fmnist.data.records import (
    OFFICIAL_SHA256,
    TRAIN_IMAGES,
    DataChange,
    DataOrigin,
    DataRecord,
    DataStatistics,
)
from fmnist.data.statistics import compare_statistics
from fmnist.promotion.data_change import compare_data
from fmnist.registry import keys
from fmnist.registry.records import from_json, to_json
from fmnist.settings import DataSettings
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.registry import champion_of, overwrite, put, run_id

ORIGIN = DataOrigin("mirrors", official=True, sha256=OFFICIAL_SHA256)
OTHER = replace(ORIGIN, official=False, sha256={**OFFICIAL_SHA256, TRAIN_IMAGES: "ab" * 32})
BRIGHTER = records.statistics(brightness=90)


def kept(origin: DataOrigin, statistics: DataStatistics | None) -> bytes:
    """The `data.json` of a run."""
    return to_json(DataRecord(**vars(origin), statistics=statistics))


def against(data: bytes | None, settings: DataSettings | None = None) -> DataChange | None:
    """What is said of brighter data against those of a champion with this `data.json`."""
    store = MemoryStore()
    put(store, 1, promoted=True, files={keys.DATA: data} if data is not None else {})
    champion = champion_of(store)
    return compare_data(store, champion, OTHER, BRIGHTER, settings or DataSettings())


def test_the_statistics_of_both_data_sets_are_compared() -> None:
    found = against(kept(ORIGIN, records.statistics()))
    assert found == DataChange(run_id(1), compare_statistics(records.statistics(), BRIGHTER))


def test_without_a_champion_there_is_nothing_to_compare() -> None:
    assert compare_data(MemoryStore(), None, ORIGIN, BRIGHTER, DataSettings()) is None


RENAMED = records.statistics(class_names=[*records.CLASS_NAMES[:9], "Boot"])
DAMAGED = json.loads(kept(ORIGIN, records.statistics()))
DAMAGED["statistics"]["brightness"] = [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (kept(OTHER, records.statistics()), "they are the very same files"),
        (kept(ORIGIN, None), "that run kept no statistics of its data"),
        (to_json(ORIGIN), "that run kept no statistics of its data"),
        (kept(ORIGIN, RENAMED), "its classes have other names"),
        (json.dumps(DAMAGED).encode(), "data.json cannot be read: statistics"),
        (b"not JSON", "data.json cannot be read"),
        (None, "data.json is not listed in the run's manifest.json"),
    ],
    ids=["same", "unknown", "older", "other names", "damaged statistics", "damaged", "missing"],
)
def test_what_cannot_be_compared_is_one_plain_sentence(data: bytes | None, reason: str) -> None:
    """Nothing is tested, and nothing fails."""
    found = against(data)
    assert found and found.champion == run_id(1)
    assert not found.sets and reason in found.reason


def test_a_champion_that_has_gone_is_one_plain_sentence() -> None:
    store = MemoryStore()
    put(store, 1, promoted=True)
    champion = champion_of(store)
    overwrite(store, keys.of_run(run_id(1), keys.MANIFEST), None)
    found = compare_data(store, champion, OTHER, BRIGHTER, DataSettings())
    assert found and "is missing, although the run was promoted" in found.reason


def test_a_notable_change_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It names the champion and everything that is notable."""
    with caplog.at_level(logging.INFO, "fmnist"):
        against(kept(ORIGIN, records.statistics((3_000, *(6_333,) * 9))), DataSettings())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert message.startswith(f"the data differ from those of the champion {run_id(1)}: bright")
    assert "; brightness of the test images" in message and "\n" not in message


def test_a_change_that_is_not_notable_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fmnist"):
        against(kept(ORIGIN, records.statistics()), DataSettings(notable_brightness_change=0.9))
    assert not caplog.records


def test_a_record_of_data_is_still_an_origin() -> None:
    """What only asks where data come from reads what it did, and the statistics read back."""
    change = DataChange("a", compare_statistics(records.statistics(), BRIGHTER))
    record = DataRecord(**vars(ORIGIN), statistics=BRIGHTER, change=change)
    assert from_json(DataOrigin, to_json(record), "here") == ORIGIN
    assert from_json(DataRecord, to_json(record), "here") == record
