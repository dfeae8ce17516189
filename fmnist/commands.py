"""The console commands about a store: look, compare, decide, go back, check and tidy up.

    fmnist --help

What they do is in other modules; what they share as commands is in `fmnist.console`.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from fmnist import cli, comparison, console, publication, registry, upkeep
from fmnist import fetch as fetching
from fmnist.comparison import Comparison, Incomparable, in_digits, in_points
from fmnist.config import GateSettings, Settings, deviations, sections
from fmnist.console import Argument, Call, Command, Ended, count_of, reason_of
from fmnist.dataset import LabelledImages, read_labelled_images
from fmnist.errors import DamagedError, DataError, ExitCode, SettingsError, StoreError
from fmnist.evaluation import CONFIDENCE, Evaluation, Interval, evaluate
from fmnist.fetch import DataOrigin
from fmnist.gate import Verdict
from fmnist.judging import Bench, Judge, Judgement, Probabilities
from fmnist.registry import Champion, StoredRun
from fmnist.store import Store

_READERS = 8
_WIDE = 90


# ---- what is there ------------------------------------------------------------------------------


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


def runs(call: Call) -> Ended:
    """List a page of runs, the newest first."""
    store, limit, before = call.store(), call.own["limit"], call.own["before"]
    head = registry.champion(store)
    everything = registry.run_ids(store)
    rest = [run for run in everything if before is None or run < before]
    page, more = rest[:limit], len(rest) > limit
    judged_later = {name.rstrip("/") for name in store.names(registry.VERDICTS)} if page else set()
    with ThreadPoolExecutor(_READERS) as readers:
        lines = list(readers.map(lambda run: _run_line(store, run, head, judged_later), page))
    if lines:
        call.say(_table_of_runs(lines, call.console.width))
        _explain_marks(call, lines)
    where = store.location("")
    count = f"{len(lines):,} of {len(everything):,} runs in {where}"
    following = f"the next page: --before {page[-1]}" if more else "the last page"
    return Ended(
        ExitCode.PROMOTED,
        ("ok", count, following) if lines else ("ok", f"no run in {where}"),
        {"runs": lines, "total": len(everything), "next_before": page[-1] if more else None},
    )


def _run_line(store: Store, run_id: str, head: Champion | None, judged_later: set[str]) -> RunLine:
    is_champion = head is not None and head.run_id == run_id
    try:
        run = registry.find_run(store, run_id)
        if run is None:
            return RunLine(run_id, "unfinished", is_champion)
        evaluation = registry.read_record(store, run, registry.EVALUATION, Evaluation)
        verdict = registry.read_record(store, run, registry.VERDICT, Verdict)
    except StoreError as error:
        # The champion was read: what cannot be read here is this run, and not the whole store.
        if error.temporary:
            raise
        if not registry.is_there(store, run_id):
            # It was removed meanwhile.
            return RunLine(run_id, "unfinished", is_champion)
        return RunLine(run_id, "damaged", is_champion, problem=str(error))
    return RunLine(
        run_id=run_id,
        state="whole",
        champion=is_champion,
        finished_at=run.manifest.created_at,
        accuracy=evaluation.accuracy,
        interval=evaluation.interval,
        verdict=verdict.word,
        rejected_later=run_id in judged_later and verdict.word != "rejected" and not is_champion,
    )


def _table_of_runs(lines: Sequence[RunLine], width: int) -> Table:
    table = _table("", "run", "finished, UTC", "test accuracy", "verdict", width=width)
    for line in lines:
        figures = Text(line.state, "red" if line.state == "damaged" else "")
        if line.accuracy is not None and line.interval is not None:
            figures = Text(_accuracy(line.accuracy, line.interval))
        table.add_row(
            "*" if line.champion else "!" if line.rejected_later else "",
            line.run_id,
            _minute(line.finished_at) if line.finished_at else "",
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


def show(call: Call) -> Ended:
    """Show all about one run."""
    store, run_id = call.store(), call.own["run"]
    head = registry.champion(store)
    run = registry.read_run(store, run_id)
    evaluation = registry.read_record(store, run, registry.EVALUATION, Evaluation)
    verdict = registry.read_record(store, run, registry.VERDICT, Verdict)
    settings = _recorded_settings(store, run)
    origin = registry.read_record(store, run, registry.DATA, DataOrigin)
    against = _recorded_comparison(store, run)
    later = registry.later_verdicts(store, run_id)
    changed = deviations(settings)
    is_champion = head is not None and head.run_id == run_id
    kind = "the official files" if origin.official else "not the official files"
    call.say(
        _facts(
            {
                "run": f"{run_id}{', the champion' if is_champion else ''}",
                "finished": _second(run.manifest.created_at),
                "test accuracy": f"{_accuracy(evaluation.accuracy, evaluation.interval)}, "
                f"{evaluation.images:,} images",
                "test loss": f"{evaluation.loss:.4f}",
                "calibration error": f"{evaluation.calibration_error:.4f}",
                "data": f"{origin.source}, {kind}",
                "settings changed": ", ".join(f"{name} {value}" for name, value in changed.items())
                or "none",
            },
        )
    )
    _say_verdict(call, verdict)
    if isinstance(against, Comparison):
        call.say("", f"against the champion {against.champion}:", *_comparison_lines(against))
    for passed_later in later:
        call.say(f"\njudged again, against generation {passed_later.generation}:")
        _say_verdict(call, passed_later)
    table = _table("bytes", "file", right=(0,), width=call.console.width)
    for name, entry in sorted(run.manifest.files.items()):
        table.add_row(f"{entry.size:,}", name)
    location = store.location(registry.run_key(run_id))
    call.say("", table)
    return Ended(
        ExitCode.PROMOTED,
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


def _recorded_comparison(store: Store, run: StoredRun) -> Comparison | Incomparable | None:
    """What a run keeps of its comparison with the champion of its time."""
    if publication.COMPARISON not in run.manifest.files:
        return None
    try:
        return registry.read_record(store, run, publication.COMPARISON, Comparison)
    except DamagedError:
        return registry.read_record(store, run, publication.COMPARISON, Incomparable)


def champion(call: Call) -> Ended:
    """Show the champion in force."""
    store = call.store()
    head, files = registry.read_champion(store, registry.EVALUATION)
    where = store.location(registry.run_key(head.run_id))
    evaluation = registry.from_json(Evaluation, files[registry.EVALUATION], where)
    call.say(
        _facts(
            {
                "champion": head.run_id,
                "test accuracy": _accuracy(evaluation.accuracy, evaluation.interval),
                "generation": f"{head.generation:,}",
                "since": f"{_second(head.moved_at)}, by {head.move}",
                "why": head.reason or "-",
                "by": head.by or "-",
                "rollback leads to": head.rollback_to or "none before it",
            },
        )
    )
    return Ended(
        ExitCode.PROMOTED,
        ("ok", head.run_id, f"test accuracy {head.accuracy:.4f}", where),
        {"champion": head, "evaluation": evaluation, "location": where},
    )


def history(call: Call) -> Ended:
    """Show every move of the champion, the newest first."""
    store = call.store()
    moves = list(islice(registry.history(store), call.own["limit"]))
    if not moves:
        raise _no_champion(store)
    for head in moves:
        call.say(
            f"{head.generation:>5,}  {_second(head.moved_at)}  {head.move}"
            + (f"  by {head.by}" if head.by else ""),
            f"       {head.previous or 'none'} -> {head.run_id}"
            if head.move != "retirement"
            else f"       {head.run_id} stays",
            *([f"       {head.reason}"] if head.reason else []),
        )
    current = moves[0]
    return Ended(
        ExitCode.PROMOTED,
        ("ok", f"{len(moves):,} of {current.generation:,} moves", f"champion {current.run_id}"),
        {"moves": moves, "total": current.generation},
    )


def _no_champion(store: Store) -> StoreError:
    where = store.location(registry.CHAMPION)
    return StoreError(f"{where} is not there: no run was promoted yet")


# ---- compare and decide -------------------------------------------------------------------------


def compare(call: Call) -> Ended:
    """Score two runs' models on the same test images."""
    store = call.store()
    stored = [registry.read_run(store, call.own[name]) for name in ("first", "second")]
    models = [registry.read_file(store, run, registry.MODEL) for run in stored]
    origins = [registry.read_record(store, run, registry.DATA, DataOrigin) for run in stored]
    data, test = _test_data(call)
    score = _scorer(test)
    first, second = (score(model) for model in models)
    names = call.settings.data.class_names
    same = [origin.test_set == data.test_set for origin in origins]
    found = comparison.compare(
        stored[0].run_id, first, second, test.labels, names, same_test_set=same[0]
    )
    call.say(f"first   {stored[0].run_id}", f"second  {stored[1].run_id}", "")
    call.say(*_comparison_lines(found, "first", "second"))
    table = _table("class", "first", "second", "points", right=(1, 2, 3), width=call.console.width)
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
        ExitCode.PROMOTED,
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


def _comparison_lines(
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


def promote(call: Call) -> Ended:
    """Ask the gate about a stored run, and make it the champion if it passes."""
    store, run_id, forced = call.store(), call.own["run"], call.own["reason"]
    if call.own["force"] and forced is None:
        raise SettingsError("--force needs --reason TEXT, which is kept in the history")
    if forced is not None and not call.own["force"]:
        raise SettingsError("--reason goes with --force: else the verdict is the reason")
    # Before the check, which makes a folder that is not there.
    registry.read_run(store, run_id)
    safe_store = store.check()
    # First of all: a run that is removed from now on is found out when the head has moved.
    head = registry.champion(store)
    run = registry.read_run(store, run_id)
    return _ask_gate(call, store, run, head, safe_store, by="fmnist promote", forced=forced)


def _ask_gate(
    call: Call,
    store: Store,
    run: StoredRun,
    head: Champion | None,
    safe_store: bool,
    *,
    by: str,
    forced: str | None = None,
) -> Ended:
    """Judge a stored run against the champion that was read before it, and promote or reject."""
    if head is not None and head.run_id == run.run_id:
        return _in_force(store, run, head, "is the champion already")
    contents = {name: registry.read_file(store, run, name) for name in run.manifest.files}
    if registry.MODEL not in contents:
        raise DamagedError(f"{store.location(registry.run_key(run.run_id))} has no model")
    recorded = _recorded_settings(store, run)
    gate = _gate(call, recorded.gate)
    origin = registry.read_record(store, run, registry.DATA, DataOrigin)
    data, test = _test_data(call)
    if origin.test_set != data.test_set and forced is None:
        raise DataError(
            f"{run.run_id} was made with other data than {data.source} holds, so that these test "
            "images may be among those it was trained on; set data.source to its own "
            f"({origin.source}), or promote it with --force"
        )
    score = _scorer(test)
    bench = Bench(test.labels, recorded.data.class_names, data.test_set, score)
    judge = Judge(store, bench, gate, run.run_id, safe_store)
    probabilities = score(contents[registry.MODEL])
    evaluation = evaluate(probabilities, test.labels, bench.class_names)
    return _promote(call, run, head, judge, evaluation, probabilities, by, forced)


def _promote(
    call: Call,
    run: StoredRun,
    head: Champion | None,
    judge: Judge,
    evaluation: Evaluation,
    probabilities: Probabilities,
    by: str,
    forced: str | None,
) -> Ended:
    judgement = judge.decide(evaluation, probabilities, head)

    def decide(other: Champion | None) -> Verdict:
        nonlocal judgement
        judgement = judge.decide(evaluation, probabilities, other)
        return judgement.verdict

    outcome = registry.promote(
        judge.store, run, evaluation.accuracy, judgement.verdict, decide, by=by, forced=forced
    )
    _say_judgement(call, judgement)
    if outcome.made is None:
        return Ended(
            ExitCode.REJECTED,
            ("rejected", run.run_id, outcome.verdict.reason),
            {
                "kind": "rejected",
                "message": outcome.verdict.reason,
                "run_id": run.run_id,
                "verdict": outcome.verdict,
                "evaluation": evaluation,
                "champion": outcome.champion,
            },
        )
    reason = f"forced: {forced}" if forced is not None else outcome.verdict.reason
    ended = _in_force(judge.store, run, outcome.made, reason, word="promoted")
    return Ended(
        ended.code,
        ended.line,
        {
            **ended.found,
            "champion": outcome.champion,
            "verdict": outcome.verdict,
            "evaluation": evaluation,
        },
    )


def _in_force(store: Store, run: StoredRun, head: Champion, reason: str, word: str = "ok") -> Ended:
    return Ended(
        ExitCode.PROMOTED,
        (word, run.run_id, f"generation {head.generation}", reason),
        {
            "run_id": run.run_id,
            "champion": head,
            "location": store.location(registry.run_key(run.run_id)),
        },
    )


def _gate(call: Call, recorded: GateSettings) -> GateSettings:
    """The gate that a run was made for, but for what the command line says."""
    given = [name.partition(".")[2] for name in call.given if name.startswith("gate.")]
    return recorded.model_copy(update={name: getattr(call.settings.gate, name) for name in given})


def rollback(call: Call) -> Ended:
    """Make an earlier champion the champion again."""
    store = call.store()
    if registry.champion(store) is None:
        raise _no_champion(store)
    store.check()
    reason = call.own["reason"] or ""
    head = registry.rollback(store, call.own["run"], reason=reason, by="fmnist rollback")
    where = store.location(registry.run_key(head.run_id))
    return Ended(
        ExitCode.PROMOTED,
        ("ok", head.run_id, f"generation {head.generation}", f"before {head.previous}", where),
        {"champion": head, "location": where},
    )


def publish(call: Call) -> Ended:
    """Finish the publication of a run from the folder in which it was kept."""
    folder = _folder(call)
    manifest = folder / registry.MANIFEST
    if not manifest.is_file():
        raise SettingsError(
            f"{folder} is no finished run, since it has no {registry.MANIFEST}; the message of the "
            "run that failed names the folder"
        )
    store = call.store()
    safe_store = store.check()
    head = registry.champion(store)
    run = registry.publish(store, folder)
    verdict = registry.read_record(store, run, registry.VERDICT, Verdict)
    since = takewhile(lambda move: move.generation > verdict.generation, registry.history(store))
    if verdict.decided and not verdict.promoted:
        _say_verdict(call, verdict)
        found = {"kind": "rejected", "message": verdict.reason, "verdict": verdict}
        ended = Ended(
            ExitCode.REJECTED,
            ("rejected", run.run_id, verdict.reason),
            {**found, "run_id": run.run_id},
        )
    elif moved := next((move for move in since if move.run_id == run.run_id), None):
        ended = _in_force(store, run, moved, "was promoted already")
    else:
        ended = _ask_gate(call, store, run, head, safe_store, by="fmnist publish")
    removed = _remove_kept(folder, run.run_id, call.settings)
    note = () if removed else (f"{folder} is left as it is",)
    return Ended(ended.code, (*ended.line, *note), {**ended.found, "folder_removed": removed})


def _remove_kept(folder: Path, run_id: str, settings: Settings) -> bool:
    """Remove the folder of a run that is stored now, if it is the one that its job kept.

    A folder anywhere else is a person's own.
    """
    work = publication.work_folder(settings.store) / run_id
    if folder.resolve() != publication.finished(work).resolve():
        return False
    shutil.rmtree(work, ignore_errors=True)
    return not work.exists()


# ---- look after the store -----------------------------------------------------------------------


def verify(call: Call) -> Ended:
    """Read everything that the store holds, or one run, and tell what is wrong."""
    store = call.store()
    report = upkeep.verify(store, _networks().load_bytes, datetime.now(UTC), call.own["run"])
    damage = report.damage
    for problem in damage:
        call.say(f"damaged: {problem}")
    _say_leftovers(call, store, report.leftovers)
    size = sum(run.size for run in report.runs)
    safe = sum(found.safe for found in report.leftovers)
    line = (
        f"{_counted(len(report.runs), 'run')}, {_megabytes(size)} read",
        f"{_counted(len(report.leftovers), 'leftover')}, {safe:,} of them safe to delete",
    )
    code = ExitCode.DAMAGED if damage else ExitCode.PROMOTED
    above = f"damaged: {_counted(len(damage), 'fault')}, listed above"
    return Ended(
        code,
        ("failed", "-", above, *line) if damage else ("ok", *line),
        {
            **({"kind": "damaged", "message": "; ".join(damage)} if damage else {}),
            "runs": report.runs,
            "problems": report.problems,
            "leftovers": report.leftovers,
        },
    )


def _say_leftovers(call: Call, store: Store, leftovers: Sequence[upkeep.Leftover]) -> None:
    for found in leftovers:
        advice = "safe to delete" if found.safe else "may be in use"
        where = store.location(found.key)
        call.say(f"leftover: {where} {found.why} ({_megabytes(found.size)}); {advice}")


def prune(call: Call) -> Ended:
    """Remove old runs and leftovers, or only say which."""
    store, keep, now = call.store(), call.own["keep"], datetime.now(UTC)
    if registry.champion(store) is None:
        found, words = upkeep.Removal((), (), 0), "removed: there is no champion yet"
    elif call.own["delete"]:
        store.check()
        found, words = upkeep.prune(store, keep, now, by="fmnist prune"), "removed"
    else:
        found, words = upkeep.plan(store, keep, now), "would be removed; --delete does it"
    for run_id in found.runs:
        call.say(f"run       {run_id}")
    for leftover in found.leftovers:
        call.say(f"leftover  {store.location(leftover.key)} {leftover.why}")
    count = f"{_counted(len(found.runs), 'run')}, {_counted(len(found.leftovers), 'leftover')}"
    return Ended(
        ExitCode.PROMOTED,
        ("ok", f"{count} ({_megabytes(found.size)}) {words}"),
        {
            "runs": found.runs,
            "leftovers": found.leftovers,
            "size": found.size,
            "deleted": call.own["delete"],
        },
    )


def pull(call: Call) -> Ended:
    """Bring the champion into a folder of this machine."""
    pulled = upkeep.pull(call.store(), _folder(call))
    state = f"{len(pulled.files)} files" if pulled.new else "was there already, whole"
    return Ended(
        ExitCode.PROMOTED,
        ("ok", pulled.champion.run_id, state, str(pulled.folder)),
        {
            "champion": pulled.champion,
            "folder": pulled.folder,
            "files": pulled.files,
            "new": pulled.new,
        },
    )


def doctor(call: Call) -> Ended:
    """Look at everything that a run needs, before anyone trains."""
    from fmnist import doctor as examination

    findings = []
    for finding in examination.examine(call.settings):
        mark = "good" if finding.ok else "BAD "
        call.say(f"{mark}  {finding.name}: {finding.text}")
        findings.append(finding)
    bad = [finding for finding in findings if not finding.ok]
    if not bad:
        line = ("ok", f"{len(findings)} things looked at, all good")
        return Ended(ExitCode.PROMOTED, line, {"findings": findings})
    code = bad[0].exit_code
    kind, names = code.name.lower(), ", ".join(finding.name for finding in bad)
    message = f"{len(bad)} of {len(findings)} things are bad: {names}"
    return Ended(
        code,
        ("failed", "-", f"{kind}: {message}"),
        {"kind": kind, "message": message, "findings": findings},
    )


# ---- the parts of commands ----------------------------------------------------------------------


def _folder(call: Call) -> Path:
    """The folder that the command line names; a leading `~` is the user's home."""
    folder = Path(call.own["folder"])
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{folder} is in the home of an unknown user; correct it") from error


def _recorded_settings(store: Store, run: StoredRun) -> Settings:
    """The settings that a run was made with; what it did not know yet is at its default.

    Made section by section, since whole `Settings` would take from the environment what is missing.
    """
    where = store.location(f"{registry.run_key(run.run_id)}/{registry.SETTINGS}")
    tree = registry.read_record(store, run, registry.SETTINGS, dict[str, Any])
    try:
        recorded: dict[str, Any] = {
            name: kind.model_validate(tree.get(name, {})) for name, kind in sections().items()
        }
    except ValidationError as error:
        raise DamagedError(
            f"{where} cannot be read: {cli.describe_faults(error)[0]}; it was damaged or written "
            "by another version"
        ) from error
    return Settings.model_construct(**recorded)


def _test_data(call: Call) -> tuple[DataOrigin, LabelledImages]:
    """The test images of the settings' source, verified."""
    fetched = fetching.fetch(call.settings.data)
    return fetched.origin, read_labelled_images(fetched.test_images, fetched.test_labels)


def _scorer(test: LabelledImages) -> Callable[[bytes], Probabilities]:
    score: Callable[[bytes], Probabilities] = _networks().scorer(test.images)
    return score


def _networks() -> Any:
    """The module that needs TensorFlow, which takes seconds that other commands should not cost."""
    # TensorFlow and Keras read these as they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with cli.native_stderr_silenced():
        from fmnist import model

    return model


def _say_judgement(call: Call, judgement: Judgement) -> None:
    _say_verdict(call, judgement.verdict)
    against = judgement.against
    if isinstance(against, Comparison):
        call.say("", f"against the champion {against.champion}:", *_comparison_lines(against))


def _say_verdict(call: Call, verdict: Verdict) -> None:
    call.say("", f"{verdict.word}: {verdict.reason}")
    if verdict.rules:
        table = _table(
            "rule", "measured", "needed", "result", right=(1, 2), width=call.console.width
        )
        for rule in verdict.rules:
            result = Text("pass") if rule.passed else Text("FAIL", "red")
            table.add_row(rule.name, rule.measured, rule.needed, result)
        call.say(table)
    for note in verdict.notes:
        call.say(f"note: {note}")


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _table(*header: str, width: int, right: tuple[int, ...] = ()) -> Table:
    gap = 2 if width >= _WIDE else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold")
    return table


def _accuracy(accuracy: float, interval: Interval) -> str:
    return f"{accuracy:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _second(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


# ---- the command line ---------------------------------------------------------------------------


def _run_id(text: str) -> str:
    return registry.checked_run_id(text)


_RUN = Argument("run", "the id of a run", "RUN", _run_id, required=True)
_LIMIT = Argument("--limit", "how many to show, by default 20", "N", count_of, default=20)
_REASON = Argument("--reason", "why, kept in the history", "TEXT", reason_of)

COMMANDS: Mapping[str, Command] = {
    "runs": Command(
        runs,
        "list the runs, the newest first",
        (_LIMIT, Argument("--before", "only runs older than this one", "RUN", _run_id)),
    ),
    "show": Command(show, "show all about one run", (_RUN,)),
    "compare": Command(
        compare,
        "score two runs' models on the same test images",
        (
            Argument("first", "the id of a run", "RUN", _run_id, required=True),
            Argument("second", "the id of another", "RUN", _run_id, required=True),
        ),
        ("store", "data"),
        "With --json, every image that changed sides is listed.",
    ),
    "champion": Command(champion, "show the champion in force"),
    "history": Command(history, "show every move of the champion, the newest first", (_LIMIT,)),
    "promote": Command(
        promote,
        "make a stored run the champion, if it passes the gate",
        (
            _RUN,
            Argument("--force", "promote it whatever the verdict; needs --reason"),
            _REASON,
        ),
        ("store", "data", "gate"),
        "Every file of the run is read and checked, its model scored anew on the test images and\n"
        "compared with the champion. The gate is the one that the run was made for, as its\n"
        "settings.json says; a --gate option of the command line goes before it, while the\n"
        "environment and .env do not count here. A rejection is recorded, with exit code 3.",
    ),
    "rollback": Command(
        rollback,
        "make an earlier champion the champion again",
        (
            Argument("run", "which one; by default the one before", "RUN", _run_id),
            _REASON,
        ),
    ),
    "publish": Command(
        publish,
        "finish a run whose publication failed",
        (Argument("folder", "the folder that the failure's message names", "FOLDER", required=True),),
        ("store", "data", "gate"),
        "The run is stored and, unless it was rejected when it was trained, promoted as `promote`\n"
        "does. Harmless to repeat. Afterwards the folder is removed if it is the one that the job\n"
        "kept below store.work; a folder anywhere else is left as it is.",
    ),
    "verify": Command(
        verify,
        "read everything, or one run, and tell what is damaged",
        (Argument("run", "only this run", "RUN", _run_id),),
        more="Sizes, digests, whether each model loads, the champion and its history. What belongs to\n"
        "no run is listed too; it is no damage.",
    ),
    "prune": Command(
        prune,
        "remove old runs and leftovers; without --delete only say which",
        (
            Argument("--keep", "how many of the newest runs to keep", "N", count_of, required=True),
            Argument("--delete", "remove them"),
        ),
        more="Kept besides: the champion, the last N champions before it and those that rollbacks lead\n"
        "to, and what may be a run that is being published (no manifest yet, and something new in\n"
        "the last 24 hours).",
    ),
    "pull": Command(
        pull,
        "bring the champion, verified, into a folder",
        (
            Argument(
                "folder", "a folder that is not there yet; by default champion", "DIR",
                default="champion",
            ),
        ),
    ),
    "doctor": Command(
        doctor,
        "look at everything that a run needs, before anyone trains",
        sections=tuple(sections()),
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run one command; the last line on standard output sums it up, or JSON is all there is."""
    return console.main(COMMANDS, arguments)
