"""Records as JSON, keys and run ids."""

import json
import re
import time
from datetime import timedelta, timezone
from typing import Any

import pytest

from fmnist.errors import DamagedError, ExitCode, without_credentials
from fmnist.evaluation.gate import Verdict, undecided
from fmnist.registry.records import (
    FORMAT,
    ChampionRecord,
    FileEntry,
    Manifest,
    RecordedClasses,
    RecordedFigures,
    TestSetUsage,
    checked_run_id,
    from_json,
    new_run_id,
    to_json,
)
from tests.support import records
from tests.support.registry import BY, NOW, edited, refused, without


@pytest.mark.parametrize("typed", ["https:/user:SECRET@host", "user:SECRET@host"])
def test_a_mistyped_address_is_not_repeated_with_its_secret(typed: str) -> None:
    """Neither where it was typed nor in a message that quotes it."""
    message = refused(lambda: checked_run_id(typed), ExitCode.SETTINGS, "host")
    assert "SECRET" not in message
    assert "SECRET" not in without_credentials("cannot read https:/user:SECRET@host/x")


def test_run_ids_sort_by_time_and_do_not_collide_within_a_second() -> None:
    ids = [new_run_id(moment) for moment in records.moments(20)]
    assert ids == sorted(ids)
    assert len({new_run_id(NOW) for _ in range(1000)}) == 1000


def test_a_run_id_is_utc_time_and_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is the start in UTC, whatever the zone of the clock, and eight random digits."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    local = NOW.astimezone(timezone(timedelta(hours=-7)))
    for moment in (NOW, local):
        assert re.fullmatch(r"20260314T092653Z-[0-9a-f]{8}", new_run_id(moment))
    monkeypatch.undo()
    time.tzset()


RUN_IDS = {
    "parent": "../x",
    "only the parent": "..",
    "this folder": ".",
    "absolute": "/etc/passwd",
    "with a slash": "a/b",
    "with a slash at the end": "a/",
    "with a backslash": "..\\x",
    "with a drive": "C:x",
    "with NUL": "a\x00b",
    "with a line break": "a\n",
    "empty": "",
    "blank": " ",
    "very long": "a" * 101,
    "with a leading dot": ".hidden",
    "with a leading dash": "--help",
    "unicode": "r\u00fcn",
    "unicode digits": "\u0661\u0662",
    "a look-alike slash": "a\u2044b",
    "escaped": "%2e%2e%2fx",
}


@pytest.mark.parametrize("run_id", RUN_IDS.values(), ids=RUN_IDS.keys())
def test_an_entered_run_id_cannot_climb_out(run_id: str) -> None:
    """Anything else than a run id is refused as a wrong argument."""
    refused(lambda: checked_run_id(run_id), ExitCode.SETTINGS, "is not a run id", "`fmnist runs`")


@pytest.mark.parametrize(
    "record",
    [
        records.champion(),
        ChampionRecord(
            FORMAT, "b", "0" * 64, 0.91, NOW, "a", 7, "c", "rollback", "it fell", BY, ("d", "e")
        ),
        TestSetUsage(FORMAT, 3, ("a", "b")),
        undecided("the store was away", 3),
        Manifest(FORMAT, "a", NOW, {"model.keras": FileEntry(3, "0" * 64)}),
        records.evaluation(),
        records.comparison(),
        records.training_result(epochs=2, best_epoch=1),
        records.run().verdict,
        records.run().environment,
        records.run().data,
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_survive_being_written_and_read(record: Any) -> None:
    """So do those that a later version wrote: a field that is not known is ignored."""
    content = to_json(record)
    assert content.endswith(b"}\n")
    assert from_json(type(record), content, "here") == record
    assert from_json(type(record), edited(content, added=1), "here") == record


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"not JSON", "its content"),
        (b'{"format": 9}', "format"),
        (b'{"format": 2, "run_id": "a", "created_at": "2026-03-14T00:00:00Z", '
         b'"files": {"a": {"size": -1, "sha256": "ab"}}}', "files.a.size"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_record_is_named_by_its_place(content: bytes, place: str) -> None:
    """A person finds in the message where in the file the fault is."""
    with pytest.raises(DamagedError, match=f"here cannot be read: {place}: "):
        from_json(Manifest, content, "here")


# ---- records of other versions ------------------------------------------------------------------

REQUIRED = {
    Verdict: {"promoted": True},
    RecordedFigures: {"accuracy": 0.9, "interval": {"low": 0.89, "high": 0.91}},
    RecordedClasses: {"classes": [{"name": "Coat"}, {"name": "Bag"}]},
}


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_a_record_is_read_from_what_it_must_have(kind: type[Any]) -> None:
    """Everything else may be missing, so that records of other versions can be read."""
    content = json.dumps(REQUIRED[kind]).encode()
    assert from_json(kind, content, "here") == from_json(kind, edited(content, new=[1]), "here")
    for field in REQUIRED[kind]:
        with pytest.raises(DamagedError, match=f"here cannot be read: {field}: Field required"):
            from_json(kind, without(field)(content), "here")


def test_class_names_are_read_from_a_complete_evaluation() -> None:
    """A comparison finds them among figures that it does not need."""
    content = to_json(records.evaluation())
    assert from_json(RecordedClasses, content, "here").names == records.CLASS_NAMES


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_date_that_utc_does_not_have_is_damage(date: str) -> None:
    """Whoever showed it would fail."""
    content = edited(to_json(records.champion("one")), moved_at=date)
    refused(
        lambda: from_json(ChampionRecord, content, "champion.json"), ExitCode.DAMAGED, "moved_at"
    )
