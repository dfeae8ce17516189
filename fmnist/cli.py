"""What all command lines share: the settings as options, their help and origin, faults in words."""

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError as SourceError
from rich.console import Console

from fmnist.config import ENV_PREFIX, Settings, given_outside, sections
from fmnist.errors import ExitCode, JobError, SettingsError

_DELIMITER = "__"


@dataclass(frozen=True)
class Setting:
    """One setting as a user meets it."""

    name: str
    allowed: str
    default: str
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.upper().replace(".", _DELIMITER)


@dataclass(frozen=True)
class Request:
    """What a command line asks for: a run with these settings, or only a look at them."""

    settings: Settings
    show_settings: bool
    given: Mapping[str, str]


def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the stages."""
    return tuple(
        Setting(
            name=f"{section}.{name}",
            allowed=_allowed(schema),
            default=_written(schema.get("default")),
            meaning=schema.get("description", ""),
        )
        for section, model in sections().items()
        for name, schema in model.model_json_schema()["properties"].items()
    )


def parse(arguments: Sequence[str], program: str) -> Request:
    """Read a command line, the environment and `.env`.

    `-h` and `--help` print the help and leave by `SystemExit`, as argparse does.

    Raises:
        SettingsError: a wrong name, type or range; one line for each fault.
    """
    if asks_for_help(arguments):
        _print_help(program)
        raise SystemExit(ExitCode.PROMOTED)
    parser = Parser(program)
    parser.add_argument("--show-settings", action="store_true")
    line = parser.read(arguments)
    return Request(line.settings(), line.own["show_settings"], line.given)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the help is wanted, whatever else is right or wrong."""
    return "-h" in arguments or "--help" in arguments


def load(given: Mapping[str, str]) -> Settings:
    """The settings for these values by dotted name, over the environment, `.env` and defaults.

    Raises:
        SettingsError: a wrong name, type or range; one line for each fault.
    """
    tree: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, _, leaf = name.partition(".")
        tree.setdefault(section, {})[leaf] = value
    return complete(tree)


def complete(part: Mapping[str, Any]) -> Settings:
    """The settings for a part of their tree, over the environment, `.env` and defaults.

    Raises:
        SettingsError: a wrong name, type or range; one line for each fault.
    """
    try:
        return Settings(**part)
    except ValidationError as error:
        raise SettingsError("\n".join(describe_faults(error))) from error
    except SourceError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = ENV_PREFIX + field[1].upper() if field else "the environment or .env"
        raise SettingsError(
            f"{name}: cannot be read as JSON; set single values, as {ENV_PREFIX}TRAINING__EPOCHS=3"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f".env cannot be read: {error}") from error


def describe_faults(error: ValidationError) -> list[str]:
    """One line for each fault: the setting, what was given, what is allowed."""
    known = {setting.name: setting for setting in all_settings()}
    lines = []
    for fault in error.errors(include_url=False):
        place = [str(part) for part in fault["loc"] if not isinstance(part, int)]
        name = ".".join(place[:2])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            lines.append(_unknown(name.replace(_DELIMITER, ".")))
        elif name in known:
            given = _without_secrets(fault["input"])
            rule = message if fault["type"] == "value_error" else f"allowed: {known[name].allowed}"
            lines.append(f"{name}: {given} was given; {rule}")
        else:
            lines.append(message)
    return list(dict.fromkeys(lines))


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
        console.print(f"{setting.name:23} {_written(value):23} {origin}", soft_wrap=True)


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
            settings = load(self.given)
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


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Keep what native code writes straight to the standard error stream from being shown.

    TensorFlow's libraries note missing GPUs there as they load, whatever log level is set.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
            faults.append(_unknown(argument, own))
        elif not before.startswith("-") or "=" in before:
            shown = _without_secrets(argument).strip("'")
            faults.append(f"{shown}: not an option; write --name value")
        before = argument
    return faults


def _unknown(name: str, own: Sequence[str] = ()) -> str:
    name = name.lstrip("-").partition("=")[0].lower()
    known = [*own, *(setting.name for setting in all_settings())]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else "see --help for all settings"
    return f"{name}: no such setting; {hint}"


def _without_secrets(value: object) -> str:
    """What was given, as text, without what may be a secret in an address."""
    text = value if isinstance(value, str) else _written(value)
    scheme, separator, rest = text.partition("://")
    if separator:
        rest = rest.partition("?")[0]
        rest = f"***@{rest.rpartition('@')[2]}" if "@" in rest else rest
    text = scheme + separator + rest
    text = text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
    return repr(text) if isinstance(value, str) else text


def _written(value: Any) -> str:
    """A value as it would be written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(schema["enum"])
    match schema["type"]:
        case "null":
            return "none"
        case "boolean":
            return "true or false"
        case "string":
            return "a folder" if schema.get("format") == "path" else "text"
        case "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            count = str(least) if least == most else f"{least} to {most}" if most else f"{least}+"
            return f"{count} comma-separated, each {_allowed(schema['items'])}"
        case kind:
            return f"{kind} {_range(schema)}".rstrip()


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = [
        f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else "",
        f"to {high}" if high is not None else f"below {below}" if below is not None else "",
    ]
    return " ".join(bound for bound in bounds if bound)
