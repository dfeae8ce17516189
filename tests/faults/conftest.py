"""The table of what was tried, printed at the end of the full run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.enumeration import Laboratory, Row, table
from tests.faults.scenarios import Place, environment_of
from tests.support.processes import S3Server, new_bucket, program

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """What came of each scenario on each store so far."""
    return request.config.stash.setdefault(_ROWS, [])


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """The finished runs and the processes with which publications are interrupted."""
    program("strace")
    with Laboratory(tmp_path_factory.mktemp("laboratory")) as opened:
        yield opened


@pytest.fixture(params=["folder", "minio", "versitygw"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind, which other processes can open."""
    if request.param == "folder":
        return Place(str(tmp_path / "store"), {})
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return Place(f"s3://{new_bucket(server)}/race", environment_of(server))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write it to the file that FAULTS_TABLE names."""
    found = config.stash.get(_ROWS, [])
    if not found:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(table(found))
    if path := os.environ.get("FAULTS_TABLE"):
        Path(path).write_text(table(found) + "\n")
