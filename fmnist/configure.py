"""Read the settings, and describe them: allowed values, defaults, and faults in one line each.

Reading them raises `SettingsError`, with a line for each wrong name, type or range.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError as SourceError

from fmnist.errors import SettingsError
from fmnist.settings import ENV_PREFIX, Settings, sections

_DELIMITER = "__"


@dataclass(frozen=True)
class Setting:
    """One setting as a user meets it.

    Attributes:
        name: its dotted name, such as `training.epochs`.
        allowed: which values it takes, in words.
        default: its default, as it would be written on the command line.
        meaning: what it does, in one or two sentences.
    """

    name: str
    allowed: str
    default: str
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.upper().replace(".", _DELIMITER)

    @property
    def help(self) -> str:
        """What a command's help says of it."""
        return f"{self.meaning}\n{self.allowed} | default {self.default} | {self.variable}"


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the stages."""
    return tuple(
        Setting(
            name=f"{section}.{name}",
            allowed=_allowed(schema),
            default=as_text(schema.get("default")),
            meaning=schema.get("description", ""),
        )
        for section, model in sections().items()
        for name, schema in model.model_json_schema()["properties"].items()
    )


def load_named_settings(given: Mapping[str, str]) -> Settings:
    """Complete these values, by dotted name, from the environment, `.env` and the defaults."""
    tree: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, _, leaf = name.partition(".")
        tree.setdefault(section, {})[leaf] = value
    return load_settings(tree)


def load_settings(part: Mapping[str, Any]) -> Settings:
    """Complete a part of the settings from the environment, `.env` and the defaults."""
    try:
        return Settings(**part)
    except ValidationError as error:
        raise SettingsError("\n".join(describe_faults(error))) from error
    except SourceError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = ENV_PREFIX + field[1].upper() if field else "the environment or .env"
        raise SettingsError(
            f"{name}: cannot be read as JSON; set one value at a time, such as "
            f"{ENV_PREFIX}TRAINING__EPOCHS=3"
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
            name = name.replace(_DELIMITER, ".")
            hint = suggest(name, known) or "see --help for all settings"
            lines.append(f"{name}: no such setting; {hint}")
        elif name in known:
            given = hide_secrets(fault["input"])
            rule = message if fault["type"] == "value_error" else f"allowed: {known[name].allowed}"
            lines.append(f"{name}: {given} was given; {rule}")
        else:
            lines.append(message)
    return list(dict.fromkeys(lines))


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint at the known names closest to one, which may lack its section; empty if none is."""
    by_leaf: dict[str, list[str]] = {}
    for candidate in known:
        leaf = candidate.rpartition(".")[2].lstrip("-")
        for key in {candidate, leaf}:
            by_leaf.setdefault(key, []).append(candidate)
    name = name.lower()
    close = [key for key in (name, name.lstrip("-")) if key in by_leaf]
    close = close or difflib.get_close_matches(name, by_leaf, 1)
    return f"did you mean {' or '.join(by_leaf[close[0]])}?" if close else ""


def hide_secrets(value: object) -> str:
    """A value as text, without any part of an address that may be a secret."""
    text = value if isinstance(value, str) else as_text(value)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    else:
        rest = rest.partition("?")[0]
    rest = f"***@{rest.rpartition('@')[2]}" if "@" in rest else rest
    text = scheme + separator + rest
    text = text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
    return repr(text) if isinstance(value, str) else text


def as_text(value: Any) -> str:
    """A value as it would be written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _allowed(schema: Mapping[str, Any]) -> str:
    """Which values a setting takes, in words, from its JSON schema."""
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
            count = f"{least} to {most}" if most else f"{least} or more"
            return f"{count} values, comma-separated: {_allowed(schema['items'])}"
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
