"""A store in memory, and hooks around every write, for tests that stop or meddle in between."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from fmnist.store import Conflict, Entry, FolderStore, Stored


class MemoryStore:
    """A store in memory that records its writes; `before` is called ahead of each of them.

    So is `after` behind it. A write that was refused is not recorded.
    """

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.after: Callable[[str, str], None] = lambda verb, key: None

    def check(self) -> bool:
        """Find nothing wrong."""
        return True

    def create(self, key: str, content: bytes) -> None:
        """Write an object that is not there yet."""
        self.before("create", key)
        if self.objects.get(key, content) != content:
            raise Conflict(f"{key} is already there with other content")
        self._write("create", key, content)

    def swap(self, key: str, version: str | None, content: bytes) -> None:
        """Write an object in place of that version of it."""
        self.before("swap", key)
        found = self.look(key)
        if (found.version if found else None) != version and self.objects.get(key) != content:
            raise Conflict(f"{key} was changed")
        self._write("swap", key, content)

    def read(self, key: str) -> bytes | None:
        """The object's content, if there is one."""
        return self.objects.get(key)

    def look(self, key: str) -> Stored | None:
        """The object's content with its version, if there is one."""
        content = self.objects.get(key)
        return None if content is None else Stored(content, hashlib.sha256(content).hexdigest())

    def names(self, prefix: str) -> list[str]:
        """What lies directly below a prefix, but for names that start with a dot."""
        below = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in below}
        return sorted(name for name in names if not name.startswith("."))

    def entries(self, prefix: str) -> Mapping[str, Entry]:
        """Every object below a prefix."""
        return {
            key: Entry(len(content), self.modified[key])
            for key, content in self.objects.items()
            if key.startswith(prefix)
        }

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.before("delete", key)
        self.objects.pop(key, None)
        self.writes.append(("delete", key))
        self.after("delete", key)

    def clock(self) -> None:
        """This machine's."""

    def location(self, key: str) -> str:
        """Where the object lies."""
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

    def create(self, key: str, content: bytes) -> None:
        """Write an object that is not there yet."""
        self.before("create", key)
        super().create(key, content)
        self.after("create", key)

    def swap(self, key: str, version: str | None, content: bytes) -> None:
        """Write an object in place of that version of it."""
        self.before("swap", key)
        super().swap(key, version, content)
        self.after("swap", key)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.before("delete", key)
        super().delete(key)
        self.after("delete", key)
