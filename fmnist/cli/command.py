"""What every command line does: read the arguments, run one command, and sum it up in one line.

A command is a function that takes a `Context` and its own arguments, shows what a person reads, and
returns a `Result`: the line that sums it up, and the same for a program.
"""

import getpass
import inspect
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Group, UnknownCommandError
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError
from pydantic_core import to_json
from rich.console import Console, RenderableType

from fmnist import process
from fmnist.cli.options import JSON, pop_settings
from fmnist.configure import hide_secrets, load_named_settings, suggest
from fmnist.errors import (
    ExitCode,
    JobError,
    SettingsError,
    StoreError,
    printable,
    without_credentials,
)
from fmnist.settings import Settings
from fmnist.store.base import Store, open_store

_NO_TERMINAL = 1000
_LONGEST_SIGNATURE = 200


@dataclass(frozen=True)
class Context:
    """What a command works with.

    Attributes:
        settings: all settings.
        overrides: the settings given on the command line, by dotted name.
        console: what a person reads; it shows nothing if a program reads.
    """

    settings: Settings
    overrides: Mapping[str, str]
    console: Console

    def store(self, *, may_be_new: bool = False) -> Store:
        """The store of the settings; a `StoreError` if its folder must exist and does not."""
        settings = self.settings.store
        if "://" not in settings.url and not may_be_new:
            folder = Path(settings.url).expanduser()
            # As for a link, whatever is there in a folder's place is reported by the store.
            if not os.path.lexists(folder):
                raise StoreError(
                    f"store folder {folder.absolute()} does not exist; set store.url to where runs "
                    'are published (for the stack: eval "$(python deployments/stack.py env)"), or '
                    "train a first run"
                )
        return open_store(settings.url, single_publisher=settings.single_publisher)

    def say(self, *parts: RenderableType) -> None:
        """Show lines, which the terminal wraps, or tables; what is stored cannot fake a line."""
        for part in parts:
            if isinstance(part, str):
                self.console.print(printable(part), soft_wrap=True)
            else:
                self.console.print(part)


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        code: the exit code.
        line: the fields of the last line on standard output; if empty, there is no such line.
        document: what a program gets besides the exit code.
    """

    code: ExitCode = ExitCode.OK
    line: tuple[str, ...] = ()
    document: Mapping[str, object] = field(default_factory=dict)


def done(*line: str, **document: object) -> Result:
    """A command that succeeded: what its last line says after `ok`, and what a program gets."""
    return Result(ExitCode.OK, ("ok", *line), document)


def signature(command: str) -> str:
    """The program, and who runs it, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "unknown"
    who = f"fmnist {command}, {user}@{platform.node()}"
    return "".join(character for character in who if character.isprintable())[:_LONGEST_SIGNATURE]


def make_app(name: str, summary: str, **options: Any) -> App:
    """A command line without commands, whose help ends with the exit codes."""
    codes = "\n".join(f"  {int(code):3}  {code.meaning}" for code in ExitCode)
    return App(
        name=name,
        help=summary,
        help_format="plaintext",
        group_parameters=Group.create_default_parameters("Options"),
        help_epilogue=f"Exit codes:\n{codes}",
        **options,
    )


def run(app: App, arguments: Sequence[str] | None = None, *, json: bool = True) -> ExitCode:
    """Run a command; the last line on standard output sums it up, or JSON is all there is."""
    start = datetime.now(UTC)
    words = sys.argv[1:] if arguments is None else arguments
    for_programs = json and JSON in words
    process.start_command()
    # Without a terminal nothing is wrapped, so that each row is one line.
    width = None if sys.stdout.isatty() else _NO_TERMINAL
    console = Console(markup=False, highlight=False, quiet=for_programs, width=width)
    try:
        with process.interruptible():
            process.check_current_folder()
            command, positional, named = parse(app, words, console)
            result = command(*positional, **named)
        result = result if isinstance(result, Result) else Result()  # of --help or --version
    except JobError as error:
        if "\n" in str(error) and not error.run_id:  # else the flow has logged it
            sys.stderr.write(f"{error}\n")
        result = Result(error.exit_code, (failure_line(error),), {"message": str(error)})
    except KeyboardInterrupt:
        seconds = f"after {(datetime.now(UTC) - start).total_seconds():.0f} s"
        result = Result(ExitCode.INTERRUPTED, ("interrupted", seconds), {"message": seconds})
    except Exception as error:
        traceback.print_exc()
        message = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        result = Result(ExitCode.DEFECT, ("defect", message), {"message": message})
    if result.line:
        end = _document(result) if for_programs else printable("  ".join(result.line))
        Console(markup=False, width=width).out(end, highlight=False)
    process.end_command(result.code)
    return result.code


def _document(result: Result) -> str:
    document: dict[str, object] = {"ok": result.code == 0, "exit_code": int(result.code)}
    if result.code != ExitCode.OK:
        document["kind"] = result.code.name.lower()
    return to_json(document | dict(result.document), indent=2, inf_nan_mode="null").decode()


def failure_line(error: JobError) -> str:
    """The last line of a failed command; it has the first line of a message with several."""
    first, *rest = str(error).splitlines()
    if rest:
        first += f" (and {len(rest)} more {'line' if len(rest) == 1 else 'lines'} above)"
    return f"failed  {error.run_id or '-'}  {error.exit_code.name.lower()}: {first}"


def parse(
    app: App, words: Sequence[str], console: Console
) -> tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]:
    """The function that a command line asks for, and its arguments, the `Context` first.

    `--help`, `--version` and `--install-completion` work without settings and get no `Context`. A
    `SettingsError` has one line for each argument, option or setting that is wrong.
    """
    if not words and app.default_command is None:
        raise SettingsError(_no_command(app, ""))
    try:
        command, bound, unused, _ = app.parse_known_args(words, console=Console(highlight=False))
    except UnknownCommandError as error:
        raise SettingsError(_no_command(app, (error.unused_tokens or [""])[0])) from error
    except (CycloptsError, SettingsError) as error:
        options = [word for word in app.parse_commands(words)[2] if word.startswith("-")]
        faults = _not_understood(app, words, options)
        if not (faults and isinstance(error, UnknownOptionError)):
            faults.append(_describe(error, app, words))
        raise SettingsError("\n".join(faults)) from error
    if not hasattr(command, "__signature__"):
        _show_docstring(app, words)
        return command, bound.args, bound.kwargs
    overrides = pop_settings(bound.arguments)
    faults = _not_understood(app, words, unused)
    try:
        settings = load_named_settings(overrides)
    except SettingsError as error:
        faults.append(str(error))
    if faults:
        raise SettingsError("\n".join(faults))
    return command, (Context(settings, overrides, console), *bound.args), bound.kwargs


def _show_docstring(app: App, words: Sequence[str]) -> None:
    """Let a command's own help be its complete docstring, not the line in the list of commands."""
    for found in app.parse_commands(words)[1]:
        if hasattr(found.default_command, "__signature__") and found is not app:
            found.help = docstring(found.default_command)


def docstring(command: object) -> str:
    """A command's docstring, with each paragraph on one line."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _no_command(app: App, word: str) -> str:
    program = app.name[0]
    if not word or word.startswith("-"):
        return f"a command is required, such as `{program} runs`; `{program} --help` lists them"
    commands = [name for name in app if not name.startswith("-")]
    hint = suggest(word, commands) or f"`{program} --help` lists all"
    return f"{hide_secrets(word)} is not a command; {hint}"


def _not_understood(app: App, words: Sequence[str], unused: Sequence[str]) -> list[str]:
    """A line for each word that is no option; the value of an unknown option belongs to it."""
    _, apps, _ = app.parse_commands(words)
    options = [n for argument in apps[-1].assemble_argument_collection() for n in argument.names]
    faults = []
    before = ""
    for word in unused:
        name = word.partition("=")[0]
        if name.startswith("-") and name not in options:
            hint = suggest(name, options) or "see --help for all options"
            faults.append(f"{name[:100]}: no such option; {hint}")
        elif not word.startswith("-") and (not before.startswith("-") or "=" in before):
            shown = hide_secrets(word).strip("'")
            faults.append(f"{shown}: unexpected argument; options are written --name VALUE")
        before = word
    return faults


def _describe(error: CycloptsError | SettingsError, app: App, words: Sequence[str]) -> str:
    """One line about an argument that the command line lacks, or that is wrong."""
    if isinstance(error, SettingsError):
        return str(error)
    if isinstance(error, MissingArgumentError) and error.argument:
        if error.keyword:
            return f"{error.keyword} needs a value"
        name = error.argument.name
        name = name if name.startswith("--") else name.upper()
        chain, _, _ = app.parse_commands(words)
        return f"{name} is required; see `{' '.join([app.name[0], *chain])} --help`"
    error.verbose = False
    return without_credentials(" ".join(str(error).split()))
