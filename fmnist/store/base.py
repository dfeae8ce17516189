"""An object store with a few verbs: a folder, or a bucket of an S3-compatible server.

Keys are relative paths with `/`. An object comes into being by `put_if_absent`, which never
overwrites, and changes by `compare_and_swap`, which writes only over the version that its caller
has read. A reader sees the complete old content or the complete new one. A write whose answer was
lost is settled by reading: an object with the intended content counts as success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pkgutil import resolve_name
from typing import Protocol

from fmnist.errors import DamagedError, StoreError
from fmnist.locations import STORES

# The object, or the beginning of the file name, by which a store is tested before a run.
PROBE = ".probe"


class Conflict(StoreError):
    """A write's condition does not hold: an object exists, or is not the one that was read."""


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read.

    Attributes:
        content: its bytes.
        version: what `compare_and_swap` compares.
    """

    content: bytes
    version: str


@dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes:
        size: in bytes.
        modified: when it was written, by the store's clock.
    """

    size: int
    modified: datetime


class Store(Protocol):
    """What runs and the champion are kept in.

    What reaches the store raises `StoreError` if it cannot be read, or cannot be written.

    Attributes:
        url: the folder or address that the settings name.
    """

    url: str

    def check(self) -> bool:
        """Check that the store exists, has room and honours conditions, by reading and writing.

        Returns whether conditional writes are honoured; `False` only if `single_publisher` is set.
        """

    def put_if_absent(self, key: str, content: bytes) -> None:
        """Write an object that does not exist yet; a `Conflict` if one with other content does."""

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        """Replace that version of an object, or write a new one if `version` is `None`.

        It is a `Conflict` if the object does not have that version, or no longer.
        """

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        """The object's content; `None` if there is no such object.

        It is a `DamagedError` if it has more than `limit` bytes, none of which are read then.
        """

    def get(self, key: str, limit: int | None = None) -> StoredObject | None:
        """What `read` returns, with its version."""

    def list_names(self, prefix: str) -> list[str]:
        """The objects directly below a prefix that ends with `/`, and `name/` for deeper ones.

        Names that start with a dot are left out.
        """

    def list_entries(self, prefix: str) -> Mapping[str, Entry]:
        """Every object at any depth below a prefix that ends with `/`, by its key.

        As in `list_names`, what starts with a dot is left out.
        """

    def delete(self, key: str) -> None:
        """Remove an object, if it exists."""

    def clock(self) -> datetime | None:
        """The time by the server's own clock; `None` if there is none or it is not stated."""

    def location(self, key: str) -> str:
        """Where a person finds the object: a path or an `s3://` location."""


def open_store(url: str, *, single_publisher: bool = False) -> Store:
    """The store at a folder's path or a URL of one of `STORES`. Nothing is contacted yet.

    With `single_publisher`, a bucket whose server ignores conditions is accepted: each write reads
    first, which is safe as long as nobody else writes at that moment.

    Raises:
        StoreError: the AWS configuration of this machine cannot be used.
    """
    scheme, separator, _ = url.partition("://")
    kind = resolve_name(STORES[scheme if separator else ""])
    store: Store = kind(url, single_publisher=single_publisher)
    return store


def already_there(where: str) -> Conflict:
    """The refusal of `put_if_absent`."""
    return Conflict(f"{where} is already there with other content; nothing is overwritten")


def check_size(where: str, size: int, limit: int | None) -> None:
    """The refusal to read an object that is larger than anything that belongs there."""
    if limit is not None and size > limit:
        raise DamagedError(
            f"{where} has {size:,} bytes, but should have no more than {limit:,}; it is not read"
        )


def changed(where: str) -> Conflict:
    """The refusal of `compare_and_swap`."""
    return Conflict(f"{where} was changed by another publisher; nothing is overwritten")
