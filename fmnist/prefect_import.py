"""Import Prefect, which reads its settings and profiles at once, so that a fault is one line."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from fmnist.configure import load_settings
from fmnist.errors import JobError, PrefectError, without_credentials


@contextmanager
def prefect_import(*, end: bool = False) -> Iterator[None]:
    """Import Prefect, or read its settings, in this block.

    With `end`, a failure ends the program as a failed command: with one line and an exit code.

    Raises:
        PrefectError: Prefect's settings, its profiles or prefect.toml cannot be read.
        SettingsError: the file `.env`, which Prefect reads too, is no text.
    """
    try:
        try:
            with warnings.catch_warnings():
                # What cannot be written is looked at before a run, and is an error then.
                warnings.filterwarnings("ignore", "Failed to create the Prefect home")
                yield
        # Prefect has no error of its own for some of what can be wrong in its files.
        except (OSError, ValueError, UserWarning) as error:
            if isinstance(error, UnicodeDecodeError):
                load_settings({})  # raises if .env is no text
            raise PrefectError(
                f"Prefect's settings cannot be read ({_reason(error)}); correct PREFECT_API_URL, "
                "or whatever else is wrong in the environment, in prefect.toml or in Prefect's "
                f"profiles; a damaged file can be moved out of the way: {_profiles()}"
            ) from error
    except JobError as error:
        if not end:
            raise
        kind, line = error.exit_code.name.lower(), " ".join(str(error).split())
        sys.stdout.write(f"failed  -  {kind}: {without_credentials(line)}\n")
        sys.exit(error.exit_code)


def may_name_a_server() -> bool:
    """Whether anything that Prefect reads may name a server: a quick look, without importing it."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    for file, mark in (
        (_profiles(), "PREFECT_API"),
        (Path(".env"), "PREFECT_"),
        (Path("prefect.toml"), ""),
        (Path("pyproject.toml"), "tool.prefect"),
    ):
        try:
            if mark in file.expanduser().read_text():
                return True
        except FileNotFoundError:
            continue
        except (OSError, ValueError):  # Prefect says what is wrong with it.
            return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, fault['loc'])) or 'an address'}: {fault['msg']}"
    return str(error)


def _profiles() -> Path:
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return Path(os.environ.get("PREFECT_PROFILES_PATH") or Path(home) / "profiles.toml")
