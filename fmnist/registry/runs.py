"""Store runs and read them back."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from fmnist.data.duplicates import Digests, unpack_digests
from fmnist.errors import DamagedError
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.records import (
    FORMAT,
    LARGEST_RECORD,
    FileEntry,
    Manifest,
    Record,
    StoredRun,
    UnknownRunError,
    digest_of,
    from_json,
    to_json,
)
from fmnist.store.base import Store
from fmnist.store.durable import whole_file

_COMPLETE_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")  # as `new_run_id` makes them
_SHOWN = 5


def seal_run(folder: Path, run_id: str, now: datetime, fingerprint: str | None = None) -> Manifest:
    """Write the manifest of a finished run's folder; nothing in it may change afterwards."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(
            path.stat().st_size, digest_of(path.read_bytes())
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / keys.MANIFEST
    }
    manifest = Manifest(FORMAT, run_id, now, files, fingerprint)
    with whole_file(folder / keys.MANIFEST, to_json(manifest)) as written:
        written.replace(folder / keys.MANIFEST)
    return manifest


def upload_run(store: Store, folder: Path) -> StoredRun:
    """Copy a sealed run into the store, its manifest last; safe to repeat.

    Raises:
        DamagedError: a file is not what the manifest says, in which case nothing is stored; or
            the store does not list what was just stored.
        StoreError: the store cannot be written, or has another run with this id.
    """
    run, contents = _read_sealed(folder)
    for name, content in (*contents.items(), (keys.MANIFEST, run.content)):
        store.put_if_absent(keys.of_run(run.run_id, name), content)
    # One may have been removed in the meantime.
    check_listing(store, run, "publish the run again")
    return run


def check_listing(store: Store, run: StoredRun, advice: str) -> None:
    """Check that the store lists every file of a run with the right size, without reading them."""
    listed = store.list_entries(f"{keys.of_run(run.run_id)}/")
    for name, entry in run.manifest.files.items():
        key = keys.of_run(run.run_id, name)
        if key not in listed or listed[key].size != entry.size:
            found = f"has {listed[key].size:,} bytes" if key in listed else "is not there"
            wanted = f"{keys.MANIFEST} says {entry.size:,} bytes"
            raise DamagedError(f"{store.location(key)} {found}, but {wanted}; {advice}")


def _read_sealed(folder: Path) -> tuple[StoredRun, Mapping[str, bytes]]:
    """The run in a folder, and the bytes of the files that its manifest lists, checked."""
    where = folder / keys.MANIFEST
    try:
        sealed = where.read_bytes()
        manifest = from_json(Manifest, sealed, str(where))
        contents = {name: (folder / name).read_bytes() for name in manifest.files}
    except OSError as error:
        raise DamagedError(
            f"{error.filename} cannot be read ({error.strerror}), so {folder} is not a finished "
            "run; nothing is published"
        ) from error
    for name, content in contents.items():
        if not _is(content, manifest.files[name]):
            raise DamagedError(
                f"{folder / name} is not the file that {keys.MANIFEST} lists; nothing is published"
            )
    return StoredRun(manifest, sealed), contents


def list_run_ids(store: Store) -> list[str]:
    """Every id below `runs/`, newest first, including those without a manifest."""
    names = store.list_names(keys.RUNS)
    return sorted((name.rstrip("/") for name in names if name.endswith("/")), reverse=True)


def run_exists(store: Store, run_id: str) -> bool:
    """Whether the store has a run with this id, damaged or not."""
    return keys.MANIFEST in store.list_names(f"{keys.of_run(run_id)}/")


def find_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun | None:
    """A run by its id, and by its manifest's digest if that is known; `None` if there is none."""
    key = keys.of_run(run_id, keys.MANIFEST)
    content = store.read(key, LARGEST_RECORD)
    if content is None:
        return None
    if sha256 is not None and digest_of(content) != sha256:
        raise DamagedError(
            f"{store.location(key)} is not the manifest that was promoted (its SHA-256 differs); "
            "`fmnist rollback` goes back to the previous champion"
        )
    manifest = from_json(Manifest, content, store.location(key))
    if manifest.run_id != run_id:
        raise DamagedError(f"{store.location(key)} is the manifest of another run")
    return StoredRun(manifest, content)


def readable_run(store: Store, run_id: str) -> StoredRun | None:
    """A run by its id; `None` if its manifest is missing or damaged."""
    try:
        return find_run(store, run_id)
    except DamagedError:
        return None


def read_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun:
    """A run that must exist: without it, the store is damaged if its digest is known."""
    run = find_run(store, run_id, sha256)
    if run is None:
        if sha256 is not None:
            where = store.location(keys.of_run(run_id, keys.MANIFEST))
            raise DamagedError(f"{where} is missing, although the run was promoted")
        raise unknown_run(store, run_id)
    return run


def same_model(store: Store, run: StoredRun, others: Iterable[str]) -> str | None:
    """The first of these other runs whose model is the same to the byte; one small read for each."""
    model = run.manifest.files.get(keys.MODEL)
    for other in others:
        found = readable_run(store, other) if other != run.run_id else None
        if model and found and found.manifest.files.get(keys.MODEL) == model:
            return other
    return None


def unknown_run(store: Store, text: str) -> UnknownRunError:
    """The error that says that the store has no such run."""
    where = store.location("")
    return UnknownRunError(f"this store has no run {text}: {where}; `fmnist runs` lists them")


def find_run_id(store: Store, text: str) -> str:
    """The id of the run that somebody means by it, or by how it or its last part begins.

    Raises:
        UnknownRunError: there is no such run, or more than one.
    """
    if _COMPLETE_RUN_ID.fullmatch(text):
        return text
    known = list_run_ids(store)
    meant = [run for run in known if run == text] or [
        run for run in known if run.startswith(text) or run.rpartition("-")[2].startswith(text)
    ]
    if not meant:
        raise unknown_run(store, text)
    if len(meant) > 1:
        some = ", ".join(meant[:_SHOWN]) + (", ..." if len(meant) > _SHOWN else "")
        raise UnknownRunError(f"{text} may be any of {len(meant):,} runs: {some}; write more of it")
    return meant[0]


def read_file(store: Store, run: StoredRun, name: str) -> bytes:
    """A file of a run, checked by size and digest."""
    key = keys.of_run(run.run_id, name)
    where, entry = store.location(key), run.manifest.files.get(name)
    if entry is None:
        raise DamagedError(f"{where} is not listed in the run's {keys.MANIFEST}")
    content = store.read(key, entry.size)
    if content is None:
        raise DamagedError(f"{where} is missing, although {keys.MANIFEST} lists it")
    if not _is(content, entry):
        raise DamagedError(
            f"{where} is not the file that {keys.MANIFEST} lists (its SHA-256 differs)"
        )
    return content


def read_record(store: Store, run: StoredRun, name: str, kind: type[Record]) -> Record:
    """A file of a run, checked, as a record of that kind."""
    content = read_file(store, run, name)
    return from_json(kind, content, store.location(keys.of_run(run.run_id, name)))


def read_training_digests(store: Store, run: StoredRun) -> Digests | None:
    """The digests of the images that a run's model was trained on; `None` in older runs."""
    name = keys.TRAINING_DIGESTS
    if name not in run.manifest.files:
        return None
    where = store.location(keys.of_run(run.run_id, name))
    return unpack_digests(read_file(store, run, name), where)


def _is(content: bytes, entry: FileEntry) -> bool:
    return len(content) == entry.size and digest_of(content) == entry.sha256


def record_verdict(store: Store, run: StoredRun, verdict: Verdict) -> None:
    """Keep a later verdict on a stored run, one that did not promote it."""
    content = to_json(verdict)
    key = f"{keys.VERDICTS}{run.run_id}/{verdict.generation:08d}-{digest_of(content)[:8]}.json"
    store.put_if_absent(key, content)


def later_verdicts(store: Store, run_id: str) -> list[Verdict]:
    """The verdicts on a run that `record_verdict` kept, in the order of their generations."""
    found = []
    for name in store.list_names(f"{keys.VERDICTS}{run_id}/"):
        key = f"{keys.VERDICTS}{run_id}/{name}"
        if (content := store.read(key, LARGEST_RECORD)) is not None:
            found.append(from_json(Verdict, content, store.location(key)))
    return found
