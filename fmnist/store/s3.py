"""A store in a bucket of an S3-compatible server, through boto3's standard configuration chain."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from fmnist.errors import StoreError, without_credentials
from fmnist.store.base import (
    PROBE,
    Conflict,
    Entry,
    StoredObject,
    already_there,
    changed,
    check_size,
)

_STALE = '"00000000000000000000000000000000"'
_PAUSES = (0.1, 0.5, 2.0)
_LATER = "try again later, or look at the server's log"
_WRONG_KEY = "refuses the key ({code}): check the AWS credentials"
_REFUSALS = {
    "NoSuchBucket": "does not exist: create it, or set store.url to another",
    "RequestTimeTooSkewed": "refuses this machine's clock ({code}): set the clocks of both by NTP",
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "ExpiredToken": _WRONG_KEY,
    "InvalidToken": _WRONG_KEY,
}
Answer = TypeVar("Answer")


class S3Store:
    """A store under a prefix of a bucket, through boto3's standard configuration chain."""

    def __init__(self, url: str, *, single_publisher: bool = False) -> None:
        """Parse `s3://bucket/prefix` and make a client; nothing is contacted yet."""
        self.url = url
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
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
        probe = PROBE.encode()
        self._put(PROBE, probe)
        found = self.get(PROBE)
        if found is None or found.content != probe:
            raise StoreError(
                f"{self.location(PROBE)} was written but does not read back the same; "
                "this server cannot be trusted with a model"
            )
        # Without the right to list the prefix, S3 answers 403 instead of 404 for a missing object,
        # which would otherwise show only after training.
        self.read(f"{PROBE}-absent")
        # Whatever is honoured, the probe is only overwritten by the same content.
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
            self._put(PROBE, content, **condition)
        except (Conflict, _NotSupported):
            return False
        return True

    def put_if_absent(self, key: str, content: bytes) -> None:
        """See `Store.put_if_absent`."""
        self._write(key, None, content, already_there)

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        """See `Store.compare_and_swap`."""
        self._write(key, version, content, changed)

    def _write(
        self, key: str, version: str | None, content: bytes, conflict: Callable[[str], Conflict]
    ) -> None:
        """Write over that version, or nothing; an unclear answer is settled by reading.

        A retried request is refused if its first attempt went through, and an answer may be lost
        although the object was written: neither is a conflict or a failure.
        """
        if self._single_publisher:
            found = self.get(key)
            if (found.version if found else None) != version:
                if found and found.content == content:
                    return
                raise conflict(self.location(key))
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._put(key, content, **condition)
        except _NotSupported:
            if not self._single_publisher:
                raise
            self._put(key, content)
        except StoreError as error:
            if not isinstance(error, Conflict) and not error.retryable:
                raise
            with contextlib.suppress(StoreError):
                if self.read(key) == content:
                    return
            if isinstance(error, Conflict):
                raise conflict(self.location(key)) from None
            raise

    def _put(self, key: str, content: bytes, **condition: str) -> None:
        put = self._client.put_object
        self._request(put, Key=self._prefix + key, Body=content, **condition)

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        """See `Store.read`."""
        found = self.get(key, limit)
        return found.content if found else None

    def get(self, key: str, limit: int | None = None) -> StoredObject | None:
        """See `Store.get`."""

        def get(**place: str) -> StoredObject | None:
            try:
                answer = self._client.get_object(**place)
                with contextlib.closing(answer["Body"]) as body:
                    check_size(self.location(key), answer.get("ContentLength", 0), limit)
                    return StoredObject(body.read(), answer.get("ETag", ""))
            except self._client.exceptions.NoSuchKey:
                return None

        return self._request(get, Key=self._prefix + key)

    def list_names(self, prefix: str) -> list[str]:
        """See `Store.list_names`."""
        listing = self._list(prefix, Delimiter="/")
        found = [folder["Prefix"] for folder in listing.get("CommonPrefixes", ())]
        found += [item["Key"] for item in listing.get("Contents", ())]
        below = (key.removeprefix(self._prefix + prefix) for key in found)
        return sorted(name for name in below if name and not name.startswith("."))

    def list_entries(self, prefix: str) -> Mapping[str, Entry]:
        """See `Store.list_entries`."""
        found = {}
        for item in self._list(prefix).get("Contents", ()):
            key = item["Key"].removeprefix(self._prefix)
            if not key.endswith("/") and "/." not in f"/{key}":
                found[key] = Entry(item["Size"], item["LastModified"])
        return found

    def _list(self, prefix: str, **options: str) -> Mapping[str, Any]:
        def all_pages(**place: str) -> Mapping[str, Any]:
            pages = self._client.get_paginator("list_objects_v2").paginate(**place, **options)
            found: Mapping[str, Any] = pages.build_full_result()
            return found

        return self._request(all_pages, Prefix=self._prefix + prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._request(self._client.delete_object, Key=self._prefix + key)

    def clock(self) -> datetime | None:
        """See `Store.clock`. Each answer states the time (RFC 9110, 6.6.1)."""
        answer = self._request(self._client.list_objects_v2, Prefix=self._prefix, MaxKeys=1)
        try:
            date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        except (KeyError, ValueError):
            return None
        return date if date.tzinfo else date.replace(tzinfo=UTC)

    def _request(self, action: Callable[..., Answer], **place: Any) -> Answer:
        """Do it in the bucket; again after a pause if the server asks for that or breaks off.

        boto3 itself repeats everything else that is worth another attempt.
        """
        for pause in _PAUSES:
            try:
                with self._errors():
                    return action(Bucket=self._bucket, **place)
            except _Again:
                time.sleep(pause)
        with self._errors():
            return action(Bucket=self._bucket, **place)

    def location(self, key: str) -> str:
        """See `Store.location`."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    @property
    def _server(self) -> str:
        return without_credentials(str(self._client.meta.endpoint_url))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what boto3 raises into one line that says what failed, where and what to do."""
        try:
            yield
        except boto.ClientError as error:
            raise self._refusal(error) from error
        except (boto.BotoCoreError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StoreError:
        """What to say when no answer came."""
        why = without_credentials(" ".join(str(error).split()))
        match error:
            case boto.NoCredentialsError() | boto.PartialCredentialsError():
                variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                return StoreError(f"no complete credentials for {self.url}: set {variables}")
            case boto.ParamValidationError():
                return StoreError(f"{self.url} is not a valid location: {why}; correct it")
            case boto.IncompleteReadError() | boto.ResponseStreamingError():
                what = f"{self._server} broke off its answer for {self.url} ({why})"
                return _Again(f"{what}; {_LATER}", retryable=True)
            case boto.ConnectionError() | boto.HTTPClientError():
                what = f"cannot reach {self._server} for {self.url} ({why})"
                question = "is the server up, and AWS_ENDPOINT_URL_S3 right?"
                return StoreError(f"{what}; {question}", retryable=True)
        what = f"the AWS configuration cannot be used for {self.url}: {why}"
        return StoreError(f"{what}; check AWS_ENDPOINT_URL_S3, AWS_PROFILE and AWS_REGION")

    def _refusal(self, error: boto.ClientError) -> StoreError:
        """What to say of an answer that is a refusal."""
        code = str(error.response["Error"].get("Code", ""))
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        where = f"bucket '{self._bucket}' at {self._server}"
        # 404 is the answer to a condition on a missing object.
        if status == 412 or (code == "NoSuchKey" and error.operation_name == "PutObject"):
            return Conflict(f"{where}: the object exists, or is not the expected one")
        if code in _REFUSALS:
            return StoreError(f"{where} {_REFUSALS[code].format(code=code)}")
        if "StorageFull" in code or "QuotaExceeded" in code or status == 507:
            return StoreError(f"{where} is full ({code}): free some space, or use another bucket")
        if status in (401, 403):
            return StoreError(
                f"{where} refuses {error.operation_name} ({code}): check the AWS credentials and "
                "this key's right to list, read and write there"
            )
        message = f"{where} failed at {error.operation_name} ({status} {code}); {_LATER}"
        if status == 501 or code == "NotImplemented":
            return _NotSupported(message)
        # A missing object is answered with a code, unless the answer broke off before it.
        if status == 409 or (status == 404 and code == "404"):
            return _Again(message, retryable=True)
        return StoreError(message, retryable=status == 429 or status >= 500)


class _Again(StoreError):
    """The server asks for the same request again, or its answer broke off."""


class _NotSupported(StoreError):
    """The server does not know this kind of request."""
