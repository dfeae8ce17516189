"""How console commands show figures, tables and times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from fmnist.cli.app import Call
from fmnist.errors import SettingsError, StoreError
from fmnist.evaluation.comparison import Comparison, in_digits, in_points
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.metrics import CONFIDENCE, Interval
from fmnist.promotion.judge import Decision
from fmnist.registry.records import CHAMPION
from fmnist.store.base import Store

_WIDE = 90


def no_champion(store: Store) -> StoreError:
    where = store.location(CHAMPION)
    return StoreError(f"{where} is not there: no run was promoted yet")


def comparison_lines(
    found: Comparison, before: str = "champion", after: str = "challenger"
) -> list[str]:
    low, high = found.interval.low, found.interval.high
    return [
        f"accuracy        {before} {found.champion_accuracy:.4f}, {after} {found.accuracy:.4f}",
        f"difference      {in_points(found.difference)} points, {CONFIDENCE:.0%} interval "
        f"{in_points(low)} to {in_points(high)}",
        f"McNemar's test  p {in_digits(found.p_value)}, exact, two-sided",
        f"changed sides   {len(found.changed):,} of {found.images:,} images: {found.gained:,} only "
        f"the {after} has right, {found.lost:,} only the {before}",
    ]


def folder_of(call: Call) -> Path:
    """The folder that the command line names; a leading `~` is the user's home."""
    folder = Path(call.own["folder"])
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{folder} is in the home of an unknown user; correct it") from error


def say_judgement(call: Call, judgement: Decision) -> None:
    say_verdict(call, judgement.verdict)
    against = judgement.against
    if isinstance(against, Comparison):
        call.say("", f"against the champion {against.champion}:", *comparison_lines(against))


def say_verdict(call: Call, verdict: Verdict) -> None:
    call.say("", f"{verdict.word}: {verdict.reason}")
    if verdict.rules:
        table = make_table(
            "rule", "measured", "needed", "result", right=(1, 2), width=call.console.width
        )
        for rule in verdict.rules:
            result = Text("pass") if rule.passed else Text("FAIL", "red")
            table.add_row(rule.name, rule.measured, rule.needed, result)
        call.say(table)
    for note in verdict.notes:
        call.say(f"note: {note}")


def facts(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def make_table(*header: str, width: int, right: tuple[int, ...] = ()) -> Table:
    gap = 2 if width >= _WIDE else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold")
    return table


def accuracy_text(accuracy: float, interval: Interval) -> str:
    return f"{accuracy:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def minute_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def second_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
