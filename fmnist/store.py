"""An object store with a few verbs: a folder, or a bucket of an S3-compatible server.

Keys are relative paths with `/`. An object comes into being by `create`, which never overwrites,
and changes by `swap`, which writes only over the version that its caller has read; a reader sees
the old content or the new, never a part. A write whose answer was lost is settled by reading: an
object with the very content that was to be written is taken for one's own success.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from filelock import FileLock, Timeout

from fmnist.errors import StoreError, without_credentials

_ROOM_FOR_A_RUN = 32 * 2**20
_PROBE = ".probe"
_STALE = '"00000000000000000000000000000000"'
_LOCK = ".lock"
_LONGEST_WAIT_FOR_LOCK = 30
_PAUSES = (0.1, 0.5, 2.0)

Answer = TypeVar("Answer")


class Conflict(StoreError):
    """A write's condition does not hold: an object is there, or is no longer the one that was read."""


@dataclass(frozen=True)
class Stored:
    """An object's content, and the version that `swap` compares."""

    content: bytes
    version: str


@dataclass(frozen=True)
class Entry:
    """An object in a listing: its size in bytes, and when it was written by the store's clock."""

    size: int
    modified: datetime


class Store(Protocol):
    """What runs and the champion are kept in."""

    url: str

    def check(self) -> bool:
        """Make sure that the store is there, can be read and written, and honours conditions.

        Returns:
            Whether conditional writes are honoured; `False` only if `single_publisher` allows it.

        Raises:
            StoreError: it is not, cannot be, or is full; or nothing there is safe from being
                overwritten by another publisher.
        """

    def create(self, key: str, content: bytes) -> None:
        """Write an object that is not there yet.

        Raises:
            Conflict: an object with other content is there.
            StoreError: the store cannot be written.
        """

    def swap(self, key: str, version: str | None, content: bytes) -> None:
        """Write an object in place of that version of it, or as a new one if that is `None`.

        Raises:
            Conflict: the object is not (or no longer) of that version.
            StoreError: the store cannot be written.
        """

    def read(self, key: str) -> bytes | None:
        """The object's content; `None` if there is no such object.

        Raises:
            StoreError: the store cannot be read.
        """

    def look(self, key: str) -> Stored | None:
        """The object's content with its version; `None` if there is no such object.

        Raises:
            StoreError: the store cannot be read.
        """

    def names(self, prefix: str) -> list[str]:
        """What lies directly below a prefix that ends with `/`: objects, and `name/` for more keys.

        Names that start with a dot are left out.

        Raises:
            StoreError: the store cannot be listed.
        """

    def entries(self, prefix: str) -> Mapping[str, Entry]:
        """Every object at any depth below a prefix that ends with `/`, by its key.

        As in `names`, what starts with a dot is left out.

        Raises:
            StoreError: the store cannot be listed.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no failure.

        Raises:
            StoreError: the store cannot be written.
        """

    def clock(self) -> datetime | None:
        """What time it is by a server's own clock; `None` where there is none or it is not told.

        Raises:
            StoreError: the store cannot be listed.
        """

    def location(self, key: str) -> str:
        """Where a person finds the object: a path or an `s3://` location."""


def open_store(url: str, *, single_publisher: bool = False) -> Store:
    """The store at a folder's path or at `s3://bucket/prefix`. Nothing is contacted yet.

    With `single_publisher`, a bucket whose server ignores conditions is accepted: it is looked at
    before each write, which is safe as long as nobody else writes at that moment.

    Raises:
        StoreError: the AWS configuration of this machine cannot be used.
    """
    if url.startswith("s3://"):
        return S3Store(url, single_publisher=single_publisher)
    return FolderStore(url)


class FolderStore:
    """A store in a folder of this machine, which is made when it is first needed.

    A new object is linked into place, a changed one renamed into place under a lock that the
    system releases when its process ends. Both are flushed to disk, file and folders, before they
    count as done. What a killed process leaves is a file `.*.part`, which is no object.
    """

    def __init__(self, url: str) -> None:
        """Name the folder; a leading `~` is the user's home.

        Raises:
            StoreError: it is the home of an unknown user.
        """
        self.url = url
        try:
            self._root = Path(url).expanduser()
        except RuntimeError as error:
            raise StoreError(
                f"store folder {url} is in the home of an unknown user; correct store.url"
            ) from error

    def check(self) -> bool:
        """See `Store.check`."""
        with self._errors():
            _make_folder(self._root, self._root)
            probe = self._root / f"{_PROBE}-{uuid.uuid4().hex}"
            link = probe.with_suffix(".link")
            try:
                probe.write_bytes(_PROBE.encode())
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
        """Nothing but a hard link puts a whole file into place without overwriting another."""
        try:
            os.link(probe, link)
        except OSError as error:
            raise StoreError(
                f"store folder {self._root} is on a file system without hard links "
                f"({error.strerror}), so nothing there is safe from being overwritten; "
                "set store.url to a folder on another"
            ) from error

    def create(self, key: str, content: bytes) -> None:
        """See `Store.create`."""
        with self._errors():
            target = self._path(key)
            _make_folder(target.parent, self._root)
            with whole_file(target, content) as written:
                try:
                    os.link(written, target)
                except FileExistsError:
                    if target.read_bytes() != content:
                        raise _already_there(str(target)) from None

    def swap(self, key: str, version: str | None, content: bytes) -> None:
        """See `Store.swap`."""
        with self._errors():
            target = self._path(key)
            _make_folder(target.parent, self._root)
            with self._lock():
                found = self.look(key)
                if found and found.content == content:
                    # Its folder may not have been flushed when the first try failed.
                    flush_folder(target.parent)
                    return
                if (found.version if found else None) != version:
                    raise _changed(str(target))
                _make_folder(target.parent, self._root)
                with whole_file(target, content) as written:
                    written.replace(target)

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        with self._errors():
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                return None

    def look(self, key: str) -> Stored | None:
        """See `Store.look`."""
        content = self.read(key)
        return None if content is None else Stored(content, hashlib.sha256(content).hexdigest())

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        with self._errors():
            try:
                return sorted(
                    f"{path.name}/" if path.is_dir() else path.name
                    for path in self._path(prefix).iterdir()
                    if not path.name.startswith(".")
                )
            except FileNotFoundError:
                return []

    def entries(self, prefix: str) -> Mapping[str, Entry]:
        """See `Store.entries`."""
        found: dict[str, Entry] = {}
        for name in self.names(prefix):
            if name.endswith("/"):
                found |= self.entries(prefix + name)
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
            # A folder is no object: it goes with its last one, as it would in a bucket.
            for folder in target.parents:
                if folder == self._root:
                    break
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:
                    break

    def clock(self) -> None:
        """See `Store.clock`."""

    def location(self, key: str) -> str:
        """See `Store.location`."""
        return str(self._root / key)

    def _path(self, key: str) -> Path:
        """The file of a key, none of whose folders leads out of the store.

        Raises:
            StoreError: there is a symbolic link or a `..` on the way, or it can be no file's name.
        """
        path = self._root
        parts = key.rstrip("/").split("/")
        if ".." in parts or "\0" in key:
            raise StoreError(f"{key[:100]!r} is no key of the store {self._root}; correct the name")
        for part in parts:
            path /= part
            if path.is_symlink():
                raise StoreError(
                    f"{path} is a symbolic link, which may lead out of the store; "
                    "put the file or folder itself there"
                )
        return path

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep every other process from changing an object; no process leaves it locked."""
        lock = FileLock(self._root / _LOCK, timeout=_LONGEST_WAIT_FOR_LOCK, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"{self._root / _LOCK} is held by another process for more than "
                f"{_LONGEST_WAIT_FOR_LOCK} s; see what hangs there, then try again",
                temporary=True,
            ) from error
        except NotImplementedError as error:
            raise StoreError(
                f"store folder {self._root} is on a file system without locks, so nothing there "
                "is safe from being overwritten; set store.url to a folder on another"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"store folder {self._root}"
            match error.errno:
                case errno.ENOSPC | errno.EDQUOT:
                    message = (
                        f"{where} is full; free some space, or set store.url to another folder"
                    )
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    message = f"{where} cannot be written ({error.strerror}); give this user the right to, or set store.url to another folder"
                case errno.ENOTDIR | errno.EEXIST:
                    message = f"{where} cannot be used, since a file is in its place ({error.filename}); set store.url to a folder"
                case errno.EISDIR:
                    message = f"{where} cannot be used, since a folder is in a file's place ({error.filename}); set store.url to another folder"
                case _:
                    message = f"{where} cannot be used: {error.strerror or error}; check the disk, or set store.url to another folder"
            raise StoreError(message, temporary=error.errno in _TEMPORARY_ERRNOS) from error


_TEMPORARY_ERRNOS = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY}


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder of a store and what is missing above it, so that it survives a power cut.

    What is there already is flushed too: who made it may have failed or died before that.
    """
    doubtful = [
        path for path in (folder, *folder.parents) if root in path.parents or not path.exists()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(doubtful):
        flush_folder(path.parent)


@contextlib.contextmanager
def whole_file(target: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside the target, flushed to disk, to be put in its place within the block.

    Afterwards its folder is flushed too. Whatever happens, no part of the file is left.

    Raises:
        OSError: it cannot be written.
    """
    written = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write_flushed(written, content)
        yield written
        flush_folder(target.parent)
    finally:
        # What an error came before counts more than a file that is no object.
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a new file that survives a power cut once its folder was flushed too.

    Raises:
        OSError: it cannot be written, or there is one.
    """
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename or link in the folder survive a power cut."""
    if os.name == "nt":  # Windows opens no folders, and flushes their changes itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing
            raise
    finally:
        os.close(descriptor)


def _already_there(where: str) -> Conflict:
    return Conflict(f"{where} is already there with other content; nothing is overwritten")


def _changed(where: str) -> Conflict:
    return Conflict(f"{where} was changed by another publisher; nothing is overwritten")


class S3Store:
    """A store under a prefix of a bucket, through boto3's standard configuration chain."""

    def __init__(self, url: str, *, single_publisher: bool = False) -> None:
        """Parse `s3://bucket/prefix` and make a client; nothing is contacted yet.

        Raises:
            StoreError: the AWS configuration of this machine cannot be used.
        """
        parts = urlsplit(url)
        self.url = url
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._single_publisher = single_publisher
        with self._errors():
            self._client: Any = boto3.session.Session().client(
                "s3",
                config=Config(
                    # Several S3-compatible servers refuse the checksums newer clients add.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    retries={"mode": "standard", "total_max_attempts": 4},
                    connect_timeout=5,
                    read_timeout=30,
                ),
            )

    def check(self) -> bool:
        """See `Store.check`. Leaves one tiny object, since a job may have no right to delete."""
        probe = _PROBE.encode()
        self._put(_PROBE, probe)
        found = self.look(_PROBE)
        if found is None or found.content != probe:
            raise StoreError(
                f"{self.location(_PROBE)} was written but does not read back the same; "
                "this server cannot be trusted with a model"
            )
        # Without the right to list the prefix, S3 answers 403 instead of 404 for an object that is
        # not there, which would be found out only after training.
        self.read(f"{_PROBE}-absent")
        # Written over by the same content alone, whatever is honoured.
        honours = (
            not self._accepts(probe, IfNoneMatch="*")
            and not self._accepts(probe, IfMatch=_STALE)
            and self._accepts(probe, IfMatch=found.version)
        )
        if not honours and not self._single_publisher:
            raise StoreError(
                f"bucket '{self._bucket}' at {self._server} does not honour conditional writes, so "
                "nothing there is safe from being overwritten; use another server or a newer one, "
                "or, if nothing but one job ever publishes there, set store.single_publisher"
            )
        return honours

    def _accepts(self, content: bytes, **condition: str) -> bool:
        """Whether the server writes the probe under this condition."""
        try:
            self._put(_PROBE, content, **condition)
        except (Conflict, _NotSupported):
            return False
        return True

    def create(self, key: str, content: bytes) -> None:
        """See `Store.create`."""
        if self._single_publisher and (found := self.read(key)) is not None:
            if found != content:
                raise _already_there(self.location(key))
            return
        try:
            self._put_on_condition(key, content, IfNoneMatch="*")
        except Conflict:
            raise _already_there(self.location(key)) from None

    def swap(self, key: str, version: str | None, content: bytes) -> None:
        """See `Store.swap`."""
        if self._single_publisher:
            found = self.look(key)
            if (found.version if found else None) != version:
                if found and found.content == content:
                    return
                raise _changed(self.location(key))
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._put_on_condition(key, content, **condition)
        except Conflict:
            raise _changed(self.location(key)) from None

    def _put_on_condition(self, key: str, content: bytes, **condition: str) -> None:
        """Write if the condition holds; what the answer leaves open is settled by reading.

        A retried request is refused because its first try went through, and an answer may be lost
        although the object was written: neither is a conflict or a failure.
        """
        try:
            self._put(key, content, **condition)
        except _NotSupported:
            if not self._single_publisher:
                raise
            self._put(key, content)
        except StoreError as error:
            if not isinstance(error, Conflict) and not error.temporary:
                raise
            with contextlib.suppress(StoreError):
                if self.read(key) == content:
                    return
            raise

    def _put(self, key: str, content: bytes, **condition: str) -> None:
        def put() -> None:
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=content, **condition
            )

        self._request(put)

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        found = self.look(key)
        return found.content if found else None

    def look(self, key: str) -> Stored | None:
        """See `Store.look`."""

        def get() -> Stored | None:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                return Stored(answer["Body"].read(), answer.get("ETag", ""))
            except boto.ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise

        return self._request(get)

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        found = [
            item.get("Prefix") or item["Key"]
            for page in self._pages(prefix, Delimiter="/")
            for item in (*page.get("CommonPrefixes", ()), *page.get("Contents", ()))
        ]
        below = (key.removeprefix(self._prefix + prefix) for key in found)
        return sorted(name for name in below if name and not name.startswith("."))

    def entries(self, prefix: str) -> Mapping[str, Entry]:
        """See `Store.entries`."""
        found = {
            item["Key"].removeprefix(self._prefix): Entry(item["Size"], item["LastModified"])
            for page in self._pages(prefix)
            for item in page.get("Contents", ())
        }
        return {
            key: entry
            for key, entry in found.items()
            if not key.endswith("/") and "/." not in f"/{key}"
        }

    def _pages(self, prefix: str, **options: str) -> list[Any]:
        def pages() -> list[Any]:
            listing = self._client.get_paginator("list_objects_v2")
            return list(
                listing.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **options)
            )

        return self._request(pages)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""

        def delete() -> None:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

        self._request(delete)

    def clock(self) -> datetime | None:
        """See `Store.clock`. Each answer tells the time (RFC 9110, 6.6.1)."""
        answer = self._request(
            lambda: self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
            )
        )
        try:
            date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        except (KeyError, ValueError):
            return None
        return date if date.tzinfo else date.replace(tzinfo=UTC)

    def _request(self, action: Callable[[], Answer]) -> Answer:
        """Do it, and again after a pause where the server asks for that or its answer broke off.

        Everything else that is worth another try has had it in boto3.
        """
        for pause in _PAUSES:
            try:
                with self._errors():
                    return action()
            except _Again:
                time.sleep(pause)
        with self._errors():
            return action()

    def location(self, key: str) -> str:
        """See `Store.location`."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    @property
    def _server(self) -> str:
        return without_credentials(str(self._client.meta.endpoint_url))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what boto3 raises into one line that says what, where and what to do."""
        try:
            yield
        except boto.ClientError as error:
            raise self._refusal(error) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
            raise StoreError(
                f"no complete credentials for {self.url}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except boto.ParamValidationError as error:
            raise StoreError(
                f"{self.url} is not a valid location: {_one_line(error)}; correct it"
            ) from error
        except (boto.IncompleteReadError, boto.ResponseStreamingError) as error:
            raise _Again(
                f"{self._server} broke off its answer for {self.url} ({_one_line(error)}); "
                "try again later, or look at the server's log",
                temporary=True,
            ) from error
        except (boto.ConnectionError, boto.HTTPClientError) as error:
            raise StoreError(
                f"cannot reach {self._server} for {self.url} ({_one_line(error)}); "
                "is the server up, and AWS_ENDPOINT_URL_S3 right?",
                temporary=True,
            ) from error
        except (boto.BotoCoreError, OSError, ValueError) as error:
            raise StoreError(
                f"the AWS configuration cannot be used for {self.url}: {_one_line(error)}; "
                "check AWS_ENDPOINT_URL_S3, AWS_PROFILE and AWS_REGION"
            ) from error

    def _refusal(self, error: boto.ClientError) -> StoreError:
        code = str(error.response["Error"].get("Code", ""))
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        where = f"bucket '{self._bucket}' at {self._server}"
        # 404 is the answer to a condition on an object that is not there.
        if status == 412 or (code == "NoSuchKey" and error.operation_name == "PutObject"):
            return Conflict(f"{where}: an object is there, or is another one")
        if code == "NoSuchBucket":
            return StoreError(f"{where} does not exist: create it, or set store.url to another")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return StoreError(f"{where} refuses the key ({code}): check the AWS credentials")
        if code == "RequestTimeTooSkewed":
            return StoreError(
                f"{where} refuses this machine's clock ({code}): set the clocks of both by NTP"
            )
        if "StorageFull" in code or "QuotaExceeded" in code or status == 507:
            return StoreError(f"{where} is full ({code}): free some space, or use another bucket")
        if status in (401, 403):
            return StoreError(
                f"{where} refuses {error.operation_name} ({code}): check the AWS credentials and "
                "this key's right to list, read and write there"
            )
        kind = (
            _NotSupported
            if status == 501 or code == "NotImplemented"
            else _Again
            if status == 409
            else StoreError
        )
        return kind(
            f"{where} failed at {error.operation_name} ({status} {code}); "
            "try again later, or look at the server's log",
            temporary=status in (409, 429) or (status >= 500 and status != 501),
        )


class _Again(StoreError):
    """The server asks for the same request again, or its answer broke off."""


class _NotSupported(StoreError):
    """The server does not know what was asked of it."""


def _one_line(error: Exception) -> str:
    return without_credentials(" ".join(str(error).split()))
