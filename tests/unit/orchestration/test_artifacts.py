"""Progress that is sent beside the training, which never waits for it."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from prefect.exceptions import PrefectException

from fmnist.orchestration import artifacts
from fmnist.orchestration.artifacts import training_progress
from fmnist.orchestration.link import Link, new_link
from fmnist.training.records import Epoch

LOST = httpx.ConnectError("nobody answers")
Send = Callable[[float], None]


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """The link of a run that does not pause for long."""
    monkeypatch.setattr(artifacts, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(artifacts, "_LONGEST_END", 0.01)
    with new_link() as made:
        yield made


def train(monkeypatch: pytest.MonkeyPatch, send: Send, epochs: int, pause: float = 0.0) -> None:
    """Report so many epochs, with this in the place of Prefect."""

    def create(percent: float, **_: object) -> str:
        send(percent)
        return "artifact"

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", create)
    monkeypatch.setattr(
        "prefect.artifacts.update_progress_artifact", lambda _, percent: send(percent)
    )
    with training_progress(epochs) as report:
        for number in range(1, epochs + 1):
            report(Epoch(number, epochs, 0.5, 0.8, 0.5, 0.8, 0.001, 1.0))
            time.sleep(pause)


def wait_for_the_sender(before: set[threading.Thread]) -> None:
    """Wait until the threads that were started since have ended."""
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "error",
    [LOST, PrefectException("refused"), RuntimeError("closed")],
    ids=["no answer", "a refusal", "a closed client"],
)
def test_a_value_that_could_not_be_sent_is_sent_again(
    error: Exception, link: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says once that the server was lost, and once that it is back."""
    calls: list[float] = []

    def send(percent: float) -> None:
        calls.append(percent)
        if len(calls) < 3:
            raise error

    with caplog.at_level("WARNING", "fmnist"):
        train(monkeypatch, send, 10, pause=0.05)
    assert calls[-1] == 100.0 and not link.lost
    assert caplog.text.count("server was lost") == caplog.text.count("server is back") == 1


def test_a_server_that_hangs_holds_up_neither_epochs_nor_the_end(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the last value later, and none of those between."""
    before, answers = set(threading.enumerate()), threading.Event()
    sent: list[float] = []

    def send(percent: float) -> None:
        answers.wait(10)
        sent.append(percent)

    train(monkeypatch, send, 100)
    assert sent == []
    answers.set()
    wait_for_the_sender(before)
    assert sent[-1] == 100.0 and len(sent) <= 3


def test_a_call_that_fails_after_the_training_says_nothing_about_the_server(
    link: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By then, the run has asked the server itself."""
    before, fails = set(threading.enumerate()), threading.Event()

    def send(percent: float) -> None:
        fails.wait(10)
        raise LOST

    with caplog.at_level("WARNING", "fmnist"):
        train(monkeypatch, send, 1)
        fails.set()
        wait_for_the_sender(before)
    assert not link.lost and "was lost" not in caplog.text


@pytest.mark.usefixtures("link")
def test_the_progress_of_a_training_is_updated_ten_times_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many epochs there are, a watcher of the run gets few events about them."""
    sent: list[float] = []
    train(monkeypatch, sent.append, 150, pause=0.005)
    assert sent[0] == 0.0 and sent[-1] == 100.0 and 5 < len(sent) <= 11
