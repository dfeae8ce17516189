"""Store runs and read them back."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.registry.records import (
    FORMAT,
    MANIFEST,
    RUNS,
    VERDICTS,
    FileEntry,
    Manifest,
    Record,
    StoredRun,
    digest_of,
    from_json,
    run_key,
    to_json,
)
from fmnist.store.base import Store
from fmnist.store.durable import whole_file


def seal_run(folder: Path, run_id: str, now: datetime) -> Manifest:
    """Write the manifest of a finished run's folder, after which nothing in it may change."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(
            path.stat().st_size, digest_of(path.read_bytes())
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = Manifest(FORMAT, run_id, now, files)
    with whole_file(folder / MANIFEST, to_json(manifest)) as written:
        written.replace(folder / MANIFEST)
    return manifest


def upload_run(store: Store, folder: Path) -> StoredRun:
    """Copy a sealed run into the store, its manifest last; harmless to repeat.

    Raises:
        DamagedError: a file of the folder is not what its manifest says; nothing is stored then.
        StoreError: the store cannot be written, or holds another run of this id.
    """
    sealed, contents = _read_sealed(folder)
    manifest = from_json(Manifest, sealed, str(folder / MANIFEST))
    for name, content in contents.items():
        store.put_if_absent(f"{run_key(manifest.run_id)}/{name}", content)
    store.put_if_absent(f"{run_key(manifest.run_id)}/{MANIFEST}", sealed)
    _check_whole(store, manifest)
    return StoredRun(manifest, sealed)


def _read_sealed(folder: Path) -> tuple[bytes, Mapping[str, bytes]]:
    """The bytes of a folder's manifest and of the files that it lists, checked."""
    where = folder / MANIFEST
    try:
        sealed = where.read_bytes()
        manifest = from_json(Manifest, sealed, str(where))
        contents = {name: (folder / name).read_bytes() for name in manifest.files}
    except OSError as error:
        raise DamagedError(
            f"{error.filename} cannot be read ({error.strerror}), so {folder} is no finished run; "
            "nothing is published"
        ) from error
    for name, content in contents.items():
        if not _is(content, manifest.files[name]):
            raise DamagedError(
                f"{folder / name} is not the file that {MANIFEST} lists; nothing is published"
            )
    return sealed, contents


def _check_whole(store: Store, manifest: Manifest) -> None:
    """Make sure that the store lists every file in its size: one may have been removed meanwhile.

    Raises:
        DamagedError: one is not there, or has another size.
    """
    key = run_key(manifest.run_id)
    listed = store.list_entries(f"{key}/")
    for name, entry in manifest.files.items():
        found = listed.get(f"{key}/{name}")
        if found is None or found.size != entry.size:
            raise DamagedError(
                f"{store.location(f'{key}/{name}')} was stored but is not listed in its size; "
                "publish the run again"
            )


def list_run_ids(store: Store) -> list[str]:
    """Every id below `runs/`, the newest first; what has no manifest is among them."""
    names = store.list_names(RUNS)
    return sorted((name.rstrip("/") for name in names if name.endswith("/")), reverse=True)


def run_exists(store: Store, run_id: str) -> bool:
    """Whether the store has a run of this id, damaged or not.

    Raises:
        StoreError: the store cannot be read.
    """
    return store.read(f"{run_key(run_id)}/{MANIFEST}") is not None


def find_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun | None:
    """A run of the store by its id; `None` if there is no such run.

    Raises:
        DamagedError: its manifest is damaged, is another run's, or has another digest than `sha256`.
        StoreError: the store cannot be read.
    """
    key = f"{run_key(run_id)}/{MANIFEST}"
    content = store.read(key)
    if content is None:
        return None
    if sha256 is not None and digest_of(content) != sha256:
        raise DamagedError(
            f"{store.location(key)} is not the manifest that was promoted (its SHA-256 differs); "
            "`fmnist rollback` goes back to the champion before"
        )
    manifest = from_json(Manifest, content, store.location(key))
    if manifest.run_id != run_id:
        raise DamagedError(f"{store.location(key)} is the manifest of another run")
    return StoredRun(manifest, content)


def read_run(store: Store, run_id: str, sha256: str | None = None) -> StoredRun:
    """A run that must be there.

    Raises:
        DamagedError: as `find_run`, or it is not there although a digest is known.
        StoreError: the store holds no such run, or cannot be read.
    """
    run = find_run(store, run_id, sha256)
    if run is None:
        where = store.location(f"{run_key(run_id)}/{MANIFEST}")
        if sha256 is not None:
            raise DamagedError(f"{where} is not there, although the run was promoted")
        raise StoreError(
            f"{where} is not there: {run_id} is no run of this store; `fmnist runs` lists them"
        )
    return run


def read_file(store: Store, run: StoredRun, name: str) -> bytes:
    """A file of a run, checked by size and digest.

    Raises:
        DamagedError: it is not there, or is not the file that the manifest lists.
        StoreError: the store cannot be read.
    """
    where = store.location(f"{run_key(run.run_id)}/{name}")
    entry = run.manifest.files.get(name)
    if entry is None:
        raise DamagedError(f"{where} is not listed in the run's {MANIFEST}")
    content = store.read(f"{run_key(run.run_id)}/{name}")
    if content is None:
        raise DamagedError(f"{where} is not there, although {MANIFEST} lists it")
    if not _is(content, entry):
        raise DamagedError(f"{where} is not the file that {MANIFEST} lists (its SHA-256 differs)")
    return content


def read_record(store: Store, run: StoredRun, name: str, kind: type[Record]) -> Record:
    """A file of a run, checked, as a record of that kind.

    Raises:
        DamagedError: as `read_file`, or it holds no such record.
        StoreError: the store cannot be read.
    """
    where = store.location(f"{run_key(run.run_id)}/{name}")
    return from_json(kind, read_file(store, run, name), where)


def _is(content: bytes, entry: FileEntry) -> bool:
    return len(content) == entry.size and digest_of(content) == entry.sha256


def record_verdict(store: Store, run: StoredRun, verdict: Verdict) -> None:
    """Keep a verdict that was passed on a stored run later than its own, and did not promote it.

    Raises:
        StoreError: the store cannot be written.
    """
    content = to_json(verdict)
    key = f"{VERDICTS}{run.run_id}/{verdict.generation:08d}-{digest_of(content)[:8]}.json"
    store.put_if_absent(key, content)


def later_verdicts(store: Store, run_id: str) -> list[Verdict]:
    """The verdicts that `record_verdict` kept of a run, by the generation they were passed against.

    Raises:
        DamagedError: one cannot be read as such.
        StoreError: the store cannot be read.
    """
    found = []
    for name in store.list_names(f"{VERDICTS}{run_id}/"):
        key = f"{VERDICTS}{run_id}/{name}"
        if (content := store.read(key)) is not None:
            found.append(from_json(Verdict, content, store.location(key)))
    return found
