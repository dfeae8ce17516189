"""Progress of long work: a live bar on a terminal, occasional log lines anywhere else."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

Advance = Callable[[float, str], None]
_SHARE_BETWEEN_LINES = 0.1
_SECONDS_BETWEEN_LINES = 2.0
_LONGEST_SILENCE = 60.0


@contextmanager
def track(label: str, total: float) -> Iterator[Advance]:
    """Show the progress of `total` units of work; yields `advance(done, note)`, to call as it goes.

    `done` is the number of units finished so far, `note` a few words about the current state. A
    total of 0 means that it is unknown.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
    else:
        yield _occasional_lines(label, total)


def _occasional_lines(label: str, total: float) -> Advance:
    """Log the end, and before it every tenth and every minute, but at most every two seconds."""
    start = time.monotonic()
    last_share, last_time = 0.0, start

    def advance(done: float, note: str) -> None:
        nonlocal last_share, last_time
        now, share = time.monotonic(), done / total if total else 0.0
        silence = now - last_time
        due = share - last_share >= _SHARE_BETWEEN_LINES or silence >= _LONGEST_SILENCE or not total
        if share < 1 and not (due and silence >= _SECONDS_BETWEEN_LINES):
            return
        last_share, last_time = share, now
        left = (now - start) * (1 - share) / share if share else 0.0
        logger.info("%s: %s%s", label, note, f", about {left:.0f} s left" if 0 < share < 1 else "")

    return advance
