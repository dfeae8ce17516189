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


def test_without_a_terminal_sparse_lines_are_logged(
    caplog: pytest.LogCaptureFixture, half_seconds: None
) -> None:
    """A hundred quick steps give few lines, among them the last one."""
    with caplog.at_level(logging.INFO, "fmnist"), track("work", 100) as advance:
        for done in range(1, 101):
            advance(done, f"step {done}")
    assert 5 <= len(caplog.messages) <= 11
    assert caplog.messages[-1] == "work: step 100"
    assert "s left" in caplog.messages[0]


def test_long_work_is_never_silent_for_much_more_than_a_minute(
    caplog: pytest.LogCaptureFixture, half_seconds: None
) -> None:
    """A thousand half-seconds of work that has hardly begun give a line each minute."""
    with caplog.at_level(logging.INFO, "fmnist"), track("work", 1e6) as advance:
        for done in range(900):
            advance(done, f"step {done}")
    assert 6 <= len(caplog.messages) <= 7


def test_on_a_terminal_a_live_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar carries the label and the latest note."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with track("work", 4) as advance:
        advance(2, "half of it")
        advance(4, "all of it")
    shown = capsys.readouterr().err
    assert "work" in shown
    assert "all of it" in shown


def test_work_of_unknown_size_gives_a_line_every_two_seconds(
    caplog: pytest.LogCaptureFixture, half_seconds: None
) -> None:
    """Without a total only the time counts: forty half-seconds give ten lines at the most."""
    with caplog.at_level(logging.INFO, "fmnist"), track("work", 0) as advance:
        for done in range(40):
            advance(done, f"{done} MB")
    assert 5 <= len(caplog.messages) <= 10
    assert "left" not in caplog.text
