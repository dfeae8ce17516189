"""The command `fmnist`: a function for each command, imported only when it runs."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from fmnist.cli.command import Result, done, make_app, run
from fmnist.errors import ExitCode, SettingsError

app = make_app(
    "fmnist",
    "Look at the store that the training job publishes to, and look after it.\n\n"
    "The last line on standard output sums a command up; with --json, standard output is one JSON "
    "document. Settings are options, environment variables or lines of .env, as for "
    "flows/train.py; each command's --help lists those it uses.",
    usage="Usage: fmnist COMMAND [ARGUMENTS] [--section.name VALUE ...] [--json]",
)
# The help is each function's first line, repeated here so that listing commands imports none.
_COMMANDS = (
    ("runs", "inspect:list_runs", "List the runs, newest first."),
    ("show", "inspect:show_run", "Show everything about one run."),
    ("compare", "compare:compare_runs", "Score two runs' models on the same test images."),
    ("champion", "inspect:show_champion", "Show the current champion."),
    ("history", "inspect:show_history", "Show every change of the champion, newest first."),
    ("promote", "promote:promote", "Make a stored run the champion, if it passes the gate."),
    ("rollback", "decide:rollback", "Make an earlier champion the champion again, and hold it."),
    ("hold", "decide:hold", "Hold the champion: no run replaces it, whatever the gate says."),
    ("release", "decide:release", "Let runs that pass the gate replace the champion again."),
    ("publish", "promote:publish_folder", "Finish a run whose publication failed."),
    ("verify", "maintain:verify_runs", "Read the whole store, or one run, and report damage."),
    ("prune", "maintain:prune_runs", "Remove old runs and leftovers, or list what would go."),
    ("pull", "maintain:pull_model", "Copy the champion, verified, into a folder."),
    ("doctor", "maintain:run_doctor", "Check everything a run needs, before anyone trains."),
)
for index, (name, function, summary) in enumerate(_COMMANDS):
    app.command(f"fmnist.cli.{function}", name=name, help=summary, sort_key=index)


@app.command(name="--install-completion")
def install_completion(*, shell: Literal["bash", "zsh", "fish"] | None = None) -> Result:
    """Install completion of commands and options for bash, zsh or fish.

    Without --shell, for the shell that this is run from.
    """
    from cyclopts.completion.detect import ShellDetectionError

    try:
        script = app.install_completion(shell=shell)
    except ShellDetectionError as error:
        raise SettingsError("the shell is unknown; add --shell bash, zsh or fish") from error
    except OSError as error:
        raise SettingsError(f"the completion cannot be installed: {error}") from error
    return done(f"installed in {script}", "open a new shell to use it", script=script)


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run one command; the last line on standard output sums it up, or JSON is all there is."""
    with _log_on_stderr():
        return run(app, arguments)


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show what the package logs, such as the progress of a download."""
    package, handler = logging.getLogger("fmnist"), logging.StreamHandler(sys.stderr)
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
