"""The console commands with their arguments and help."""

from collections.abc import Mapping, Sequence

from fmnist.cli import app
from fmnist.cli.app import Argument, Command, count_of, reason_of
from fmnist.cli.decide import promote, publish_folder, rollback
from fmnist.cli.inspect import compare_runs, list_runs, show_champion, show_history, show_run
from fmnist.cli.maintain import prune_runs, pull_model, run_doctor, verify_runs
from fmnist.errors import ExitCode
from fmnist.registry.records import checked_run_id
from fmnist.settings import sections


def _run_id(text: str) -> str:
    return checked_run_id(text)


_RUN = Argument("run", "the id of a run", "RUN", _run_id, required=True)
_LIMIT = Argument("--limit", "how many to show, by default 20", "N", count_of, default=20)
_REASON = Argument("--reason", "why, kept in the history", "TEXT", reason_of)
COMMANDS: Mapping[str, Command] = {
    "runs": Command(
        list_runs,
        "list the runs, the newest first",
        (_LIMIT, Argument("--before", "only runs older than this one", "RUN", _run_id)),
    ),
    "show": Command(show_run, "show all about one run", (_RUN,)),
    "compare": Command(
        compare_runs,
        "score two runs' models on the same test images",
        (
            Argument("first", "the id of a run", "RUN", _run_id, required=True),
            Argument("second", "the id of another", "RUN", _run_id, required=True),
        ),
        ("store", "data"),
        "With --json, every image that changed sides is listed.",
    ),
    "champion": Command(show_champion, "show the champion in force"),
    "history": Command(show_history, "show every move of the champion, the newest first", (_LIMIT,)),
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
        publish_folder,
        "finish a run whose publication failed",
        (Argument("folder", "the folder that the failure's message names", "FOLDER", required=True),),
        ("store", "data", "gate"),
        "The run is stored and, unless it was rejected when it was trained, promoted as `promote`\n"
        "does. Harmless to repeat. Afterwards the folder is removed if it is the one that the job\n"
        "kept below store.work; a folder anywhere else is left as it is.",
    ),
    "verify": Command(
        verify_runs,
        "read everything, or one run, and tell what is damaged",
        (Argument("run", "only this run", "RUN", _run_id),),
        more="Sizes, digests, whether each model loads, the champion and its history. What belongs to\n"
        "no run is listed too; it is no damage.",
    ),
    "prune": Command(
        prune_runs,
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
        pull_model,
        "bring the champion, verified, into a folder",
        (
            Argument(
                "folder", "a folder that is not there yet; by default champion", "DIR",
                default="champion",
            ),
        ),
    ),
    "doctor": Command(
        run_doctor,
        "look at everything that a run needs, before anyone trains",
        sections=tuple(sections()),
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run one command; the last line on standard output sums it up, or JSON is all there is."""
    return app.main(COMMANDS, arguments)
