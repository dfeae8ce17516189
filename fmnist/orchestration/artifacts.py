"""What a run's page in the Prefect UI shows: progress, report and classification table."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import artifacts

from fmnist.orchestration.job import best_effort
from fmnist.progress import track
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.figures import figure_titles
from fmnist.report.markdown import classification_table, markdown
from fmnist.report.run import Run
from fmnist.training.records import Epoch

_SECONDS_BETWEEN_UPDATES = 2.0


@contextmanager
def training_progress(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """Show progress, also in an artifact; yields the function to call after each epoch."""
    artifact = None
    with best_effort("progress is not shown in Prefect"):
        artifact = artifacts.create_progress_artifact(
            0.0, key="training-progress", description="Epochs trained, in percent"
        )

    def show(percent: float) -> None:
        if artifact:
            with best_effort("progress was not updated"):
                artifacts.update_progress_artifact(cast(UUID, artifact), percent)

    with track("training", epochs) as advance:
        shown_at = time.monotonic()

        def report(epoch: Epoch) -> None:
            nonlocal shown_at
            advance(
                epoch.number,
                f"epoch {epoch.number}/{epoch.total}, loss {epoch.loss:.4f}, accuracy "
                f"{epoch.accuracy:.4f}, validation {epoch.val_loss:.4f}, {epoch.val_accuracy:.4f}",
            )
            now = time.monotonic()
            if now - shown_at >= _SECONDS_BETWEEN_UPDATES:
                shown_at = now
                show(100 * epoch.number / epoch.total)

        yield report
    show(100.0)


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
            f"Its verdict: **{found.verdict.word}**. {found.verdict.reason}.\n\n"
            f"Its report: `{found.location}/report.md`\n",
            key="report",
            description=f"Unchanged since {found.earlier}",
        )
