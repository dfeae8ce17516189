"""An object store with a few verbs: a folder, or a bucket of an S3-compatible server.

Keys are relative paths with `/`. `create` never overwrites; `replace` does, in one step: a reader
sees the old content or the new, never a part.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from fmnist.errors import StoreError, without_credentials

_ROOM_FOR_A_RUN = 32 * 2**20
_PROBE = ".probe"


class Store(Protocol):
    """What runs and the champion are kept in."""

    url: str

    def check(self) -> None:
        """Make sure that the store is there and can be read and written.

        Raises:
            StoreError: it is not, cannot be, or is full.
        """

    def create(self, key: str, content: bytes) -> None:
        """Write an object that is not there yet.

        An object with the very same content is taken for one's own earlier success.

        Raises:
            StoreError: an object with other content is there, or the store cannot be written.
        """

    def replace(self, key: str, content: bytes) -> None:
        """Write an object, in place of one that may be there.

        Raises:
            StoreError: the store cannot be written.
        """

    def read(self, key: str) -> bytes | None:
        """The object's content; `None` if there is no such object.

        Raises:
            StoreError: the store cannot be read.
        """

    def location(self, key: str) -> str:
        """Where a person finds the object: a path or an `s3://` location."""


def open_store(url: str) -> Store:
    """The store at a folder's path or at `s3://bucket/prefix`. Nothing is contacted yet.

    Raises:
        StoreError: the AWS configuration of this machine cannot be used.
    """
    return S3Store(url) if url.startswith("s3://") else FolderStore(url)


class FolderStore:
    """A store in a folder of this machine, which is made when it is first needed."""

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

    def check(self) -> None:
        """See `Store.check`."""
        with self._errors():
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f"{_PROBE}-{uuid.uuid4().hex}"
            link = probe.with_suffix(".link")
            try:
                probe.write_bytes(_PROBE.encode())
                probe.read_bytes()
                self._check_links(probe, link)
            finally:
                probe.unlink(missing_ok=True)
                link.unlink(missing_ok=True)
            if shutil.disk_usage(self._root).free < _ROOM_FOR_A_RUN:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
        target = self._root / key
        with self._errors(), self._whole_file(target, content) as written:
            try:
                os.link(written, target)
            except FileExistsError:
                if target.read_bytes() != content:
                    raise StoreError(
                        f"{target} is already there with other content; nothing is overwritten"
                    ) from None

    def replace(self, key: str, content: bytes) -> None:
        """See `Store.replace`."""
        target = self._root / key
        with self._errors(), self._whole_file(target, content) as written:
            written.replace(target)

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        with self._errors():
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

    def location(self, key: str) -> str:
        """See `Store.location`."""
        return str(self._root / key)

    @contextlib.contextmanager
    def _whole_file(self, target: Path, content: bytes) -> Iterator[Path]:
        """A temporary file beside the target, flushed to disk; afterwards, so is its folder."""
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
        written = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            written.chmod(0o644)
            yield written
        finally:
            written.unlink(missing_ok=True)
        _flush_folder(target.parent)

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
                case _:
                    message = f"{where} cannot be used: {error.strerror or error}; check the disk, or set store.url to another folder"
            raise StoreError(message, temporary=error.errno in _TEMPORARY_ERRNOS) from error


_TEMPORARY_ERRNOS = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY}


def _flush_folder(folder: Path) -> None:
    """Make a rename or link in the folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class S3Store:
    """A store under a prefix of a bucket, through boto3's standard configuration chain."""

    def __init__(self, url: str) -> None:
        """Parse `s3://bucket/prefix` and make a client; nothing is contacted yet.

        Raises:
            StoreError: the AWS configuration of this machine cannot be used.
        """
        parts = urlsplit(url)
        self.url = url
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        with self._errors():
            self._client: Any = boto3.session.Session().client(
                "s3",
                config=Config(
                    # Several S3-compatible servers refuse the checksums newer clients add.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path"},
                    retries={"mode": "standard", "total_max_attempts": 4},
                    connect_timeout=5,
                    read_timeout=30,
                ),
            )

    def check(self) -> None:
        """See `Store.check`. Leaves one tiny object, since a job may have no right to delete."""
        self.replace(_PROBE, _PROBE.encode())
        if self.read(_PROBE) != _PROBE.encode():
            raise StoreError(
                f"{self.location(_PROBE)} was written but does not read back the same; "
                "this server cannot be trusted with a model"
            )
        try:
            self._put_new(_PROBE, _PROBE.encode())
        except _Exists:
            pass
        else:
            raise StoreError(
                f"bucket '{self._bucket}' at {self._server} does not honour conditional writes, so "
                "nothing there is safe from being overwritten; use another server or a newer one"
            )
        # Without the right to list the prefix, S3 answers 403 instead of 404 for an object that is
        # not there, which would be found out only after training.
        self.read(f"{_PROBE}-absent")

    def create(self, key: str, content: bytes) -> None:
        """See `Store.create`."""
        try:
            self._put_new(key, content)
        except _Exists:
            # A retried request is refused because its first try went through: not a conflict.
            if self.read(key) != content:
                raise StoreError(
                    f"{self.location(key)} is already there with other content; "
                    "nothing is overwritten"
                ) from None

    def _put_new(self, key: str, content: bytes) -> None:
        with self._errors():
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=content, IfNoneMatch="*"
            )

    def replace(self, key: str, content: bytes) -> None:
        """See `Store.replace`."""
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        with self._errors():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                content: bytes = answer["Body"].read()
                return content
            except boto.ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise

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
        except (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError) as error:
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
        if status == 412:
            return _Exists(f"{where}: an object is already there")
        if code == "NoSuchBucket":
            return StoreError(f"{where} does not exist: create it, or set store.url to another")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return StoreError(f"{where} refuses the key ({code}): check the AWS credentials")
        if "StorageFull" in code or "QuotaExceeded" in code or status == 507:
            return StoreError(f"{where} is full ({code}): free some space, or use another bucket")
        if status in (401, 403):
            return StoreError(
                f"{where} refuses {error.operation_name} ({code}): check the AWS credentials and "
                "this key's right to list, read and write there"
            )
        return StoreError(
            f"{where} failed at {error.operation_name} ({status} {code}); "
            "try again later, or look at the server's log",
            temporary=status in (409, 429) or (status >= 500 and status != 501),
        )


class _Exists(StoreError):
    """An object is there that was to be created."""


def _one_line(error: Exception) -> str:
    return without_credentials(" ".join(str(error).split()))
