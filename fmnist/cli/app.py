"""What all console commands share: their arguments, how they end, and the loop around them.

A command is a function that gets a `Call`, shows what a person reads, and returns how it ended: the
line that sums it up, and the same for a machine.
"""

import argparse
import contextlib
import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from pydantic_core import to_json
from rich.console import Console, RenderableType

from fmnist.cli.options import Parser, asks_for_help, failed, help_on_exit_codes, help_on_settings
from fmnist.errors import ExitCode, JobError, SettingsError, without_credentials
from fmnist.settings import Settings
from fmnist.store.base import Store, open_store

PROGRAM = "fmnist"
_LARGEST_COUNT = 1_000_000
_LONGEST_REASON = 500
_NO_TERMINAL = 1000


@dataclass(frozen=True)
class Call:
    """What a command is given.

    `own` are its own arguments, `given` the settings of the command line by their dotted names;
    `console` shows nothing where a machine reads.
    """

    own: Mapping[str, Any]
    given: Mapping[str, str]
    settings: Settings
    console: Console

    def store(self) -> Store:
        """The store of the settings."""
        settings = self.settings.store
        return open_store(settings.url, single_publisher=settings.single_publisher)

    def say(self, *parts: RenderableType) -> None:
        """Show lines, which the terminal breaks, or tables."""
        for part in parts:
            self.console.print(part, soft_wrap=isinstance(part, str))


@dataclass(frozen=True)
class Ended:
    """How a command ended: the fields of its last line, and what a machine gets beside the code."""

    code: ExitCode
    line: tuple[str, ...]
    found: Mapping[str, object]


@dataclass(frozen=True)
class Argument:
    """An argument of a command: `metavar` stands for its value in the help; a flag has none."""

    name: str
    meaning: str
    metavar: str = ""
    read: Callable[[str], object] = str
    default: object = None
    required: bool = False

    @property
    def usage(self) -> str:
        """How it is written."""
        written = self.metavar
        if self.name.startswith("-"):
            written = f"{self.name} {self.metavar}".strip()
        return written if self.required else f"[{written}]"

    def add_to(self, parser: Parser) -> None:
        """Let a parser know it."""
        if not self.metavar:
            parser.add_argument(self.name, action="store_true")
        elif self.name.startswith("-"):
            parser.add_argument(
                self.name, type=self.read, default=self.default, required=self.required,
                metavar=self.metavar,
            )  # fmt: skip
        else:
            parser.add_argument(
                self.name, type=self.read, default=self.default, metavar=self.metavar,
                nargs=None if self.required else "?",
            )  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command: what its help says, its arguments, and the sections of the settings it uses."""

    run: Callable[[Call], Ended]
    summary: str
    arguments: tuple[Argument, ...] = ()
    sections: tuple[str, ...] = ("store",)
    more: str = ""


def count_of(text: str) -> int:
    """A number of things.

    Raises:
        ArgumentTypeError: it is none, or out of range.
    """
    with contextlib.suppress(ValueError):
        if 1 <= (count := int(text)) <= _LARGEST_COUNT:
            return count
    raise argparse.ArgumentTypeError(
        f"{text[:100]!r} was given; allowed: integer from 1 to {_LARGEST_COUNT}"
    )


def reason_of(text: str) -> str:
    """A person's words, on one line.

    Raises:
        ArgumentTypeError: there are none, too many, or some that cannot be shown.
    """
    words = " ".join(text.split())
    if not words or len(words) > _LONGEST_REASON or not words.isprintable():
        raise argparse.ArgumentTypeError(
            f"a reason is a line of 1 to {_LONGEST_REASON} printable characters"
        )
    return words


JSON = Argument("--json", "print one JSON document for machines, and nothing else")


def main(commands: Mapping[str, Command], arguments: Sequence[str] | None) -> ExitCode:
    """Run one of the commands; the last line on standard output sums it up, or JSON is all there is."""
    start = datetime.now(UTC)
    signal.signal(signal.SIGTERM, _interrupt)
    words = list(sys.argv[1:] if arguments is None else arguments)
    for_machines = JSON.name in words
    try:
        with _log_on_stderr():
            ended = _run(commands, words, _console(quiet=for_machines))
    except JobError as error:
        if "\n" in str(error):
            sys.stderr.write(f"{error}\n")
        found = {"kind": error.exit_code.name.lower(), "message": str(error)}
        ended = Ended(error.exit_code, (failed(error),), found)
    except KeyboardInterrupt:
        message = f"after {(datetime.now(UTC) - start).total_seconds():.0f} s"
        ended = _cut_short(ExitCode.INTERRUPTED, "interrupted", message)
    except Exception as error:
        traceback.print_exc()
        message = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        ended = _cut_short(ExitCode.DEFECT, "defect", message)
    if ended is not None:
        _print_end(ended, for_machines)
    return ended.code if ended else ExitCode.OK


def _cut_short(code: ExitCode, kind: str, message: str) -> Ended:
    return Ended(code, (kind, message), {"kind": kind, "message": message})


def _run(commands: Mapping[str, Command], words: Sequence[str], console: Console) -> Ended | None:
    """Run the command that the words ask for; `None` if they only ask for help.

    Raises:
        JobError: whatever ends the command for a foreseeable reason.
    """
    name, *rest = words or [""]
    if name in ("-h", "--help"):
        _print_lines(_help(commands))
        return None
    if name not in commands:
        raise SettingsError(_no_command(commands, name))
    command = commands[name]
    if asks_for_help(rest):
        _print_lines(_help_on(name, command))
        return None
    parser = Parser(f"{PROGRAM} {name}")
    for argument in (*command.arguments, JSON):
        argument.add_to(parser)
    line = parser.read(rest)
    return command.run(Call(line.own, line.given, line.settings(), console))


def _no_command(commands: Mapping[str, Command], name: str) -> str:
    if not name or name.startswith("-"):
        return f"a command comes first, such as `{PROGRAM} runs`; `{PROGRAM} --help` lists them"
    close = difflib.get_close_matches(name, commands, 1)
    hint = f"did you mean {close[0]}?" if close else f"`{PROGRAM} --help` lists all"
    return f"{without_credentials(name)[:100]!r} is no command; {hint}"


def _help(commands: Mapping[str, Command]) -> Iterator[str]:
    yield f"usage: {PROGRAM} COMMAND [arguments] [--section.name value ...] [--json]"
    yield "\nLook into the store that the training job publishes to, and look after it.\n"
    for name, command in commands.items():
        yield f"  {name:9} {command.summary}"
    yield (
        f"\n{PROGRAM} COMMAND --help explains one. Settings are options, environment variables or "
        "lines of\n.env, as for flows/train.py. The last line on standard output sums the command "
        "up; with\n--json, standard output is one JSON document."
    )
    yield from help_on_exit_codes()


def _help_on(name: str, command: Command) -> Iterator[str]:
    arguments = (*command.arguments, JSON)
    usage = " ".join(argument.usage for argument in arguments)
    yield f"usage: {PROGRAM} {name} {usage} [--section.name value ...]"
    yield f"\n{command.summary[:1].upper()}{command.summary[1:]}."
    if command.more:
        yield command.more
    yield ""
    for argument in arguments:
        yield f"  {argument.usage.strip('[]'):16} {argument.meaning}"
    yield from help_on_settings(*command.sections)


def _print_lines(lines: Iterator[str]) -> None:
    console = _console()
    for line in lines:
        console.print(line, soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on without output where nobody reads it any more, as in `fmnist runs | head -1`."""
        self.quiet = True
        _discard_output()


def _console(*, quiet: bool = False) -> Console:
    # Without a terminal nothing is broken into lines, so that each row is one.
    width = None if sys.stdout.isatty() else _NO_TERMINAL
    return _Console(markup=False, highlight=False, quiet=quiet, width=width)


def _print_end(ended: Ended, for_machines: bool) -> None:
    if for_machines:
        document = {"ok": ended.code == 0, "exit_code": int(ended.code), **ended.found}
        text = to_json(document, indent=2, inf_nan_mode="null").decode()
    else:
        text = "  ".join(ended.line)
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    """Let nothing more go to a standard output that nobody reads, not even at the exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
