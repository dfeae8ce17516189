"""Console commands that change the champion."""

from typing import Annotated

from cyclopts import Parameter

from fmnist.cli.command import Context, Result, done, signature
from fmnist.cli.options import Reason, RunId, flag, takes_settings
from fmnist.prefect_import import may_name_a_server
from fmnist.registry import keys
from fmnist.registry.champion import existing_champion, roll_back, set_hold
from fmnist.registry.records import ChampionRecord
from fmnist.registry.runs import find_run_id
from fmnist.store.base import Store


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
    elif may_name_a_server():
        from fmnist.orchestration.events import announce_move  # slow

        announce_move(champion, where)
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
