"""What Prefect is told of a person's move."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from fmnist.orchestration import events
from fmnist.orchestration.events import announce_move
from tests.support import records
from tests.support.doctor import own_places  # noqa: F401
from tests.support.mirrors import closed_port
from tests.support.tiny_s3 import Handler, serving

MOVE = replace(
    records.champion("one"),
    move="forced promotion",
    reason="it is good",
    by="fmnist promote, me@pc",
)


class Events(Handler):
    """A Prefect API that takes events, or answers with another status after some time."""

    status = 204
    seconds = 0.0
    posted: ClassVar[list[tuple[str, bytes]]] = []

    def answer(self, body: bytes) -> None:
        time.sleep(self.seconds)
        with contextlib.suppress(ConnectionError):
            if self.command == "GET":
                self.send(404)  # A server without tokens against CSRF.
            else:
                self.posted.append((f"{self.command} {self.path}", body))
                self.send(self.status)


@contextlib.contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, address: str) -> Iterator[None]:
    """This process as one that was started with that server's address."""
    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}):
        yield


def test_a_move_is_told_with_what_was_done_by_whom_and_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One event, named after the move, about the run: what an automation can match and post."""
    monkeypatch.setattr(Events, "posted", [])
    with serving(Events) as address, configured(monkeypatch, f"{address}/api"):
        announce_move(MOVE, "s3://models/runs/one")
    ((request, body),) = Events.posted
    (event,) = json.loads(body)
    assert request == "POST /api/events"
    assert event["event"] == "fmnist.champion.forced-promotion"
    assert event["resource"]["prefect.resource.id"] == "fmnist.run.one"
    assert event["payload"] == {
        "run_id": "one",
        "previous": MOVE.previous,
        "generation": MOVE.generation,
        "accuracy": MOVE.accuracy,
        "held": False,
        "reason": "it is good",
        "by": "fmnist promote, me@pc",
        "report": "s3://models/runs/one/report.md",
    }
    assert caplog.messages == []


def test_without_a_server_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No temporary server is started for it."""
    monkeypatch.setattr(events, "get_client", lambda **_: pytest.fail("a server was asked"))
    announce_move(MOVE, "store/runs/one")
    assert caplog.messages == []


@pytest.mark.parametrize("fault", ["dead", "broken", "silent"])
def test_a_server_that_cannot_be_told_is_one_warning(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The move is made all the same: one line, soon, without the login in the address."""
    monkeypatch.setattr(events, "_LONGEST_WAIT", 0.5)
    status, seconds = (500 if fault == "broken" else 204), (2.0 if fault == "silent" else 0.0)
    with serving(type("Faulty", (Events,), {"status": status, "seconds": seconds})) as address:
        place = closed_port() if fault == "dead" else address
        place = place.replace("//", "//me:hush-hush@")
        start = time.monotonic()
        with configured(monkeypatch, f"{place}/api"):
            announce_move(MOVE, "store/runs/one")
        assert time.monotonic() - start < 30
    (warning,) = caplog.messages
    assert "the move was made, but Prefect was not told of it (" in warning
    assert "\n" not in warning and "hush-hush" not in warning
