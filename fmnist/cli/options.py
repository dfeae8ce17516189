"""The options of a command line: the settings and where they come from, and shared arguments."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter, Token

from fmnist.configure import all_settings, as_text
from fmnist.errors import SettingsError
from fmnist.locations import expand_home
from fmnist.settings import RENAMED, Settings, read_sources, sections

Function = TypeVar("Function", bound=Callable[..., Any])

JSON = "--json"
_LARGEST_COUNT = 1_000_000
_LONGEST_REASON = 500


def flag(meaning: str) -> Parameter:
    """An option without a value."""
    return Parameter(negative="", show_default=False, help=meaning)


def _run_id(_: object, tokens: Sequence[Token]) -> str:
    from fmnist.registry.records import checked_run_id

    return checked_run_id(tokens[0].value)


def _count(_: object, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    with contextlib.suppress(ValueError):
        if 1 <= (count := int(text)) <= _LARGEST_COUNT:
            return count
    allowed = f"allowed: integer from 1 to {_LARGEST_COUNT}"
    raise SettingsError(f"{tokens[0].keyword}: {text[:100]!r} was given; {allowed}")


def _reason(_: object, tokens: Sequence[Token]) -> str:
    words = " ".join(tokens[0].value.split())
    if not words or len(words) > _LONGEST_REASON or not words.isprintable():
        raise SettingsError(
            f"{tokens[0].keyword}: must be a line of 1 to {_LONGEST_REASON} printable characters"
        )
    return words


def _folder(_: object, tokens: Sequence[Token]) -> Path | None:
    try:
        return expand_home(Path(tokens[0].value))
    except ValueError as error:
        raise SettingsError(f"{tokens[0].value} {error}; correct it") from error


RunId = Annotated[
    str,
    Parameter(
        converter=_run_id,
        help="The id of a run, as `fmnist runs` lists it; how it or its last part begins is enough.",
    ),
]
Folder = Annotated[Path, Parameter(converter=_folder)]
Count = Annotated[int, Parameter(converter=_count, metavar="N")]
Reason = Annotated[
    str | None, Parameter(converter=_reason, metavar="TEXT", help="Why; kept in the history.")
]
_JSON = inspect.Parameter(
    JSON.lstrip("-"),
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, flag("Print one JSON document for programs, and nothing else.")],
)


def takes_settings(*shown: str, json: bool = True) -> Callable[[Function], Function]:
    """Give a command an option for each setting; those of the sections `shown` are in its help.

    The command's first parameter is its `Context`, which is not read from the command line.
    """

    def decorate(function: Function) -> Function:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [*own, *([_JSON] if json else []), *_setting_parameters(shown)]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def pop_settings(arguments: dict[str, Any]) -> Mapping[str, str]:
    """Remove the settings from a command's arguments; those given, by dotted name, as text."""
    arguments.pop(JSON.lstrip("-"), None)
    names = [name for name in arguments if "__" in name]
    given = {name.replace("__", "."): arguments.pop(name) for name in names}
    return {name: texts[-1] for name, texts in given.items() if texts}


def _setting_parameters(shown: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    """An option for each setting by each of its names; those of other sections are not shown."""
    settings = {setting.name: setting for setting in all_settings()}
    groups = {
        name: Group(name, (section.__doc__ or "").strip(), sort_key=index)
        for index, (name, section) in enumerate(sections().items(), start=10)
    }
    for name in (*settings, *(f"training.{earlier}" for earlier in RENAMED)):
        section = name.partition(".")[0]
        setting = settings.get(name) if section in shown else None
        # Read as text, since the settings check values themselves; the last of several counts.
        parameter = Parameter(
            name=f"--{name}", group=groups[section], metavar="VALUE", negative="",
            help=setting.help if setting else "", show=setting is not None, show_default=False,
        )  # fmt: skip
        yield inspect.Parameter(
            name.replace(".", "__"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[list[str] | None, parameter],
        )


def settings_with_origin(settings: Settings, overrides: Mapping[str, str]) -> list[str]:
    """A line for each setting: its name, the value that is used, and where that comes from."""
    environment, dotenv = read_sources()
    given = {f"training.{new}" for old, new in RENAMED.items() if f"training.{old}" in overrides}
    given |= overrides.keys()
    lines = []
    for setting in all_settings():
        section, _, leaf = setting.name.partition(".")
        value = getattr(getattr(settings, section), leaf)
        if setting.name in given:
            origin = "command line"
        elif leaf in environment.get(section, {}):
            origin = f"environment, {setting.variable}"
        elif leaf in dotenv.get(section, {}):
            origin = ".env"
        else:
            origin = "default"
        lines.append(f"{setting.name:24} {as_text(value):23} {origin}")
    return lines
