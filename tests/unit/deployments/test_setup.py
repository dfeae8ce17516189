"""The automations, and what setup.py does when it cannot reach the server."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments import setup
from tests.support.processes import free_port


def test_the_automations_are_valid() -> None:
    """Prefect understands each of them, once the webhook's block is filled in."""
    for declared in setup.declared_automations(26):
        for action in declared["actions"]:
            if "webhook" in action:
                assert action.pop("webhook") in setup.WEBHOOKS
                action["block_document_id"] = "00000000-0000-0000-0000-000000000001"
        assert AutomationCore.model_validate(declared).name == declared["name"]


def of_runs() -> list[dict[str, Any]]:
    """The automations that react to runs, and not to what a person does to the champion."""
    everything = setup.declared_automations(26)
    return [each for each in everything if each["trigger"]["expect"] != ["fmnist.champion.*"]]


def test_runs_of_other_flows_are_left_alone() -> None:
    """They may send fewer heartbeats, and their alerts are their own."""
    for declared in of_runs():
        related = declared["trigger"]["match_related"]
        related = related if isinstance(related, list) else [related]
        names = [each.get("prefect.resource.name") for each in related]
        assert "fashion-mnist" in names


def test_alerts_are_for_runs_of_a_deployment() -> None:
    """A person who starts an ad hoc run sees how it ends."""
    for declared in of_runs():
        if any("webhook" in action for action in declared["actions"]):
            related = declared["trigger"]["match_related"]
            assert {"prefect.resource.role": "deployment"} in related


def test_people_are_told_of_every_verdict_and_every_move() -> None:
    """A run that had nothing new to train is no news."""
    told = {
        event
        for declared in setup.declared_automations(26)
        if any("webhook" in action for action in declared["actions"])
        for event in declared["trigger"]["expect"]
    }
    verdicts = {f"fmnist.run.{word}" for word in ("promoted", "rejected", "held", "failed")}
    assert {event for event in told if event.startswith("fmnist.run.")} == verdicts
    assert {"fmnist.champion.*", "prefect.flow-run.Crashed"} <= told


def test_no_run_that_ended_is_taken_for_crashed() -> None:
    """Whatever happens to a run after its last heartbeat shows that it is not lost."""
    for declared in setup.declared_automations(26)[:2]:
        assert declared["trigger"]["expect"] == ["prefect.flow-run.*"]


def test_every_alert_is_posted_in_both_forms_as_one_line() -> None:
    """Many receivers read a line at a time; Slack takes nothing but a `text`."""
    for declared in setup.declared_automations(26):
        posts = {a["webhook"]: a["body"] for a in declared["actions"] if "webhook" in a}
        assert not posts or posts.keys() == setup.WEBHOOKS.keys()
        assert not any("\n" in body for body in posts.values())
        assert posts.get("ALERT_SLACK_URL", '{"text": ').startswith('{"text": ')


@pytest.mark.parametrize(("hours", "seconds"), [(26, 93_600), (0.01, 36)])
def test_the_silence_before_an_alert_can_be_set(hours: float, seconds: float) -> None:
    """In hours, for schedules other than nightly."""
    silence = setup.declared_automations(hours)[-1]
    assert float(silence["trigger"]["within"]) == seconds
    assert f"for {hours} hours" in silence["actions"][0]["body"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({}, "connect"), ({"ALERT_SILENCE_HOURS": "a day"}, "a day")],
    ids=["no server", "a bad number"],
)
def test_a_server_that_cannot_be_set_up_is_named(
    environment: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says which server and why, and the exit code is 1."""
    address = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert setup.main(environment) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"setup: the Prefect server at {address} was not set up: ")
    assert reason in said.lower() and len(said.splitlines()) == 1


def test_alerts_at_the_same_time_do_not_disturb_each_other() -> None:
    """A quick address and a slow one both get their whole alert, as JSON, character for character."""
    texts = {"/quick": '{"reason": "é {{ body }}"}', "/slow": '{"text": "\\n"}'}
    received: dict[str, tuple[str | None, str]] = {}
    quick_is_done = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/slow":
                quick_is_done.wait(30)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received[self.path] = (self.headers["Content-Type"], body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    async def post(path: str) -> None:
        address = f"http://127.0.0.1:{server.server_port}{path}"
        await setup.alert_block("alerts", address).notify(texts[path], "a subject")
        if path == "/quick":
            quick_is_done.set()

    async def post_all() -> None:
        await asyncio.gather(post("/slow"), post("/quick"))

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(post_all())
        server.shutdown()
    assert received == {path: ("application/json", text) for path, text in texts.items()}
