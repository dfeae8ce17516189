"""Runs and the champion, on any store.

Layout, below the store's location:

    runs/<run id>/...            a run's files, each created once and never changed
    runs/<run id>/manifest.json  written last: every other file's size and SHA-256
    champion.json                names the promoted run and the digest of its manifest

A run without its manifest does not exist. `champion.json` is the only object that is ever
replaced, in one step, after the run it names is whole: so a crash at any point leaves the old
champion in force.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from fmnist.errors import StoreError
from fmnist.evaluation import Evaluation
from fmnist.store import Store

MANIFEST = "manifest.json"
CHAMPION = "champion.json"
EVALUATION = "evaluation.json"
FORMAT: Literal[1] = 1

Record = TypeVar("Record")


@dataclass(frozen=True)
class FileEntry:
    """One file of a run: its size in bytes and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Every file of a run but the manifest itself, by its path relative to the run."""

    format: Literal[1]
    run_id: str
    created_at: datetime
    files: Mapping[str, FileEntry]


@dataclass(frozen=True)
class Champion:
    """The promoted run: the digest of its manifest, its test accuracy, and whom it followed."""

    format: Literal[1]
    run_id: str
    manifest_sha256: str
    accuracy: float
    promoted_at: datetime
    previous: str | None


def new_run_id(now: datetime) -> str:
    """An id that sorts by time (UTC) and does not collide between machines."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def run_key(run_id: str) -> str:
    """The store's key below which a run's files lie."""
    return f"runs/{run_id}"


def to_json(record: object) -> bytes:
    """A record as indented JSON, readable by `from_json`."""
    return TypeAdapter(type(record)).dump_json(record, indent=2) + b"\n"


def from_json(kind: type[Record], content: bytes, where: str) -> Record:
    """Read a record of that kind.

    Raises:
        StoreError: the content is not such a record; the message names `where` it lies.
    """
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or "its content"
        raise StoreError(
            f"{where} cannot be read: {place}: {fault['msg']}; it was damaged or written by "
            "another version"
        ) from error


def seal(folder: Path, run_id: str, now: datetime) -> Manifest:
    """Write the manifest of a finished run's folder, after which nothing in it may change."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(
            path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(FORMAT, run_id, now, files)
    (folder / MANIFEST).write_bytes(to_json(manifest))
    return manifest


def publish(store: Store, folder: Path) -> Manifest:
    """Copy a sealed run into the store, its manifest last; harmless to repeat.

    Raises:
        StoreError: the store cannot be written, or holds another run of this id.
    """
    content = (folder / MANIFEST).read_bytes()
    manifest = from_json(Manifest, content, str(folder / MANIFEST))
    for name in manifest.files:
        store.create(f"{run_key(manifest.run_id)}/{name}", (folder / name).read_bytes())
    store.create(f"{run_key(manifest.run_id)}/{MANIFEST}", content)
    return manifest


def champion(store: Store) -> Champion | None:
    """The champion in force; `None` where no run was ever promoted.

    Raises:
        StoreError: the store cannot be read, or its `champion.json` is damaged.
    """
    content = store.read(CHAMPION)
    return None if content is None else from_json(Champion, content, store.location(CHAMPION))


def promote(store: Store, manifest: Manifest, accuracy: float, now: datetime) -> Champion:
    """Make a published run the champion; harmless to repeat.

    Raises:
        StoreError: the store cannot be read or written.
    """
    current = champion(store)
    if current and current.run_id == manifest.run_id:
        return current
    promoted = Champion(
        format=FORMAT,
        run_id=manifest.run_id,
        manifest_sha256=hashlib.sha256(to_json(manifest)).hexdigest(),
        accuracy=accuracy,
        promoted_at=now,
        previous=current.run_id if current else None,
    )
    store.replace(CHAMPION, to_json(promoted))
    return promoted


def reinstate(store: Store, run_id: str, now: datetime) -> Champion:
    """Make a run that the store holds the champion again: an operator's way back.

    Raises:
        StoreError: the store holds no such run, or cannot be read or written.
    """

    def stored(name: str, kind: type[Record]) -> Record:
        key = f"{run_key(run_id)}/{name}"
        content = store.read(key)
        if content is None:
            raise StoreError(
                f"{store.location(key)} is not there: {run_id} is no run of this store"
            )
        return from_json(kind, content, store.location(key))

    manifest = stored(MANIFEST, Manifest)
    return promote(store, manifest, stored(EVALUATION, Evaluation).accuracy, now)
