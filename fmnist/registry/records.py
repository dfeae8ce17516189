"""The records of the registry and their JSON, and the protocol that keeps them sound.

Whatever is killed, lost or raced, every reader always finds that:

1. A run without a manifest does not exist; one with a manifest is complete and never changes.
2. `champion.json` names a complete run and its manifest's digest. It alone decides which model is
   the champion, and it changes only by a compare-and-swap against the version that was read.
3. `generation` rises by one with each change of `champion.json`. `history/` holds every earlier
   generation, each exactly once and without gaps.
4. A reader who follows champion.json -> manifest -> file by their digests gets the champion's own
   bytes or an error that names the object, never other bytes.

To publish a run:

1. Write each of its files, then its manifest; what is there already must be identical.
2. List them: each must be there with the right size.
3. Read the model back, check its digest, load it and score it on the test images: its predictions
   must be those it was judged by.
4. Make the run the champion, if the verdict says so.

To change `champion.json` (a promotion, a rollback, a hold or its release, or the retirement of old
runs):

1. Read it, and decide against what it says.
2. Copy it, as it was read, to `history/<its generation>.json`; safe to repeat.
3. Swap it from the version that was read to the new record, one generation higher.
4. If the swap was refused, read it again. A later generation may already contain this very change,
   if only the reply to it was lost: `history/` tells. Otherwise somebody else changed it: decide
   again, a limited number of times.

A run is deleted only after `champion.json` has listed it under `retired`. A retired run is never
made the champion, and the champion is never retired, so a removal and a promotion cannot cross. The
manifest goes first: what an interrupted removal leaves behind is not a run. (The limit: if two
removals of the same run overlap, the slower one could delete files that were published again in the
meantime, but only if that publication and its promotion fit within one of its requests.)

A publisher that dies leaves a run without a manifest, or a complete run that nobody promoted. Both
are harmless, and publishing the same run again finishes the job.

Records must outlive the version that wrote them: readers ignore fields they do not know and ask for
no more than they need, and a field that is added later has a default.
"""

import functools
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from fmnist.configure import hide_secrets
from fmnist.errors import DamagedError, ExitCode, SettingsError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.records import Interval

FORMAT: Literal[2] = 2
# The most that a manifest, a champion record, a verdict or a count may have, in bytes.
LARGEST_RECORD = 2**20
Record = TypeVar("Record")
# What can be part of a key without leading anywhere else; of the second kind as many as may be.
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]"
_RUN_ID = f"{_NAME}{{0,99}}"
RunId = Annotated[str, Field(pattern=f"^{_RUN_ID}$")]
FileName = Annotated[str, Field(pattern=f"^{_NAME}*(/{_NAME}*)*$", max_length=200)]
# Whatever a clock says, but no date that UTC does not have.
_FIRST, _LAST = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
Moment = Annotated[AwareDatetime, Field(ge=_FIRST, le=_LAST)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Move = Literal["promotion", "forced promotion", "rollback", "hold", "release", "retirement"]
# Cached, since building an adapter takes longer than reading a record with it.
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


@dataclass(frozen=True)
class FileEntry:
    """One file of a run.

    Attributes:
        size: in bytes.
        sha256: in hexadecimal.
    """

    size: Annotated[int, Field(ge=0)]
    sha256: Digest


@dataclass(frozen=True)
class Manifest:
    """What a run consists of.

    Attributes:
        format: the version of the store's layout.
        run_id: the run's id.
        created_at: when the run was finished.
        files: every file except the manifest itself, by its path relative to the run.
        fingerprint: identifies everything that determines the model; `None` in older runs.
    """

    format: Literal[2]
    run_id: RunId
    created_at: Moment
    files: Mapping[FileName, FileEntry]
    fingerprint: Digest | None = None


@dataclass(frozen=True)
class StoredRun:
    """A complete run in the store.

    Attributes:
        manifest: what it consists of.
        content: the bytes that the manifest was read from.
    """

    manifest: Manifest
    content: bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, which a champion record keeps."""
        return digest_of(self.content)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.manifest.run_id


@dataclass(frozen=True)
class ChampionRecord:
    """The content of `champion.json`: the champion, and the move that made it so.

    Attributes:
        format: the version of the store's layout.
        run_id: the champion.
        manifest_sha256: the digest of its manifest.
        accuracy: its test accuracy.
        moved_at: when the move was made.
        previous: the champion before the move; `None` before the first promotion.
        generation: the number of moves so far.
        rollback_to: where `fmnist rollback` leads; `None` if there is no way back.
        move: what kind of move it was.
        reason: why it was made.
        by: the program that made it, and for a command who ran it, and where.
        retired: runs that are being removed.
        held: whether the champion stays until it is released or a person replaces it.
        forced: whether a person made it the champion, whatever the gate said.
    """

    format: Literal[2]
    run_id: RunId
    manifest_sha256: Digest
    accuracy: float
    moved_at: Moment
    previous: RunId | None
    generation: Annotated[int, Field(ge=1)]
    rollback_to: RunId | None
    move: Move
    reason: str
    by: str
    retired: tuple[RunId, ...] = ()
    held: bool = False
    forced: bool = False


@dataclass(frozen=True)
class PromotionResult:
    """How a promotion ended.

    Attributes:
        verdict: the verdict that counted.
        champion: the current champion record, which others may have changed since.
        made: the record that made the run the champion; `None` if it was not promoted.
    """

    verdict: Verdict
    champion: ChampionRecord | None
    made: ChampionRecord | None = None


@dataclass(frozen=True)
class RecordedFigures:
    """What lists and summaries show of a stored evaluation.

    Attributes:
        accuracy: the test accuracy.
        interval: its confidence interval.
        images: the number of test images; `None` if it was not recorded, as for the fields below.
        loss: the mean cross-entropy.
        calibration_error: the expected calibration error.
    """

    accuracy: float
    interval: Interval
    images: int | None = None
    loss: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class RecordedClass:
    """The part of a class's recorded scores that says which class it is.

    Attributes:
        name: the class's name.
    """

    name: str


@dataclass(frozen=True)
class RecordedClasses:
    """What a comparison needs of a stored evaluation.

    Attributes:
        classes: the classes by number.
    """

    classes: tuple[RecordedClass, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return tuple(found.name for found in self.classes)


class RetiredError(StoreError):
    """A run has been removed from the store, so it can no longer become the champion."""


class UnknownRunError(StoreError):
    """Somebody asked for a run that the store does not have."""

    exit_code = ExitCode.SETTINGS


@dataclass(frozen=True)
class TestSetUsage:
    """How often a test set has been used in a store.

    Attributes:
        format: the version of the store's layout.
        models: how many models it has judged.
        latest: the ids of the latest of them.
    """

    format: Literal[2]
    models: Annotated[int, Field(ge=0)]
    latest: tuple[RunId, ...]


@dataclass(frozen=True)
class FingerprintedRun:
    """The latest run with a fingerprint.

    Attributes:
        format: the version of the store's layout.
        run_id: the run.
        accuracy: its test accuracy.
        gate: a digest of the settings of the gate that last judged it.
        verdict: what that gate decided.
    """

    format: Literal[2]
    run_id: RunId
    accuracy: float
    gate: Digest
    verdict: Verdict


def new_run_id(now: datetime) -> str:
    """An id that sorts by time (UTC) and does not collide between machines."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def checked_run_id(text: str) -> str:
    """A run id that somebody entered; a `SettingsError` if it is none."""
    if not is_run_id(text):
        entered = hide_secrets(text)
        raise SettingsError(f"{entered} is not a run id; `fmnist runs` lists those in the store")
    return text


def is_run_id(text: str) -> bool:
    """Whether this can be the id of a run."""
    return re.fullmatch(_RUN_ID, text) is not None


def to_json(record: object) -> bytes:
    """A record as indented JSON, readable by `from_json`."""
    return _adapter(type(record)).dump_json(record, indent=2) + b"\n"


def from_json(kind: type[Record], content: bytes, where: str) -> Record:
    """Read a record of that kind, or raise a `DamagedError` that says `where` the content is.

    Fields that such a record does not have are ignored.
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
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
