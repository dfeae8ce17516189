"""The settings as command-line options, with their help and origin."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from fmnist.configure import (
    all_settings,
    as_text,
    hide_secrets,
    load_named_settings,
    unknown_setting,
)
from fmnist.errors import ExitCode, JobError, SettingsError
from fmnist.settings import ENV_PREFIX, Settings, given_outside, sections


@dataclass(frozen=True)
class Request:
    """What a command line asks for: a run with these settings, or only a look at them."""

    settings: Settings
    show_settings: bool
    given: Mapping[str, str]


def parse(arguments: Sequence[str], program: str) -> Request:
    """Read a command line, the environment and `.env`.

    `-h` and `--help` print the help and leave by `SystemExit`, as argparse does.

    Raises:
        SettingsError: a wrong name, type or range; one line for each fault.
    """
    if asks_for_help(arguments):
        _print_help(program)
        raise SystemExit(ExitCode.OK)
    parser = Parser(program)
    parser.add_argument("--show-settings", action="store_true")
    line = parser.read(arguments)
    return Request(line.settings(), line.own["show_settings"], line.given)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the help is wanted, whatever else is right or wrong."""
    return "-h" in arguments or "--help" in arguments


def print_settings(request: Request) -> None:
    """Print what would be used and where each value comes from."""
    console = _console()
    environment, dotenv = given_outside()
    for setting in all_settings():
        section, _, leaf = setting.name.partition(".")
        value = getattr(getattr(request.settings, section), leaf)
        if setting.name in request.given:
            origin = "command line"
        elif leaf in environment.get(section, {}):
            origin = f"environment, {setting.variable}"
        elif leaf in dotenv.get(section, {}):
            origin = ".env"
        else:
            origin = "default"
        console.print(f"{setting.name:23} {as_text(value):23} {origin}", soft_wrap=True)


@dataclass(frozen=True)
class CommandLine:
    """A command line, taken apart.

    `given` are settings by their dotted names, as text; `own` the command's own arguments; `faults`
    has a line for each word that is neither.
    """

    given: Mapping[str, str]
    own: Mapping[str, Any]
    faults: tuple[str, ...]

    def settings(self) -> Settings:
        """The settings for it, over the environment, `.env` and the defaults.

        Raises:
            SettingsError: a wrong name, type or range; one line for each fault of the whole line.
        """
        try:
            settings = load_named_settings(self.given)
        except SettingsError as error:
            raise SettingsError("\n".join([*self.faults, str(error)])) from error
        if self.faults:
            raise SettingsError("\n".join(self.faults))
        return settings


class Parser(argparse.ArgumentParser):
    """Reads an option for each setting, and whatever arguments a command adds to them."""

    def __init__(self, program: str) -> None:
        """Know the settings only."""
        super().__init__(prog=program, add_help=False, allow_abbrev=False)
        for setting in all_settings():
            super().add_argument(f"--{setting.name}", default=argparse.SUPPRESS)
        self._own: list[str] = []

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument of the command's own."""
        self._own += [name.lstrip("-") for name in names if name.startswith("-")]
        return super().add_argument(*names, **options)

    def read(self, arguments: Sequence[str]) -> CommandLine:
        """Take a command line apart.

        Raises:
            SettingsError: an option lacks its value, or an argument of the command's own is missing
                or wrong.
        """
        found, unknown = self.parse_known_args(arguments)
        values = vars(found)
        names = {setting.name for setting in all_settings()}
        return CommandLine(
            given={name: value for name, value in values.items() if name in names},
            own={name: value for name, value in values.items() if name not in names},
            faults=tuple(_unknown_arguments(unknown, self._own)),
        )

    def error(self, message: str) -> Any:
        """Report a fault as every other fault of a setting."""
        raise SettingsError(message.removeprefix("argument "))


def failed(error: JobError) -> str:
    """The line that a failed command ends with; of a message of several lines, it has the first."""
    first, *rest = str(error).splitlines()
    if rest:
        first += f" (and {len(rest)} more lines above)"
    return f"failed  {error.run_id or '-'}  {error.exit_code.name.lower()}: {first}"


def help_on_settings(*names: str) -> Iterator[str]:
    """The lines that explain the settings of these sections."""
    for name in names:
        yield f"\n{name}: {(sections()[name].__doc__ or '').strip()}"
        for setting in all_settings():
            if setting.name.startswith(f"{name}."):
                yield f"  --{setting.name}  {setting.allowed} | default {setting.default}"
                yield f"      {setting.meaning}"


def help_on_exit_codes() -> Iterator[str]:
    """The lines that explain the exit codes."""
    yield "\nexit codes:"
    for code in ExitCode:
        yield f"  {int(code):3}  {code.meaning}"


def _print_help(program: str) -> None:
    console = _console()

    def say(text: str = "") -> None:
        console.print(text, soft_wrap=True)

    say(f"usage: {program} [--section.name value ...] [--show-settings]\n")
    say("Train on Fashion-MNIST, judge on the test set, publish; promote if the gate is passed.\n")
    say(
        "Each setting is an option, an environment variable (training.epochs is "
        f"{ENV_PREFIX}TRAINING__EPOCHS),\nor a line of that form in a file .env here; the first of "
        "these counts. --show-settings prints\nwhat would be used and from where, and trains "
        "nothing."
    )
    for line in (*help_on_settings(*sections()), *help_on_exit_codes()):
        say(line)


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _unknown_arguments(arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """A line for each argument that is none of ours; the value of an unknown option counts to it."""
    faults = []
    before = ""
    for argument in arguments:
        if argument.startswith("-"):
            faults.append(unknown_setting(argument, own))
        elif not before.startswith("-") or "=" in before:
            shown = hide_secrets(argument).strip("'")
            faults.append(f"{shown}: not an option; write --name value")
        before = argument
    return faults
