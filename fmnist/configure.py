"""Read the settings, and describe them: allowed values, defaults, and faults in one line each."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError as SourceError

from fmnist.errors import SettingsError
from fmnist.settings import ENV_PREFIX, Settings, sections

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
    """The settings for these values by dotted name, over the environment, `.env` and defaults.

    Raises:
        SettingsError: a wrong name, type or range; one line for each fault.
    """
    tree: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, _, leaf = name.partition(".")
        tree.setdefault(section, {})[leaf] = value
    return load_settings(tree)


def load_settings(part: Mapping[str, Any]) -> Settings:
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
            lines.append(unknown_setting(name.replace(_DELIMITER, ".")))
        elif name in known:
            given = hide_secrets(fault["input"])
            rule = message if fault["type"] == "value_error" else f"allowed: {known[name].allowed}"
            lines.append(f"{name}: {given} was given; {rule}")
        else:
            lines.append(message)
    return list(dict.fromkeys(lines))


def unknown_setting(name: str, own: Sequence[str] = ()) -> str:
    name = name.lstrip("-").partition("=")[0].lower()
    known = [*own, *(setting.name for setting in all_settings())]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else "see --help for all settings"
    return f"{name}: no such setting; {hint}"


def hide_secrets(value: object) -> str:
    """What was given, as text, without what may be a secret in an address."""
    text = value if isinstance(value, str) else as_text(value)
    scheme, separator, rest = text.partition("://")
    if separator:
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
