"""Every fault at every request or system call of every scenario, on three stores."""

import pytest

from tests.faults.enumeration import Laboratory, Row
from tests.faults.scenarios import SCENARIOS
from tests.support.processes import S3Server

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("server", ["minio", "versitygw"])
def test_no_fault_at_any_request_breaks_anything(
    server: str,
    scenario: str,
    laboratory: Laboratory,
    rows: list[Row],
    request: pytest.FixtureRequest,
) -> None:
    """After any fault at any request, a reader finds a complete champion and a publisher succeeds."""
    running: S3Server = request.getfixturevalue(f"{server}_server")
    row = laboratory.on_server(running, server, scenario)
    rows.append(row)
    assert row.points and not row.broken, "\n".join(row.broken)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_fault_at_any_system_call_breaks_anything(
    scenario: str, laboratory: Laboratory, rows: list[Row]
) -> None:
    """After a kill or an error at any call that changes a file, the same holds in a folder."""
    row = laboratory.in_folder(scenario)
    rows.append(row)
    assert row.points and not row.broken, "\n".join(row.broken)
