"""A store in memory, and hooks around every write, for tests that stop or meddle in between."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from fmnist.store.base import Conflict, Entry, StoredObject, check_size
from fmnist.store.folder import FolderStore


class Watched:
    """Calls `before` ahead of every write, and records it and calls `after` unless it is refused."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.after: Callable[[str, str], None] = lambda verb, key: None

    @contextmanager
    def _writing(self, verb: str, key: str) -> Iterator[None]:
        self.before(verb, key)
        yield
        self.writes.append((verb, key))
        self.after(verb, key)


class MemoryStore(Watched):
    """A store in memory."""

    url = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}

    def check(self) -> bool:
        return True

    def put_if_absent(self, key: str, content: bytes) -> None:
        with self._writing("put_if_absent", key):
            if self.objects.get(key, content) != content:
                raise Conflict(f"{key} is already there with other content")
            self._keep(key, content)

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        with self._writing("compare_and_swap", key):
            found = self.get(key)
            if (found.version if found else None) != version and self.objects.get(key) != content:
                raise Conflict(f"{key} was changed")
            self._keep(key, content)

    def _keep(self, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.modified[key] = datetime.now(UTC)

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        found = self.get(key, limit)
        return found.content if found else None

    def get(self, key: str, limit: int | None = None) -> StoredObject | None:
        if (content := self.objects.get(key)) is None:
            return None
        check_size(self.location(key), len(content), limit)
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
        with self._writing("delete", key):
            self.objects.pop(key, None)

    def clock(self) -> None:
        """This machine's."""

    def location(self, key: str) -> str:
        return f"memory/{key}"


class WatchedFolder(Watched, FolderStore):
    """A store in a folder."""

    def __init__(self, url: str) -> None:
        Watched.__init__(self)
        FolderStore.__init__(self, url)

    def put_if_absent(self, key: str, content: bytes) -> None:
        with self._writing("put_if_absent", key):
            super().put_if_absent(key, content)

    def compare_and_swap(self, key: str, version: str | None, content: bytes) -> None:
        with self._writing("compare_and_swap", key):
            super().compare_and_swap(key, version, content)

    def delete(self, key: str) -> None:
        with self._writing("delete", key):
            super().delete(key)
