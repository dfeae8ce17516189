"""Console commands that look into a store."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from fmnist.cli import tables
from fmnist.cli.command import Context, Result, done
from fmnist.cli.options import Count, RunId, takes_settings
from fmnist.data.records import DataOrigin
from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.records import Comparison, ComparisonFailed, Interval
from fmnist.registry import keys, runs
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    existing_champion,
    read_champion,
)
from fmnist.registry.recorded_settings import recorded_changes
from fmnist.registry.records import ChampionRecord, RecordedFigures, StoredRun, from_json
from fmnist.store.base import Store

_READERS = 8
_COMPARED = 10  # as show's help says
Limit = Annotated[Count, Parameter(help="How many to show.")]


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs.

    Attributes:
        run_id: the run.
        state: `whole`, `unfinished` or `damaged`; only a whole run has figures.
        champion: whether it is the champion.
        finished_at: when it was finished.
        accuracy: its test accuracy.
        interval: the confidence interval of that.
        verdict: what its gate decided, in a word.
        rejected_later: whether it was rejected after its own verdict had passed it.
        held: whether it is the champion and is held.
        forced: whether it is the champion because a person overruled the gate.
        problem: what is damaged.
    """

    run_id: str
    state: str
    champion: bool = False
    finished_at: datetime | None = None
    accuracy: float | None = None
    interval: Interval | None = None
    verdict: str = ""
    rejected_later: bool = False
    held: bool = False
    forced: bool = False
    problem: str = ""


@takes_settings("store")
def list_runs(
    context: Context,
    *,
    limit: Limit = 20,
    before: Annotated[RunId | None, Parameter(help="List only runs older than this one.")] = None,
) -> Result:
    """List the runs, newest first."""
    store = context.store()
    champion = current_champion(store)
    everything = runs.list_run_ids(store)
    rest = [run for run in everything if before is None or run < before]
    page, more = rest[:limit], len(rest) > limit
    judged_later = {name.rstrip("/") for name in store.list_names(keys.VERDICTS)} if page else set()
    with ThreadPoolExecutor(_READERS) as readers:
        lines = list(readers.map(lambda run: _run_line(store, run, champion, judged_later), page))
    if lines:
        context.say(_table_of_runs(context, lines))
        _explain_marks(context, lines)
    where = store.location("")
    document = {"runs": lines, "total": len(everything), "next_before": page[-1] if more else None}
    if not lines:
        return done(f"no run in {where}", **document)
    following = f"the next page: --before {page[-1]}" if more else "the last page"
    return done(f"{len(lines):,} of {len(everything):,} runs in {where}", following, **document)


def _run_line(
    store: Store, run_id: str, champion: ChampionRecord | None, judged_later: set[str]
) -> RunLine:
    is_champion = champion is not None and champion.run_id == run_id
    held, forced = _held_and_forced(champion if is_champion else None)
    try:
        run = runs.find_run(store, run_id)
        if run is None:
            return RunLine(run_id, "unfinished", is_champion, held=held, forced=forced)
        figures = runs.read_record(store, run, keys.EVALUATION, RecordedFigures)
        verdict = runs.read_record(store, run, keys.VERDICT, Verdict)
    except StoreError as error:
        # The champion was read: what cannot be read here is this run, and not the whole store.
        if error.retryable:
            raise
        if not runs.run_exists(store, run_id):
            # It was removed meanwhile.
            return RunLine(run_id, "unfinished", is_champion, held=held, forced=forced)
        return RunLine(run_id, "damaged", is_champion, held=held, forced=forced, problem=str(error))
    return RunLine(
        run_id=run_id,
        state="whole",
        champion=is_champion,
        finished_at=run.manifest.created_at,
        accuracy=figures.accuracy,
        interval=figures.interval,
        verdict=verdict.word,
        rejected_later=run_id in judged_later and verdict.promoted and not is_champion,
        held=held,
        forced=forced,
    )


def _held_and_forced(champion: ChampionRecord | None) -> tuple[bool, bool]:
    if champion is None:
        return False, False
    # Before there was a field for it, only the move told.
    return champion.held, champion.forced or champion.move == "forced promotion"


def _how_it_is(held: bool, forced: bool) -> str:
    """What else there is to say of a champion, to follow that word."""
    said = [word for word, is_so in (("forced", forced), ("held", held)) if is_so]
    return f" ({', '.join(said)})" if said else ""


def _table_of_runs(context: Context, lines: Sequence[RunLine]) -> Table:
    table = tables.make_table(context, "", "run", "finished, UTC", "test accuracy", "verdict")
    for line in lines:
        figures = Text(line.state, "red" if line.state == "damaged" else "")
        if line.accuracy is not None and line.interval is not None:
            figures = Text(tables.accuracy_text(line.accuracy, line.interval))
        table.add_row(
            "*" if line.champion else "!" if line.rejected_later else "",
            line.run_id,
            f"{line.finished_at.astimezone(UTC):%Y-%m-%d %H:%M}" if line.finished_at else "",
            figures,
            line.verdict,
            style="bold" if line.champion else None,
        )
    return table


def _explain_marks(context: Context, lines: Sequence[RunLine]) -> None:
    for line in lines:
        if line.champion:
            context.say(f"* the champion{_how_it_is(line.held, line.forced)}")
    if any(line.rejected_later for line in lines):
        context.say("! rejected later, when it was to be promoted")
    for line in lines:
        if line.problem:
            context.say(f"{line.run_id}: {line.problem}")


@takes_settings("store")
def show_run(context: Context, run: RunId, /) -> Result:
    """Show everything about one run.

    Whether an earlier run has the same model is looked for among the champion and the ten runs
    before this one.
    """
    store = context.store()
    champion = current_champion(store)
    run = runs.find_run_id(store, run)
    stored = runs.read_run(store, run)
    content = runs.read_file(store, stored, keys.EVALUATION)
    figures, evaluation = _recorded_evaluation(store, run, content)
    verdict = runs.read_record(store, stored, keys.VERDICT, Verdict)
    origin = runs.read_record(store, stored, keys.DATA, DataOrigin)
    against = _recorded_comparison(store, stored)
    later = runs.later_verdicts(store, run)
    changed = recorded_changes(store, stored)
    before = [earlier for earlier in runs.list_run_ids(store) if earlier < run][:_COMPARED]
    others = dict.fromkeys([*([champion.run_id] if champion else []), *before])
    same = runs.same_model(store, stored, others)
    is_champion = champion is not None and champion.run_id == run
    mark = _how_it_is(*_held_and_forced(champion))
    kind = "the official files" if origin.official else "not the official files"
    images = "" if figures.images is None else f", {figures.images:,} images"
    settings = [f"{name} {value}" for name, value in changed.items()]
    tables.say_facts(
        context,
        {
            "run": f"{run}, the champion{mark}" if is_champion else run,
            "finished": tables.second_text(stored.manifest.created_at),
            "test accuracy": tables.accuracy_text(figures.accuracy, figures.interval) + images,
            "test loss": _figure_text(figures.loss),
            "calibration error": _figure_text(figures.calibration_error),
            "data": f"{origin.source}, {kind}",
            "settings changed": ", ".join(settings) or "none",
            "model": f"the same model as {same}" if same else "unlike those of the runs before it",
        },
    )
    tables.say_verdict(context, verdict, against)
    for passed_later in later:
        context.say("", f"judged again, against generation {passed_later.generation}:")
        tables.say_verdict(context, passed_later)
    table = tables.make_table(context, "bytes", "file", right=(0,))
    for name, entry in sorted(stored.manifest.files.items()):
        table.add_row(f"{entry.size:,}", name)
    location = store.location(keys.of_run(run))
    context.say("", table)
    return done(
        run,
        later[-1].word if later and not is_champion else verdict.word,
        location,
        run_id=run,
        champion=is_champion,
        location=location,
        manifest=stored.manifest,
        evaluation=evaluation,
        verdict=verdict,
        comparison=against,
        later_verdicts=later,
        settings_changed=changed,
        same_model_as=same,
        data=origin,
    )


def _recorded_evaluation(
    store: Store, run_id: str, content: bytes
) -> tuple[RecordedFigures, Mapping[str, Any]]:
    """The figures that are shown, and everything that was recorded, whatever the version."""
    where = store.location(keys.of_run(run_id, keys.EVALUATION))
    return from_json(RecordedFigures, content, where), from_json(dict[str, Any], content, where)


def _figure_text(figure: float | None) -> str:
    return "not recorded" if figure is None else f"{figure:.4f}"


def _recorded_comparison(store: Store, run: StoredRun) -> Comparison | ComparisonFailed | None:
    """What a run keeps of its comparison with the champion of its time."""
    if keys.COMPARISON not in run.manifest.files:
        return None
    try:
        return runs.read_record(store, run, keys.COMPARISON, Comparison)
    except DamagedError:
        return runs.read_record(store, run, keys.COMPARISON, ComparisonFailed)


@takes_settings("store")
def show_champion(context: Context) -> Result:
    """Show the current champion."""
    store = context.store()
    champion, files = read_champion(store, keys.EVALUATION)
    where = store.location(keys.of_run(champion.run_id))
    figures, evaluation = _recorded_evaluation(store, champion.run_id, files[keys.EVALUATION])
    tables.say_facts(
        context,
        {
            "champion": champion.run_id,
            "test accuracy": tables.accuracy_text(figures.accuracy, figures.interval),
            "generation": f"{champion.generation:,}",
            "since": f"{tables.second_text(champion.moved_at)}, by {champion.move}",
            "why": champion.reason or "-",
            "by": champion.by or "-",
            "held": "yes, until `fmnist release`" if champion.held else "no",
            "rollback leads to": champion.rollback_to or "none before it",
        },
    )
    accuracy = f"test accuracy {champion.accuracy:.4f}"
    document = {"champion": champion, "evaluation": evaluation, "location": where}
    return done(champion.run_id, accuracy, where, **document)


@takes_settings("store")
def show_history(context: Context, *, limit: Limit = 20) -> Result:
    """Show every change of the champion, newest first."""
    store = context.store()
    existing_champion(store)
    moves = list(islice(champion_history(store), limit))
    for record in moves:
        when = tables.second_text(record.moved_at)
        program = f"  by {record.by}" if record.by else ""
        change = f"{record.previous or 'none'} -> {record.run_id}"
        if record.move in ("retirement", "hold", "release"):
            change = f"{record.run_id} stays"
        if record.held and record.move != "hold":
            change += ", held"
        context.say(f"{record.generation:>5,}  {when}  {record.move}{program}")
        context.say(f"       {change}", *([f"       {record.reason}"] if record.reason else []))
    total, champion = moves[0].generation, moves[0].run_id
    count = f"{len(moves):,} of {total:,} moves"
    return done(count, f"champion {champion}", moves=moves, total=total)
