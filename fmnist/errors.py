"""The foreseeable failures, and the exit code of each kind."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """How a command ended, for the shell, with the meaning of each code in one phrase."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """Make a member from its number and its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "trained, passed the gate, promoted to champion; or a command that succeeded"
    DEFECT = 1, "a defect in this program: please report it with the traceback"
    SETTINGS = 2, "a setting or an argument has a wrong name, type or range"
    REJECTED = 3, "trained and stored, but rejected by the gate"
    DATA = 4, "the data could not be fetched, or are not what they should be"
    STORE = 5, "the store could not be read or written"
    TRAINING = 6, "training failed: the loss was no longer finite"
    PREFECT = 7, "the Prefect server could not be reached"
    DAMAGED = 8, "something in the store is damaged, missing or not to be trusted"
    INTERRUPTED = 130, "interrupted by Ctrl-C or SIGTERM"


class JobError(Exception):
    """A foreseeable failure. Its message says what happened, to what, and what to do next.

    Attributes:
        exit_code: what the command exits with.
        run_id: the run that failed, once there is one.
        retryable: whether the same attempt may succeed a little later.
    """

    exit_code = ExitCode.DEFECT
    run_id: str | None = None

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class SettingsError(JobError):
    """One or more settings have a wrong name, type or range; each has its own line."""

    exit_code = ExitCode.SETTINGS


class DataError(JobError):
    """The data could not be fetched, or are not what they should be."""

    exit_code = ExitCode.DATA


class StoreError(JobError):
    """The store, or the local work folder, could not be read or written."""

    exit_code = ExitCode.STORE


class DamagedError(StoreError):
    """Something in the store is damaged, missing, or does not match its record."""

    exit_code = ExitCode.DAMAGED


class TrainingError(JobError):
    """Training cannot continue."""

    exit_code = ExitCode.TRAINING


class PrefectError(JobError):
    """The Prefect server could not be reached."""

    exit_code = ExitCode.PREFECT


@contextmanager
def writing(place: Path, otherwise: str, kind: type[JobError] = StoreError) -> Iterator[None]:
    """Turn a failed write into an error that says what to do; `otherwise` is the last resort."""
    try:
        yield
    except OSError as error:
        remedies = f"free some space, give this user the right to write there, or {otherwise}"
        raise kind(f"{place} cannot be written ({error.strerror or error}); {remedies}") from error


def printable(text: str) -> str:
    """The text in one line, with `?` for what could move a terminal's cursor or fake a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def without_credentials(text: str) -> str:
    """The text with user names and passwords removed from its addresses."""
    # Whatever the number of slashes: a mistyped address has its secret all the same.
    return re.sub(r"(:/+)[^\s\"']*@", r"\1", text)
