"""How console commands format figures, tables and times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from fmnist.cli.command import Context
from fmnist.errors import printable
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.records import (
    CONFIDENCE,
    Against,
    Comparison,
    Interval,
    in_digits,
    in_points,
)

_WIDE = 90


def comparison_lines(
    found: Comparison, before: str = "champion", after: str = "challenger"
) -> list[str]:
    """A comparison in a few lines, with what the two models are called."""
    low, high = found.interval.low, found.interval.high
    lines = [
        f"accuracy        {before} {found.champion_accuracy:.4f}, {after} {found.accuracy:.4f}",
        f"difference      {in_points(found.difference)} points, {CONFIDENCE:.0%} interval "
        f"{in_points(low)} to {in_points(high)}",
        f"McNemar's test  p {in_digits(found.p_value)}, exact, two-sided",
        f"changed sides   {len(found.changed):,} of {found.images:,} images: {found.gained:,} only "
        f"the {after} has right, {found.lost:,} only the {before}",
    ]
    if found.left_out:
        lines.append(
            f"left out        {found.left_out:,} images that either may have been trained on"
        )
    return lines


def say_verdict(context: Context, verdict: Verdict, against: Against = None) -> None:
    """Show a verdict with its rules and notes, and the comparison behind it."""
    context.say("", f"{verdict.word}: {verdict.reason}")
    if verdict.rules:
        table = make_table(context, "rule", "measured", "needed", "result", right=(1, 2))
        for rule in verdict.rules:
            result = Text("pass") if rule.passed else Text("FAIL", "red")
            table.add_row(rule.name, rule.measured, rule.needed, result)
        context.say(table)
    for note in verdict.notes:
        context.say(f"note: {note}")
    if isinstance(against, Comparison):
        context.say("", f"against the champion {against.champion}:", *comparison_lines(against))


def say_facts(context: Context, facts: Mapping[str, str]) -> None:
    """Show names and their values, one below the other."""
    table = _Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    context.say(table)


def make_table(context: Context, *header: str, right: tuple[int, ...] = ()) -> Table:
    """An empty table; the columns `right` are aligned to the right."""
    gap = 2 if context.console.width >= _WIDE else 1
    table = _Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold")
    return table


class _Table(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, each of whose cells is one line whatever is stored."""
        shown = (printable(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*shown, **options)


def accuracy_text(accuracy: float, interval: Interval) -> str:
    """An accuracy with its interval."""
    return f"{accuracy:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def counted(count: int, what: str) -> str:
    """A number of things, in words."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def megabytes(size: int) -> str:
    """A size in bytes, as megabytes."""
    return f"{size / 1e6:,.1f} MB"


def second_text(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
