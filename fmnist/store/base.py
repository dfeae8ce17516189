"""An object store with a few verbs: a folder, or a bucket of an S3-compatible server.

Keys are relative paths with `/`. An object comes into being by `put_if_absent`, which never
overwrites, and changes by `compare_and_swap`, which writes only over the version that its caller has read; a reader sees
the old content or the new, never a part. A write whose answer was lost is settled by reading: an
object with the very content that was to be written is taken for one's own success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pkgutil import resolve_name
from typing import Protocol

from fmnist.errors import StoreError
from fmnist.locations import STORES


class Conflict(StoreError):
    """A write's condition does not hold: an object is there, or is no longer the one that was read."""


@dataclass(frozen=True)
class StoredObject:
    """An object's content, and the version that `compare_and_swap` compares."""

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

    def put_if_absent(self, key: str, content: bytes) -> None:
        """Write an object that is not there yet.

        Raises:
            Conflict: an object with other content is there.
            StoreError: the store cannot be written.
        """

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
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

    def get(self, key: str) -> StoredObject | None:
        """The object's content with its version; `None` if there is no such object.

        Raises:
            StoreError: the store cannot be read.
        """

    def list_names(self, prefix: str) -> list[str]:
        """What lies directly below a prefix that ends with `/`: objects, and `name/` for more keys.

        Names that start with a dot are left out.

        Raises:
            StoreError: the store cannot be listed.
        """

    def list_entries(self, prefix: str) -> Mapping[str, Entry]:
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
    scheme, separator, _ = url.partition("://")
    kind = resolve_name(STORES[scheme if separator else ""])
    store: Store = kind(url, single_publisher=single_publisher)
    return store


def already_there(where: str) -> Conflict:
    return Conflict(f"{where} is already there with other content; nothing is overwritten")


def changed(where: str) -> Conflict:
    return Conflict(f"{where} was changed by another publisher; nothing is overwritten")
