"""What can go wrong for a foreseeable reason, and the exit code each kind ends with."""

import re
from enum import IntEnum


class ExitCode(IntEnum):
    """How a run ended, for the shell; each carries its meaning in one phrase."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """Build one member from its number and its meaning."""
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

    `retryable` tells whether the same attempt may succeed a little later; `run_id` is the run it
    ended, once there is one.
    """

    exit_code = ExitCode.DEFECT
    run_id: str | None = None

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        """Keep the message and whether a retry can help."""
        super().__init__(message)
        self.retryable = retryable


class SettingsError(JobError):
    """One or more settings have a wrong name, type or range; one line for each."""

    exit_code = ExitCode.SETTINGS


class DataError(JobError):
    """The data could not be fetched, or are not what they should be."""

    exit_code = ExitCode.DATA


class StoreError(JobError):
    """The store, or the local disk a run is put together on, could not be read or written."""

    exit_code = ExitCode.STORE


class DamagedError(StoreError):
    """Something in the store is damaged, missing, or not what its record says."""

    exit_code = ExitCode.DAMAGED


class TrainingError(JobError):
    """Training cannot go on."""

    exit_code = ExitCode.TRAINING


class PrefectError(JobError):
    """The Prefect server could not be reached."""

    exit_code = ExitCode.PREFECT


def without_credentials(text: str) -> str:
    """A message in which no address carries a user or a password any more."""
    return re.sub(r"://[^\s\"']*@", "://", text)
