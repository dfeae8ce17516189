"""A store in a folder: links and renames that survive a power cut, under a lock."""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from fmnist.errors import StoreError
from fmnist.store.base import PROBE, Entry, StoredObject, already_there, changed, check_size
from fmnist.store.durable import flush_folder, make_folder, whole_file

_ROOM_FOR_A_RUN = 32 * 2**20
_LOCK = ".lock"
_LONGEST_WAIT_FOR_LOCK = 30
_TEMPORARY_ERRNOS = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY}


class FolderStore:
    """A store in a folder of this machine, which is created when it is first needed.

    A new object is linked into place; a changed one is renamed into place under a lock that the
    system releases when its process ends. Both are flushed to disk, file and folders, before the
    call returns. A killed process leaves at most a file `.*.part`, which is not an object.
    """

    def __init__(self, url: str, *, single_publisher: bool = False) -> None:
        """Name the folder. Conditions hold in any, so `single_publisher` changes nothing."""
        self.url = url
        self._root = Path(url).expanduser()

    def check(self) -> bool:
        """See `Store.check`."""
        with self._errors():
            make_folder(self._root, self._root)
            probe = self._root / f"{PROBE}-{uuid.uuid4().hex}"
            link = probe.with_suffix(".link")
            try:
                probe.write_bytes(PROBE.encode())
                probe.read_bytes()
                self._check_links(probe, link)
            finally:
                probe.unlink(missing_ok=True)
                link.unlink(missing_ok=True)
            with self._lock():
                pass
            if shutil.disk_usage(self._root).free < _ROOM_FOR_A_RUN:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return True

    def _check_links(self, probe: Path, link: Path) -> None:
        """Only a hard link puts a complete file into place without overwriting another."""
        try:
            os.link(probe, link)
        except OSError as error:
            raise self._unsuitable(f"hard links ({error.strerror})") from error

    def _unsuitable(self, lacking: str) -> StoreError:
        return StoreError(
            f"store folder {self._root} is on a file system without {lacking}, so nothing there is "
            "safe from being overwritten; set store.url to a folder on another file system"
        )

    def put_if_absent(self, key: str, content: bytes) -> None:
        """See `Store.put_if_absent`."""
        with self._errors():
            target = self._path(key)
            make_folder(target.parent, self._root)
            with whole_file(target, content) as written:
                try:
                    os.link(written, target)
                except FileExistsError:
                    if target.read_bytes() != content:
                        raise already_there(str(target)) from None

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        """See `Store.compare_and_swap`."""
        with self._errors():
            target = self._path(key)
            make_folder(target.parent, self._root)
            with self._lock():
                found = self.get(key)
                if found and found.content == content:
                    # Its folder may not have been flushed when the first try failed.
                    flush_folder(target.parent)
                    return
                if (found.version if found else None) != version:
                    raise changed(str(target))
                # Whoever deleted the last object in it meanwhile has removed the folder too.
                make_folder(target.parent, self._root)
                with whole_file(target, content) as written:
                    written.replace(target)

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        """See `Store.read`."""
        with (
            self._errors(),
            contextlib.suppress(FileNotFoundError),
            self._path(key).open("rb") as stream,
        ):
            check_size(self.location(key), os.fstat(stream.fileno()).st_size, limit)
            return stream.read()
        return None

    def get(self, key: str, limit: int | None = None) -> StoredObject | None:
        """See `Store.get`."""
        if (content := self.read(key, limit)) is None:
            return None
        return StoredObject(content, hashlib.sha256(content).hexdigest())

    def list_names(self, prefix: str) -> list[str]:
        """See `Store.list_names`."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            return sorted(
                f"{path.name}/" if path.is_dir() else path.name
                for path in self._path(prefix).iterdir()
                if not path.name.startswith(".")
            )
        return []

    def list_entries(self, prefix: str) -> Mapping[str, Entry]:
        """See `Store.list_entries`."""
        found: dict[str, Entry] = {}
        for name in self.list_names(prefix):
            if name.endswith("/"):
                found |= self.list_entries(prefix + name)
                continue
            with self._errors(), contextlib.suppress(FileNotFoundError):
                status = self._path(prefix + name).stat()
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                found[prefix + name] = Entry(status.st_size, modified)
        return found

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with self._errors():
            target = self._path(key)
            if not target.exists():
                return
            target.unlink(missing_ok=True)
            flush_folder(target.parent)
            # An emptied folder goes with its last object, as it would in a bucket.
            with contextlib.suppress(OSError):
                for folder in target.relative_to(self._root).parents[:-1]:
                    with contextlib.suppress(FileNotFoundError):
                        (self._root / folder).rmdir()

    def clock(self) -> None:
        """See `Store.clock`."""

    def location(self, key: str) -> str:
        """See `Store.location`."""
        return str(self._root / key)

    def _path(self, key: str) -> Path:
        """The file of a key; refuses those that lead, or may lead, out of the store."""
        path = self._root
        parts = key.rstrip("/").split("/")
        if ".." in parts or "\0" in key:
            raise StoreError(f"{key[:100]!r} is not a key of the store {path}; correct the name")
        for part in parts:
            path /= part
            if path.is_symlink():
                advice = "put the file or folder itself there"
                raise StoreError(f"{path} is a symbolic link, which may lead outside; {advice}")
        return path

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep every other process from changing objects; the lock ends with its process."""
        lock = FileLock(self._root / _LOCK, timeout=_LONGEST_WAIT_FOR_LOCK, fallback_to_soft=False)
        try:
            held = lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"{self._root / _LOCK} was held by another process for more than "
                f"{_LONGEST_WAIT_FOR_LOCK} s; find out which process hangs there, then try again",
                retryable=True,
            ) from error
        except NotImplementedError as error:
            raise self._unsuitable("locks") from error
        with held:
            yield

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            match error.errno:
                case errno.ENOSPC | errno.EDQUOT:
                    told = "is full; free some space"
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    told = f"cannot be written ({error.strerror}); give this user the right to"
                case errno.ENOTDIR | errno.EEXIST:
                    told = f"is unusable: a file is in its place ({error.filename}); move it away"
                case errno.EISDIR:
                    told = f"has a folder in a file's place ({error.filename}); move it away"
                case _:
                    told = f"cannot be used: {error.strerror or error}; check the disk"
            raise StoreError(
                f"store folder {self._root} {told}, or set store.url to another folder",
                retryable=error.errno in _TEMPORARY_ERRNOS,
            ) from error
