"""Console commands that look after a store."""

from collections.abc import Sequence
from datetime import UTC, datetime

from fmnist.cli.app import Call, Ended
from fmnist.cli.tables import counted, folder_of, megabytes
from fmnist.errors import ExitCode
from fmnist.registry.champion import current_champion
from fmnist.registry.leftovers import Leftover
from fmnist.registry.prune import Removal, plan_prune, prune_store
from fmnist.registry.pull import pull_champion
from fmnist.registry.verify import verify_store
from fmnist.store.base import Store
from fmnist.tensorflow_import import quiet_tensorflow_import


def verify_runs(call: Call) -> Ended:
    """Read everything that the store holds, or one run, and tell what is wrong."""
    with quiet_tensorflow_import():
        from fmnist.training.model_file import load_model_bytes

    store = call.store()
    report = verify_store(store, load_model_bytes, datetime.now(UTC), call.own["run"])
    damage = report.damage
    for problem in damage:
        call.say(f"damaged: {problem}")
    _say_leftovers(call, store, report.leftovers)
    size = sum(run.size for run in report.runs)
    safe = sum(found.safe for found in report.leftovers)
    line = (
        f"{counted(len(report.runs), 'run')}, {megabytes(size)} read",
        f"{counted(len(report.leftovers), 'leftover')}, {safe:,} of them safe to delete",
    )
    code = ExitCode.DAMAGED if damage else ExitCode.OK
    above = f"damaged: {counted(len(damage), 'fault')}, listed above"
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


def _say_leftovers(call: Call, store: Store, leftovers: Sequence[Leftover]) -> None:
    for found in leftovers:
        advice = "safe to delete" if found.safe else "may be in use"
        where = store.location(found.key)
        call.say(f"leftover: {where} {found.why} ({megabytes(found.size)}); {advice}")


def prune_runs(call: Call) -> Ended:
    """Remove old runs and leftovers, or only say which."""
    store, keep, now = call.store(), call.own["keep"], datetime.now(UTC)
    if current_champion(store) is None:
        found, words = Removal((), (), 0), "removed: there is no champion yet"
    elif call.own["delete"]:
        store.check()
        found, words = prune_store(store, keep, now, by="fmnist prune"), "removed"
    else:
        found, words = plan_prune(store, keep, now), "would be removed; --delete does it"
    for run_id in found.runs:
        call.say(f"run       {run_id}")
    for leftover in found.leftovers:
        call.say(f"leftover  {store.location(leftover.key)} {leftover.why}")
    count = f"{counted(len(found.runs), 'run')}, {counted(len(found.leftovers), 'leftover')}"
    return Ended(
        ExitCode.OK,
        ("ok", f"{count} ({megabytes(found.size)}) {words}"),
        {
            "runs": found.runs,
            "leftovers": found.leftovers,
            "size": found.size,
            "deleted": call.own["delete"],
        },
    )


def pull_model(call: Call) -> Ended:
    """Bring the champion into a folder of this machine."""
    pulled = pull_champion(call.store(), folder_of(call))
    state = f"{len(pulled.files)} files" if pulled.new else "was there already, whole"
    return Ended(
        ExitCode.OK,
        ("ok", pulled.champion.run_id, state, str(pulled.folder)),
        {
            "champion": pulled.champion,
            "folder": pulled.folder,
            "files": pulled.files,
            "new": pulled.new,
        },
    )


def run_doctor(call: Call) -> Ended:
    """Look at everything that a run needs, before anyone trains."""
    from fmnist.cli import doctor as examination

    findings = []
    for finding in examination.examine(call.settings):
        mark = "good" if finding.ok else "BAD "
        call.say(f"{mark}  {finding.name}: {finding.text}")
        findings.append(finding)
    bad = [finding for finding in findings if not finding.ok]
    if not bad:
        line = ("ok", f"{len(findings)} things looked at, all good")
        return Ended(ExitCode.OK, line, {"findings": findings})
    code = bad[0].exit_code
    kind, names = code.name.lower(), ", ".join(finding.name for finding in bad)
    message = f"{len(bad)} of {len(findings)} things are bad: {names}"
    return Ended(
        code,
        ("failed", "-", f"{kind}: {message}"),
        {"kind": kind, "message": message, "findings": findings},
    )
