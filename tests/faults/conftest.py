"""The table of what was tried, printed at the end of the full run."""

import os
from pathlib import Path

import pytest

from tests.faults.enumeration import Row, table

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """What came of each scenario on each store so far."""
    return request.config.stash.setdefault(_ROWS, [])


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
