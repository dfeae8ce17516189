"""Console commands that change the champion."""

from fmnist.cli.app import Call, Ended
from fmnist.cli.tables import folder_of, no_champion, say_judgement, say_verdict
from fmnist.errors import ExitCode, SettingsError
from fmnist.promotion.stored import (
    GateRequest,
    Promotion,
    promote_stored_run,
    publish_kept_run,
    remove_kept_folder,
)
from fmnist.registry.champion import current_champion, roll_back
from fmnist.registry.records import run_key
from fmnist.store.base import Store


def promote(call: Call) -> Ended:
    """Ask the gate about a stored run, and make it the champion if it passes."""
    forced = call.own["reason"]
    if call.own["force"] and forced is None:
        raise SettingsError("--force needs --reason TEXT, which is kept in the history")
    if forced is not None and not call.own["force"]:
        raise SettingsError("--reason goes with --force: else the verdict is the reason")
    store = call.store()
    promotion = promote_stored_run(store, call.own["run"], _request(call, "fmnist promote", forced))
    return _ended(call, store, promotion)


def publish_folder(call: Call) -> Ended:
    """Finish the publication of a run from the folder in which it was kept."""
    folder, store = folder_of(call), call.store()
    promotion = publish_kept_run(store, folder, _request(call, "fmnist publish"))
    ended = _ended(call, store, promotion)
    removed = remove_kept_folder(folder, promotion.run_id, call.settings)
    note = () if removed else (f"{folder} is left as it is",)
    return Ended(ended.code, (*ended.line, *note), {**ended.found, "folder_removed": removed})


def rollback(call: Call) -> Ended:
    """Make an earlier champion the champion again."""
    store = call.store()
    if current_champion(store) is None:
        raise no_champion(store)
    store.check()
    reason = call.own["reason"] or ""
    head = roll_back(store, call.own["run"], reason=reason, by="fmnist rollback")
    where = store.location(run_key(head.run_id))
    return Ended(
        ExitCode.OK,
        ("ok", head.run_id, f"generation {head.generation}", f"before {head.previous}", where),
        {"champion": head, "location": where},
    )


def _request(call: Call, by: str, forced: str | None = None) -> GateRequest:
    """Only what the command line says of the gate replaces what is recorded in the run."""
    given = [name.partition(".")[2] for name in call.given if name.startswith("gate.")]
    overrides = {name: getattr(call.settings.gate, name) for name in given}
    return GateRequest(call.settings, overrides, by, forced)


def _ended(call: Call, store: Store, promotion: Promotion) -> Ended:
    """Show what was decided, and sum it up."""
    if promotion.decision:
        say_judgement(call, promotion.decision)
    elif promotion.verdict:
        say_verdict(call, promotion.verdict)
    found: dict[str, object] = {"run_id": promotion.run_id}
    if promotion.verdict:
        found["verdict"] = promotion.verdict
    if promotion.decision:
        found |= {"evaluation": promotion.decision.evaluation, "champion": promotion.champion}
    head = promotion.promoted_by
    if head is None:
        return Ended(
            ExitCode.REJECTED,
            ("rejected", promotion.run_id, promotion.reason),
            {"kind": "rejected", "message": promotion.reason, **found},
        )
    location = store.location(run_key(promotion.run_id))
    return Ended(
        ExitCode.OK,
        (
            "promoted" if promotion.verdict else "ok",
            promotion.run_id,
            f"generation {head.generation}",
            promotion.reason,
        ),
        {"champion": head, "location": location, **found},
    )
