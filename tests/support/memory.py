"""A store in memory, and hooks around every write, for tests that stop or meddle in between."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from fmnist.store.base import Conflict, Entry, StoredObject
from fmnist.store.folder import FolderStore


class MemoryStore:
    """A store in memory that records its writes, but not those that it refuses.

    `before` is called ahead of each of them, `after` behind it.
    """

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.after: Callable[[str, str], None] = lambda verb, key: None

    def check(self) -> bool:
        return True

    def put_if_absent(self, key: str, content: bytes) -> None:
        self.before("put_if_absent", key)
        if self.objects.get(key, content) != content:
            raise Conflict(f"{key} is already there with other content")
        self._write("put_if_absent", key, content)

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        self.before("compare_and_swap", key)
        found = self.get(key)
        if (found.version if found else None) != version and self.objects.get(key) != content:
            raise Conflict(f"{key} was changed")
        self._write("compare_and_swap", key, content)

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def get(self, key: str) -> StoredObject | None:
        if (content := self.objects.get(key)) is None:
            return None
        return StoredObject(content, hashlib.sha256(content).hexdigest())

    def list_names(self, prefix: str) -> list[str]:
        below = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in below}
        return sorted(name for name in names if not name.startswith("."))

    def list_entries(self, prefix: str) -> Mapping[str, Entry]:
        return {
            key: Entry(len(content), self.modified[key])
            for key, content in self.objects.items()
            if key.startswith(prefix)
        }

    def delete(self, key: str) -> None:
        self.before("delete", key)
        self.objects.pop(key, None)
        self.writes.append(("delete", key))
        self.after("delete", key)

    def clock(self) -> None:
        """This machine's."""

    def location(self, key: str) -> str:
        return f"memory/{key}"

    def _write(self, verb: str, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.modified[key] = datetime.now(UTC)
        self.writes.append((verb, key))
        self.after(verb, key)


class WatchedFolder(FolderStore):
    """A store in a folder that calls `before` and `after` as a `MemoryStore` does."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.after: Callable[[str, str], None] = lambda verb, key: None

    def put_if_absent(self, key: str, content: bytes) -> None:
        self.before("put_if_absent", key)
        super().put_if_absent(key, content)
        self.after("put_if_absent", key)

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        self.before("compare_and_swap", key)
        super().compare_and_swap(key, version, content)
        self.after("compare_and_swap", key)

    def delete(self, key: str) -> None:
        self.before("delete", key)
        super().delete(key)
        self.after("delete", key)
