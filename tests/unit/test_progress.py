import logging
import sys

import pytest

from fmnist.progress import track


@pytest.fixture
def half_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, and a clock that half a second passes on at each look."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    clock = iter(range(1000))
    monkeypatch.setattr("fmnist.progress.time.monotonic", lambda: next(clock) * 0.5)


def logged(caplog: pytest.LogCaptureFixture, total: float, steps: int) -> list[str]:
    """What is logged of so many steps."""
    with caplog.at_level(logging.INFO, "fmnist"), track("work", total) as advance:
        for step in range(1, steps + 1):
            advance(step, f"step {step}")
    return caplog.messages


@pytest.mark.usefixtures("half_seconds")
def test_without_a_terminal_sparse_lines_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred quick steps give few lines, among them the last one."""
    lines = logged(caplog, 100, 100)
    assert 5 <= len(lines) <= 11
    assert lines[-1] == "work: step 100"
    assert "s left" in lines[0]


@pytest.mark.usefixtures("half_seconds")
def test_long_work_is_never_silent_for_much_more_than_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thousand half-seconds of work that has hardly begun give a line each minute."""
    assert 6 <= len(logged(caplog, 1e6, 900)) <= 7


@pytest.mark.usefixtures("half_seconds")
def test_work_of_unknown_size_gives_a_line_every_two_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a total only the time counts: forty half-seconds give ten lines at the most."""
    assert 5 <= len(logged(caplog, 0, 40)) <= 10
    assert "left" not in caplog.text


def test_on_a_terminal_a_live_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with track("work", 4) as advance:
        advance(2, "half of it")
        advance(4, "all of it")
    shown = capsys.readouterr().err
    assert "work" in shown
    assert "all of it" in shown
