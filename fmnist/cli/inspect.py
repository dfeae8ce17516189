"""Console commands that look into a store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from rich.table import Table
from rich.text import Text

from fmnist.cli.app import Call, Ended
from fmnist.cli.tables import (
    accuracy_text,
    comparison_lines,
    facts,
    make_table,
    minute_text,
    no_champion,
    say_verdict,
    second_text,
)
from fmnist.data.records import DataOrigin
from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.evaluation.comparison import Comparison, ComparisonFailed, compare, in_digits, in_points
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.metrics import Interval
from fmnist.promotion.judge import make_test_set
from fmnist.promotion.stored import fetch_test_data, recorded_changes
from fmnist.registry.champion import champion_history, current_champion, read_champion
from fmnist.registry.records import (
    COMPARISON,
    DATA,
    EVALUATION,
    MODEL,
    VERDICT,
    VERDICTS,
    ChampionRecord,
    RecordedFigures,
    StoredRun,
    from_json,
    run_key,
)
from fmnist.registry.runs import (
    find_run,
    later_verdicts,
    list_run_ids,
    read_file,
    read_record,
    read_run,
    run_exists,
)
from fmnist.store.base import Store

_READERS = 8


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs. One that is not `whole` has no figures, and `problem` says why.

    `rejected_later` tells that it was turned down after its own verdict had passed it.
    """

    run_id: str
    state: str
    champion: bool = False
    finished_at: datetime | None = None
    accuracy: float | None = None
    interval: Interval | None = None
    verdict: str = ""
    rejected_later: bool = False
    problem: str = ""


def list_runs(call: Call) -> Ended:
    """List a page of runs, the newest first."""
    store, limit, before = call.store(), call.own["limit"], call.own["before"]
    head = current_champion(store)
    everything = list_run_ids(store)
    rest = [run for run in everything if before is None or run < before]
    page, more = rest[:limit], len(rest) > limit
    judged_later = {name.rstrip("/") for name in store.list_names(VERDICTS)} if page else set()
    with ThreadPoolExecutor(_READERS) as readers:
        lines = list(readers.map(lambda run: _run_line(store, run, head, judged_later), page))
    if lines:
        call.say(_table_of_runs(lines, call.console.width))
        _explain_marks(call, lines)
    where = store.location("")
    count = f"{len(lines):,} of {len(everything):,} runs in {where}"
    following = f"the next page: --before {page[-1]}" if more else "the last page"
    return Ended(
        ExitCode.OK,
        ("ok", count, following) if lines else ("ok", f"no run in {where}"),
        {"runs": lines, "total": len(everything), "next_before": page[-1] if more else None},
    )


def _run_line(
    store: Store, run_id: str, head: ChampionRecord | None, judged_later: set[str]
) -> RunLine:
    is_champion = head is not None and head.run_id == run_id
    try:
        run = find_run(store, run_id)
        if run is None:
            return RunLine(run_id, "unfinished", is_champion)
        figures = read_record(store, run, EVALUATION, RecordedFigures)
        verdict = read_record(store, run, VERDICT, Verdict)
    except StoreError as error:
        # The champion was read: what cannot be read here is this run, and not the whole store.
        if error.retryable:
            raise
        if not run_exists(store, run_id):
            # It was removed meanwhile.
            return RunLine(run_id, "unfinished", is_champion)
        return RunLine(run_id, "damaged", is_champion, problem=str(error))
    return RunLine(
        run_id=run_id,
        state="whole",
        champion=is_champion,
        finished_at=run.manifest.created_at,
        accuracy=figures.accuracy,
        interval=figures.interval,
        verdict=verdict.word,
        rejected_later=run_id in judged_later and verdict.word != "rejected" and not is_champion,
    )


def _table_of_runs(lines: Sequence[RunLine], width: int) -> Table:
    table = make_table("", "run", "finished, UTC", "test accuracy", "verdict", width=width)
    for line in lines:
        figures = Text(line.state, "red" if line.state == "damaged" else "")
        if line.accuracy is not None and line.interval is not None:
            figures = Text(accuracy_text(line.accuracy, line.interval))
        table.add_row(
            "*" if line.champion else "!" if line.rejected_later else "",
            line.run_id,
            minute_text(line.finished_at) if line.finished_at else "",
            figures,
            line.verdict,
            style="bold" if line.champion else None,
        )
    return table


def _explain_marks(call: Call, lines: Sequence[RunLine]) -> None:
    if any(line.champion for line in lines):
        call.say("* the champion")
    if any(line.rejected_later for line in lines):
        call.say("! rejected later, when it was to be promoted")
    for line in lines:
        if line.problem:
            call.say(f"{line.run_id}: {line.problem}")


def show_run(call: Call) -> Ended:
    """Show all about one run."""
    store, run_id = call.store(), call.own["run"]
    head = current_champion(store)
    run = read_run(store, run_id)
    figures = read_record(store, run, EVALUATION, RecordedFigures)
    evaluation = read_record(store, run, EVALUATION, dict[str, Any])
    verdict = read_record(store, run, VERDICT, Verdict)
    origin = read_record(store, run, DATA, DataOrigin)
    against = _recorded_comparison(store, run)
    later = later_verdicts(store, run_id)
    changed = recorded_changes(store, run)
    is_champion = head is not None and head.run_id == run_id
    kind = "the official files" if origin.official else "not the official files"
    call.say(
        facts(
            {
                "run": f"{run_id}{', the champion' if is_champion else ''}",
                "finished": second_text(run.manifest.created_at),
                "test accuracy": accuracy_text(figures.accuracy, figures.interval)
                + ("" if figures.images is None else f", {figures.images:,} images"),
                "test loss": _figure_text(figures.loss),
                "calibration error": _figure_text(figures.calibration_error),
                "data": f"{origin.source}, {kind}",
                "settings changed": ", ".join(f"{name} {value}" for name, value in changed.items())
                or "none",
            },
        )
    )
    say_verdict(call, verdict)
    if isinstance(against, Comparison):
        call.say("", f"against the champion {against.champion}:", *comparison_lines(against))
    for passed_later in later:
        call.say(f"\njudged again, against generation {passed_later.generation}:")
        say_verdict(call, passed_later)
    table = make_table("bytes", "file", right=(0,), width=call.console.width)
    for name, entry in sorted(run.manifest.files.items()):
        table.add_row(f"{entry.size:,}", name)
    location = store.location(run_key(run_id))
    call.say("", table)
    return Ended(
        ExitCode.OK,
        ("ok", run_id, later[-1].word if later and not is_champion else verdict.word, location),
        {
            "run_id": run_id,
            "champion": is_champion,
            "location": location,
            "manifest": run.manifest,
            "evaluation": evaluation,
            "verdict": verdict,
            "comparison": against,
            "later_verdicts": later,
            "settings_changed": changed,
            "data": origin,
        },
    )


def _figure_text(figure: float | None) -> str:
    return "not recorded" if figure is None else f"{figure:.4f}"


def _recorded_comparison(store: Store, run: StoredRun) -> Comparison | ComparisonFailed | None:
    """What a run keeps of its comparison with the champion of its time."""
    if COMPARISON not in run.manifest.files:
        return None
    try:
        return read_record(store, run, COMPARISON, Comparison)
    except DamagedError:
        return read_record(store, run, COMPARISON, ComparisonFailed)


def show_champion(call: Call) -> Ended:
    """Show the champion in force."""
    store = call.store()
    head, files = read_champion(store, EVALUATION)
    where = store.location(run_key(head.run_id))
    figures = from_json(RecordedFigures, files[EVALUATION], where)
    evaluation = from_json(dict[str, Any], files[EVALUATION], where)
    call.say(
        facts(
            {
                "champion": head.run_id,
                "test accuracy": accuracy_text(figures.accuracy, figures.interval),
                "generation": f"{head.generation:,}",
                "since": f"{second_text(head.moved_at)}, by {head.move}",
                "why": head.reason or "-",
                "by": head.by or "-",
                "rollback leads to": head.rollback_to or "none before it",
            },
        )
    )
    return Ended(
        ExitCode.OK,
        ("ok", head.run_id, f"test accuracy {head.accuracy:.4f}", where),
        {"champion": head, "evaluation": evaluation, "location": where},
    )


def show_history(call: Call) -> Ended:
    """Show every move of the champion, the newest first."""
    store = call.store()
    moves = list(islice(champion_history(store), call.own["limit"]))
    if not moves:
        raise no_champion(store)
    for head in moves:
        call.say(
            f"{head.generation:>5,}  {second_text(head.moved_at)}  {head.move}"
            + (f"  by {head.by}" if head.by else ""),
            f"       {head.previous or 'none'} -> {head.run_id}"
            if head.move != "retirement"
            else f"       {head.run_id} stays",
            *([f"       {head.reason}"] if head.reason else []),
        )
    current = moves[0]
    return Ended(
        ExitCode.OK,
        ("ok", f"{len(moves):,} of {current.generation:,} moves", f"champion {current.run_id}"),
        {"moves": moves, "total": current.generation},
    )


def compare_runs(call: Call) -> Ended:
    """Score two runs' models on the same test images."""
    store = call.store()
    stored = [read_run(store, call.own[name]) for name in ("first", "second")]
    models = [read_file(store, run, MODEL) for run in stored]
    origins = [read_record(store, run, DATA, DataOrigin) for run in stored]
    data, test = fetch_test_data(call.settings.data)
    score = make_test_set(test, call.settings.data.class_names, data).score
    first, second = (score(model) for model in models)
    names = call.settings.data.class_names
    same = [origin.test_set == data.test_set for origin in origins]
    found = compare(stored[0].run_id, first, second, test.labels, names, same_test_set=same[0])
    call.say(f"first   {stored[0].run_id}", f"second  {stored[1].run_id}", "")
    call.say(*comparison_lines(found, "first", "second"))
    table = make_table(
        "class", "first", "second", "points", right=(1, 2, 3), width=call.console.width
    )
    for scores in found.classes:
        table.add_row(
            scores.name,
            f"{scores.champion:.4f}",
            f"{scores.challenger:.4f}",
            in_points(-scores.drop),
        )
    call.say("", "recall by class", table)
    for run, is_same in zip(stored, same, strict=True):
        if not is_same:
            call.say(f"{run.run_id} was judged on other test data, and may have trained on these")
    low, high = found.interval.low, found.interval.high
    return Ended(
        ExitCode.OK,
        (
            "ok",
            f"{in_points(found.difference)} points [{in_points(low)}, {in_points(high)}]",
            f"p {in_digits(found.p_value)}",
            f"{len(found.changed):,} of {found.images:,} images changed sides",
        ),
        {
            "first": stored[0].run_id,
            "second": stored[1].run_id,
            "judged_on_these_images": same,
            "comparison": found,
        },
    )
