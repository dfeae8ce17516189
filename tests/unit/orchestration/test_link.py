"""How long a run waits for its Prefect server, and what it does not end for."""

import time
from uuid import uuid4

import httpx
import pytest
from prefect.client import base
from prefect.client.orchestration import get_client
from prefect.concurrency import _leases
from prefect.settings import PREFECT_API_URL, temporary_settings

from fmnist.orchestration.link import bound_waits
from tests.support.mirrors import closed_port
from tests.support.tiny_s3 import Handler, serving


class Busy(Handler):
    """A server, or what stands before it, that sends every request away for an hour."""

    status = 503

    def answer(self, body: bytes) -> None:
        self.send(self.status, Retry_After="3600")


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client as a run prepares it, and later as it was."""
    for module, name in ((base, "_parse_retry_after"), (_leases, "_handle_lease_renewal_failure")):
        monkeypatch.setattr(module, name, getattr(module, name))
    bound_waits()


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_an_hour_is_given_up_after_seconds(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says, the next tries come soon, and the last one fails."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(Busy, "status", status)
    with (
        serving(Busy) as address,
        temporary_settings({PREFECT_API_URL: f"{address}/api"}),
        get_client(sync_client=True) as client,
        pytest.raises(httpx.HTTPStatusError),
    ):
        client.hello()
    assert pauses and max(pauses) < 60


def test_a_run_goes_on_when_its_deployments_slot_cannot_be_renewed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect would cancel it, while the store lets two runs at once do no harm."""
    monkeypatch.setattr(_leases, "_RENEWAL_MAX_ATTEMPTS", 1)
    with (
        temporary_settings({PREFECT_API_URL: f"{closed_port()}/api"}),
        _leases.maintain_concurrency_lease(uuid4(), 300, raise_on_lease_renewal_failure=True),
    ):
        deadline = time.monotonic() + 30
        while "no longer keeps other runs" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
