"""What a run's page in the Prefect UI shows: progress, report and classification table."""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from prefect import artifacts
from prefect.exceptions import PrefectException
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from fmnist.orchestration.job import best_effort
from fmnist.orchestration.link import current_link
from fmnist.progress import track
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.figures import figure_titles
from fmnist.report.markdown import classification_table, code, markdown, sentence
from fmnist.report.run import Run
from fmnist.training.records import Epoch

_MOST_UPDATES = 10
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_LONGEST_CALL = 10.0
_LONGEST_END = 1.0


@contextmanager
def training_progress(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """Show progress, also in an artifact; yields the function to call after each epoch.

    The artifact is updated beside the training, which a lost server does not hold up.
    """
    with track("training", epochs) as advance, _sent_beside(_show_percent()) as send:
        send(0.0)
        sent = 0.0

        def report(epoch: Epoch) -> None:
            nonlocal sent
            advance(
                epoch.number,
                f"epoch {epoch.number}/{epoch.total}: loss {epoch.loss:.2f}, accuracy "
                f"{epoch.accuracy:.2f}, validation loss {epoch.val_loss:.2f}, validation accuracy "
                f"{epoch.val_accuracy:.2f}",
            )
            percent = 100 * epoch.number / epoch.total
            if percent - sent >= 100 / _MOST_UPDATES and percent < 100:
                sent = percent
                send(percent)

        yield report
        send(100.0)


def _show_percent() -> Callable[[float], None]:
    """A function that creates the progress artifact, then updates it."""
    artifact: UUID | None = None

    def show(percent: float) -> None:
        nonlocal artifact
        if artifact is None:
            created = artifacts.create_progress_artifact(
                percent, key="training-progress", description="Epochs trained, in percent"
            )
            artifact = cast(UUID, created)
        else:
            artifacts.update_progress_artifact(artifact, percent)

    return show


@contextmanager
def _sent_beside(send: Callable[[float], None]) -> Iterator[Callable[[float], None]]:
    """Call `send` in a thread of its own; only the latest value matters.

    A call that fails is repeated after growing pauses. At the end it is tried once more, which is not
    waited for if it takes long: a server that hangs would hold up the run.
    """
    latest: list[float] = []
    news, ended, left = threading.Event(), threading.Event(), threading.Event()
    link = current_link()

    def work() -> None:
        pause = _FIRST_PAUSE
        with temporary_settings(
            {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _LONGEST_CALL}
        ):
            while True:
                news.wait()
                news.clear()
                last = ended.is_set()
                value = latest[-1]
                try:
                    send(value)
                # Prefect's client raises the last of them once the run has ended and closed it.
                except (httpx.HTTPError, PrefectException, RuntimeError) as error:
                    # Later, the run itself knows better whether the server is there.
                    if not left.is_set():
                        link.note(error)
                    news.set()
                    ended.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    link.note(None)
                    pause = _FIRST_PAUSE
                if last:
                    return

    def put(value: float) -> None:
        latest[:] = [value]
        news.set()

    # It needs to know the run that its artifact belongs to.
    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        yield put
    finally:
        ended.set()
        news.set()
        thread.join(_LONGEST_END)
        left.set()


def show_report(run: Run, folder: Path) -> None:
    """Put the report, with its figures embedded, and the classification table on the run's page.

    Call it from the flow, not from a task: only then do they come first among the run's artifacts.
    """
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    figures = {
        title: "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()
        for title, name in figure_titles(files).items()
    }
    header, rows = classification_table(run.evaluation)
    with best_effort("the report is not shown in Prefect, but it is in the store"):
        artifacts.create_markdown_artifact(
            markdown(run, figures, files), key="report", description=f"Report of {run.run_id}"
        )
        artifacts.create_table_artifact(
            [dict(zip(header, row, strict=True)) for row in rows],
            key="classification-report",
            description=f"Scores on {run.evaluation.images:,} test images",
        )


def show_unchanged(found: Unchanged) -> None:
    """Put a short report on the page of a run that trained nothing: which run it would repeat."""
    with best_effort("the report is not shown in Prefect"):
        artifacts.create_markdown_artifact(
            f"# Unchanged: {found.run_id}\n\n"
            f"Nothing was trained, since the same data, settings, code and versions made "
            f"{found.earlier} (test accuracy {found.accuracy:.4f}).\n\n"
            f"Its verdict: **{found.verdict.word}**. {sentence(found.verdict.reason)}\n\n"
            f"Its report: {code(f'{found.location}/report.md')}\n",
            key="report",
            description=f"Unchanged since {found.earlier}",
        )
