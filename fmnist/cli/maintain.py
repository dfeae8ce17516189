"""Console commands that look after a store."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fmnist.cli.command import Context, Result, done, signature
from fmnist.cli.options import Count, Folder, RunId, flag, takes_settings
from fmnist.cli.tables import counted, megabytes
from fmnist.errors import ExitCode
from fmnist.registry.champion import current_champion
from fmnist.registry.prune import Removal, plan_prune, prune_store
from fmnist.registry.pull import pull_champion
from fmnist.registry.runs import find_run_id
from fmnist.registry.verify import verify_store
from fmnist.settings import sections
from fmnist.tensorflow_import import quiet_tensorflow_import


@takes_settings("store")
def verify_runs(
    context: Context,
    run: Annotated[RunId | None, Parameter(help="Verify only this run.")] = None,
    /,
) -> Result:
    """Read the whole store, or one run, and report damage.

    Checks sizes, digests, whether each model loads, the champion and its history. Files that belong
    to no run are listed too; they are not damage.
    """
    with quiet_tensorflow_import():
        from fmnist.training.model_file import load_model_bytes

    store = context.store()
    if run is not None:
        run = find_run_id(store, run)
    report = verify_store(store, load_model_bytes, datetime.now(UTC), run)
    damage = report.damage
    for problem in damage:
        context.say(f"damaged: {problem}")
    for left in report.leftovers:
        advice = "safe to delete" if left.safe else "may be in use"
        where = f"{store.location(left.key)} {left.why} ({megabytes(left.size)})"
        context.say(f"leftover: {where}; {advice}")
    size = sum(verified.size for verified in report.runs)
    safe = sum(left.safe for left in report.leftovers)
    line = (
        f"{counted(len(report.runs), 'run')}, {megabytes(size)} read",
        f"{counted(len(report.leftovers), 'leftover')}, {safe:,} of them safe to delete",
    )
    found = {"runs": report.runs, "problems": report.problems, "leftovers": report.leftovers}
    if not damage:
        return done(*line, **found)
    above = f"damaged: {counted(len(damage), 'fault')}, listed above"
    document = {"message": "; ".join(damage), **found}
    return Result(ExitCode.DAMAGED, ("failed", "-", above, *line), document)


@takes_settings("store")
def prune_runs(
    context: Context,
    *,
    keep: Annotated[Count, Parameter(help="How many of the newest runs to keep.")],
    delete: Annotated[bool, flag("Remove them; without it they are only listed.")] = False,
) -> Result:
    """Remove old runs and leftovers, or list what would go.

    Each run that is kept is listed with the reason. Besides the newest these are the champion, the
    N champions before it and those that rollbacks lead to, and anything that may be a run that is
    being published (no manifest yet, and a file from the last 24 hours).
    """
    store, now = context.store(), datetime.now(UTC)
    if current_champion(store) is None:
        found, words = Removal((), (), 0), "removed: there is no champion yet"
    elif delete:
        store.check()
        found, words = prune_store(store, keep, now, by=signature("prune")), "removed"
    else:
        found, words = plan_prune(store, keep, now), "would be removed; --delete does it"
    for kept, why in found.kept.items():
        context.say(f"keep      {kept} {why}")
    for run_id in found.runs:
        context.say(f"run       {run_id}")
    for leftover in found.leftovers:
        context.say(f"leftover  {store.location(leftover.key)} {leftover.why}")
    count = f"{counted(len(found.runs), 'run')}, {counted(len(found.leftovers), 'leftover')}"
    return done(f"{count} ({megabytes(found.size)}) {words}", **vars(found), deleted=delete)


@takes_settings("store")
def pull_model(
    context: Context,
    folder: Annotated[Folder, Parameter(help="A folder that does not exist yet.")] = Path(
        "champion"
    ),
    /,
) -> Result:
    """Copy the champion, verified, into a folder."""
    pulled = pull_champion(context.store(), folder)
    state = f"{len(pulled.files)} files" if pulled.new else "was there already, complete"
    return done(pulled.champion.run_id, state, str(pulled.folder), **vars(pulled))


@takes_settings(*sections())
def run_doctor(context: Context) -> Result:
    """Check everything a run needs, before anyone trains."""
    from fmnist.cli import doctor as examination

    findings = []
    for finding in examination.examine(context.settings):
        mark = "good" if finding.ok else "BAD "
        context.say(f"{mark}  {finding.name}: {finding.text}")
        findings.append(finding)
    bad = [finding for finding in findings if not finding.ok]
    if not bad:
        return done(f"{len(findings)} checks, all good", findings=findings)
    code, names = bad[0].exit_code, ", ".join(finding.name for finding in bad)
    message = f"{len(bad)} of {len(findings)} checks failed: {names}"
    line = ("failed", "-", f"{code.name.lower()}: {message}")
    return Result(code, line, {"message": message, "findings": findings})
