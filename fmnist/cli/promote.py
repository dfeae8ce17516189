"""Console commands that put a run through the gate, which takes TensorFlow."""

from typing import Annotated

from cyclopts import Parameter

from fmnist.cli.command import Context, Result, signature
from fmnist.cli.options import Folder, Reason, RunId, flag, takes_settings
from fmnist.cli.tables import say_verdict
from fmnist.errors import ExitCode, SettingsError
from fmnist.promotion import stored
from fmnist.registry import keys
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
        from fmnist.orchestration.events import announce_move  # slow

        announce_move(champion, location)
    still = ("the champion stays held",) if champion.held else ()
    return Result(
        ExitCode.OK,
        (word, run_id, f"generation {champion.generation}", reason, *still),
        {"champion": champion, "location": location, **found},
    )
