"""Console commands that change the champion."""

from typing import Annotated

from cyclopts import Parameter

from fmnist.cli.command import Context, Result, done, signature
from fmnist.cli.options import Folder, Reason, RunId, flag, takes_settings
from fmnist.cli.tables import say_verdict
from fmnist.errors import ExitCode, SettingsError
from fmnist.promotion import stored
from fmnist.registry import keys
from fmnist.registry.champion import existing_champion, roll_back, set_hold
from fmnist.registry.records import ChampionRecord
from fmnist.registry.runs import find_run_id
from fmnist.store.base import Store


@takes_settings("store", "data", "gate")
def promote(
    context: Context,
    run: RunId,
    /,
    *,
    force: Annotated[bool, flag("Promote it whatever the verdict; needs --reason.")] = False,
    reason: Reason = None,
) -> Result:
    """Make a stored run the champion, if it passes the gate.

    Every file of the run is read and checked, and its model scored again on the test images and
    compared with the champion. The gate is the one recorded in the run's settings.json; only --gate
    options on the command line take precedence, not the environment or .env. A rejection is
    recorded, with exit code 3.
    """
    if force and reason is None:
        raise SettingsError("--force needs --reason TEXT, which is kept in the history")
    if reason is not None and not force:
        raise SettingsError("--reason needs --force; without it, the verdict is the reason")
    store = context.store()
    run = find_run_id(store, run)
    request = _request(context, signature("promote"), reason)
    return _result(context, store, stored.promote_stored_run(store, run, request))


@takes_settings("store", "data", "gate")
def publish_folder(
    context: Context,
    folder: Annotated[Folder, Parameter(help="The folder that the failure's message names.")],
    /,
) -> Result:
    """Finish a run whose publication failed.

    The run is stored and, unless it was rejected when it was trained, promoted as by `promote`.
    Safe to repeat. The folder is then removed if it is the one that the job kept below store.work;
    any other folder is left as it is.
    """
    store = context.store(may_be_new=True)
    promotion = stored.publish_kept_run(store, folder, _request(context, signature("publish")))
    result = _result(context, store, promotion)
    removed = stored.remove_kept_folder(folder, promotion.run_id, context.settings)
    note = () if removed else (f"{folder} is left as it is",)
    document = {**result.document, "folder_removed": removed}
    return Result(result.code, (*result.line, *note), document)


@takes_settings("store")
def rollback(
    context: Context,
    run: Annotated[
        RunId | None, Parameter(help="An earlier champion; by default the previous.")
    ] = None,
    /,
    *,
    reason: Reason = None,
    no_hold: Annotated[bool, flag("Let the next run that passes the gate replace it.")] = False,
) -> Result:
    """Make an earlier champion the champion again, and hold it.

    It stays the champion until `fmnist release`, whichever runs pass the gate; with --no-hold, only
    until the next one does.
    """
    store = context.store()
    # Before the check, which would create the store's folder.
    before = existing_champion(store)
    if run is not None:
        run = find_run_id(store, run)
    store.check()
    champion = roll_back(
        store, run, reason=reason or "", by=signature("rollback"), hold=not no_hold
    )
    return _moved(store, before, champion, f"before {champion.previous}")


@takes_settings("store")
def hold(context: Context, *, reason: Reason = None) -> Result:
    """Hold the champion: no run replaces it, whatever the gate says.

    Runs are still judged and stored; one that passes has the verdict "held". `fmnist rollback` and
    `fmnist promote --force` still work, and leave the champion held.
    """
    return _set_hold(context, True, reason)


@takes_settings("store")
def release(context: Context, *, reason: Reason = None) -> Result:
    """Let runs that pass the gate replace the champion again."""
    return _set_hold(context, False, reason)


def _set_hold(context: Context, held: bool, reason: str | None) -> Result:
    store = context.store()
    before = existing_champion(store)
    store.check()
    by = signature("hold" if held else "release")
    champion = set_hold(store, held=held, reason=reason or "", by=by)
    return _moved(store, before, champion)


def _moved(store: Store, before: ChampionRecord, champion: ChampionRecord, *further: str) -> Result:
    """Announce a person's move, and say what the champion is now."""
    where = store.location(keys.of_run(champion.run_id))
    if champion.generation == before.generation:
        further = ("nothing to change",)
    else:
        _announce(champion, where)
    state = "held until `fmnist release`" if champion.held else "not held"
    return done(
        champion.run_id,
        f"generation {champion.generation}",
        *further,
        state,
        where,
        champion=champion,
        location=where,
    )


def _announce(champion: ChampionRecord, where: str) -> None:
    from fmnist.orchestration.events import announce_move  # slow

    announce_move(champion, where)


def _request(context: Context, by: str, forced: str | None = None) -> stored.GateRequest:
    """Of the gate, only options on the command line replace what is recorded in the run."""
    given = [name.partition(".")[2] for name in context.overrides if name.startswith("gate.")]
    overrides = {name: getattr(context.settings.gate, name) for name in given}
    return stored.GateRequest(context.settings, overrides, by, forced)


def _result(context: Context, store: Store, promotion: stored.Promotion) -> Result:
    """Show what was decided, and sum it up."""
    decision, run_id, reason = promotion.decision, promotion.run_id, promotion.reason
    found: dict[str, object] = {"run_id": run_id}
    if promotion.verdict:
        say_verdict(context, promotion.verdict, decision.against if decision else None)
        found["verdict"] = promotion.verdict
    if decision:
        found |= {"evaluation": decision.evaluation, "champion": promotion.champion}
    champion = promotion.promoted_by
    if champion is None:
        word = promotion.verdict.word if promotion.verdict else "rejected"
        line = (word, run_id, reason)
        return Result(ExitCode.REJECTED, line, {"message": reason, **found})
    word = "promoted" if promotion.verdict else "ok"
    location = store.location(keys.of_run(run_id))
    if promotion.verdict:
        _announce(champion, location)
    still = ("the champion stays held",) if champion.held else ()
    return Result(
        ExitCode.OK,
        (word, run_id, f"generation {champion.generation}", reason, *still),
        {"champion": champion, "location": location, **found},
    )
