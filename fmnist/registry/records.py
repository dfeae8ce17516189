"""The records of the registry: runs, manifests, champions, their keys and their JSON."""

import functools
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, AwareDatetime, Field, TypeAdapter, ValidationError

from fmnist.errors import DamagedError, SettingsError, StoreError, without_credentials
from fmnist.evaluation.gate import Verdict

MANIFEST = "manifest.json"
CHAMPION = "champion.json"
MODEL = "model.keras"
EVALUATION = "evaluation.json"
VERDICT = "verdict.json"
DATA = "data.json"
SETTINGS = "settings.json"
RUNS = "runs/"
HISTORY = "history/"
VERDICTS = "verdicts/"
FORMAT: Literal[2] = 2
Record = TypeVar("Record")
# What can stand in a key without leading anywhere else.
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
FileName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", max_length=200),
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Move = Literal["promotion", "forced promotion", "rollback", "retirement"]
# Made once for each kind of record: making one takes longer than reading with it.
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


@dataclass(frozen=True)
class FileEntry:
    """One file of a run: its size in bytes and its SHA-256 in hexadecimal."""

    size: Annotated[int, Field(ge=0)]
    sha256: Digest


@dataclass(frozen=True)
class Manifest:
    """Every file of a run but the manifest itself, by its path relative to the run."""

    format: Literal[1, 2]
    run_id: RunId
    created_at: AwareDatetime
    files: Mapping[FileName, FileEntry]


@dataclass(frozen=True)
class StoredRun:
    """A whole run in the store: its manifest, and the bytes that the manifest was read from."""

    manifest: Manifest
    content: bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, by which a head names it."""
        return digest_of(self.content)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.manifest.run_id


@dataclass(frozen=True)
class ChampionRecord:
    """A head: the run in force, and the move that brought it about.

    `previous` is the champion before the move; `rollback_to` the one that a rollback goes back to;
    `moved_at`, `reason` and `by` say when, why and by which program; `retired` are runs being
    removed. The fields with defaults are those that format 1 did not have.
    """

    format: Literal[1, 2]
    run_id: RunId
    manifest_sha256: Digest
    accuracy: float
    # Format 1 knew no other move, and called it so.
    moved_at: Annotated[
        AwareDatetime, Field(validation_alias=AliasChoices("moved_at", "promoted_at"))
    ]
    previous: RunId | None
    generation: Annotated[int, Field(ge=1)] = 1
    rollback_to: RunId | None = None
    move: Move = "promotion"
    reason: str = ""
    by: str = ""
    retired: tuple[RunId, ...] = ()


@dataclass(frozen=True)
class PromotionResult:
    """How a promotion ended: the verdict that counted, and the champion in force after it.

    `made` is the head that made the run the champion, `None` if it was not promoted; others may
    have moved the head since.
    """

    verdict: Verdict
    champion: ChampionRecord | None
    made: ChampionRecord | None = None


class RetiredError(StoreError):
    """A run was taken out of the store, so that it cannot be the champion any more."""


@dataclass(frozen=True)
class TestSetUsage:
    """How many models a test set has judged in a store, and the ids of the latest of them."""

    format: Literal[1, 2]
    models: Annotated[int, Field(ge=0)]
    latest: tuple[RunId, ...]


def new_run_id(now: datetime) -> str:
    """An id that sorts by time (UTC) and does not collide between machines."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def checked_run_id(text: str) -> str:
    """A run id as somebody gave it.

    Raises:
        SettingsError: it is none, and may lead elsewhere.
    """
    try:
        run_id: str = _adapter(RunId).validate_python(text)
    except ValidationError as error:
        raise SettingsError(
            f"{without_credentials(text)[:100]!r} is no run id; `fmnist runs` lists those of the store"
        ) from error
    return run_id


def run_key(run_id: str) -> str:
    """The store's key below which a run's files lie."""
    return f"{RUNS}{run_id}"


def history_key(generation: int) -> str:
    """The store's key of a head that was replaced."""
    return f"{HISTORY}{generation:08d}.json"


def to_json(record: object) -> bytes:
    """A record as indented JSON, readable by `from_json`."""
    return _adapter(type(record)).dump_json(record, indent=2) + b"\n"


def from_json(kind: type[Record], content: bytes, where: str) -> Record:
    """Read a record of that kind.

    Raises:
        DamagedError: the content is not such a record; the message names `where` it lies.
    """
    try:
        record: Record = _adapter(kind).validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))[:100] or "its content"
        raise DamagedError(
            f"{where} cannot be read: {place}: {fault['msg'][:200]}; it was damaged or written by "
            "another version"
        ) from error
    return record


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


COMPARISON = "comparison.json"
