"""A store in a folder: the contract, and every way in which a folder can fail."""

import errno
import functools
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fmnist.errors import StoreError
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.support.store_contract import *  # noqa: F403
from tests.support.store_contract import VERBS, actions, failure, only_one_wins, replace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder that is not there yet."""
    return open_store(str(tmp_path / "not" / "there" / "yet"))


def test_only_one_of_many_writers_wins(tmp_path: Path) -> None:
    """Of several threads that write one object at the same time, exactly one succeeds."""
    only_one_wins(open_store(str(tmp_path / "s")))


def test_concurrent_deletions_of_the_same_object_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that another process removes at that moment is no failure."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("runs/a/b/x", b"1")
    rmdir = Path.rmdir

    def lose_the_race(path: Path) -> None:
        rmdir(path)
        if path.name == "b":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rmdir", lose_the_race)
        store.delete("runs/a/b/x")
    assert store.list_names("") == []
    store.put_if_absent("runs/a/x", b"1")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda _: True)
        store.delete("runs/a/y")
    assert store.read("runs/a/x") == b"1"


def parts_left(folder: Path) -> list[Path]:
    """Temporary files that a store left behind."""
    return [path for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]


def broken(code: int) -> Callable[..., Any]:
    """Something that the system refuses with this error."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_home_folder_may_be_written_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A leading `~` is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/models").put_if_absent("a", b"1")
    assert (tmp_path / "models" / "a").read_bytes() == b"1"


def test_a_folder_store_leaves_only_its_objects(tmp_path: Path) -> None:
    """Beside its lock a folder holds the objects, readable by everyone, and no more."""
    store = FolderStore(str(tmp_path / "s"))
    store.check()
    store.put_if_absent("runs/a", b"1")
    store.put_if_absent("runs/a", b"1")
    replace(store, "champion.json", b"1")
    replace(store, "champion.json", b"2")
    files = {path for path in (tmp_path / "s").rglob("*") if path.is_file()}
    files -= {tmp_path / "s" / ".lock"}
    assert files == {tmp_path / "s" / "runs" / "a", tmp_path / "s" / "champion.json"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)


def test_a_folder_goes_with_its_last_object(tmp_path: Path) -> None:
    """Folders are no objects: an emptied one is removed, but not the store itself, nor a full one."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("runs/a/figures/x", b"1")
    store.put_if_absent("runs/b", b"1")
    store.delete("runs/a/figures/x")
    assert not (tmp_path / "s" / "runs" / "a").exists()
    assert store.list_names("") == ["runs/"]
    store.delete("runs/b")
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
@pytest.mark.parametrize("verb", [place for place, name in enumerate(VERBS) if name != "delete"])
def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path, below: str, verb: int) -> None:
    """A file where the store's folder should be is named, with the setting to change."""
    (tmp_path / "taken").write_text("a file")
    store = FolderStore(str(tmp_path / "taken" / below))
    failure(
        actions(store)[verb], str(tmp_path / "taken"), "a file", "set store.url", retryable=False
    )


def test_too_little_room_is_reported_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a run fails the check."""
    usage = SimpleNamespace(total=10**9, used=10**9 - 4096, free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    store = FolderStore(str(tmp_path / "s"))
    failure(store.check, str(tmp_path / "s"), "is full", "free some space", retryable=False)
    assert parts_left(tmp_path) == []


CODES = {
    errno.ENOSPC: ("is full", "free some space", False),
    errno.EDQUOT: ("is full", "free some space", False),
    errno.EROFS: ("cannot be written", "right to", False),
    errno.EACCES: ("cannot be written", "right to", False),
    errno.EIO: ("Input/output error", "check the disk", True),
    errno.ESTALE: ("Stale file handle", "check the disk", True),
}


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("verb", ["put_if_absent", "compare_and_swap"])
@pytest.mark.parametrize("step", ["open", "os.fsync", "last step"])
def test_a_write_that_fails_leaves_the_folder_as_it_was(
    code: int, verb: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that the system refuses is reported, leaves no partial file, and keeps the old content."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("old", b"old")
    key = "old" if verb == "compare_and_swap" else "new"
    write = store.put_if_absent if verb == "put_if_absent" else functools.partial(replace, store)
    what, to_do, retryable = CODES[code]
    with monkeypatch.context() as patched:
        match step:
            case "open":
                patched.setattr(Path, "open", broken(code))
            case "os.fsync":
                patched.setattr(os, "fsync", broken(code))
            case _ if verb == "put_if_absent":
                patched.setattr(os, "link", broken(code))
            case _:
                patched.setattr(Path, "replace", broken(code))
        failure(
            lambda: write(key, b"new content"),
            str(tmp_path / "s"), what, to_do, "store.url", retryable=retryable,
        )  # fmt: skip
    assert parts_left(tmp_path) == []
    assert store.read("old") == b"old"
    assert store.read("new") is None
    write(key, b"new content")
    assert store.read(key) == b"new content"


def test_an_interrupted_swap_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during a swap leaves the old content and no part of the new."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("champion.json", b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(store, "champion.json", b"new" * 100_000)
    assert store.read("champion.json") == b"old"
    assert parts_left(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES], ids=["EROFS", "EACCES"])
def test_a_read_only_folder_fails_its_check(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written is found before training."""
    monkeypatch.setattr(Path, "write_bytes", broken(code))
    store = FolderStore(str(tmp_path / "s"))
    failure(store.check, str(tmp_path / "s"), "cannot be written", "right to", retryable=False)


def test_a_name_too_long_for_the_disk_is_reported(tmp_path: Path) -> None:
    """A folder's name that is too long for any disk is reported as an unusable store."""
    failure(FolderStore(str(tmp_path / ("x" * 300))).check, "too long", retryable=False)


def test_a_folder_without_hard_links_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says that the file system is unsuitable, and leaves nothing behind."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="without hard links"):
        open_store(str(tmp_path / "store")).check()
    assert list((tmp_path / "store").iterdir()) == []


def test_a_folder_without_locks_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says that the file system is unsuitable."""

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse)
    failure(FolderStore(str(tmp_path / "s")).check, "without locks", "store.url", retryable=False)


class Disk:
    """Records, in their order, the flushes and what puts files into place; may refuse flushes.

    A flush is recorded as the place that the file or folder had when it was flushed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, Path]] = []
        self.refused: Callable[[Path], bool] = lambda path: False
        sync, link, rename = os.fsync, os.link, Path.replace

        def fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) and self.refused(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)
            self.events.append(("flush", path))

        def linked(source: Path, target: Path) -> None:
            link(source, target)
            self.events.append(("place", Path(target)))

        def renamed(source: Path, target: Path) -> Path:
            self.events.append(("place", Path(target)))
            return rename(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "link", linked)
        monkeypatch.setattr(Path, "replace", renamed)

    def flushed(self) -> set[Path]:
        """The folders that were flushed since this was asked last."""
        found = {path for event, path in self.events if event == "flush" and path.is_dir()}
        self.events.clear()
        return found


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Watches what is flushed to disk."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("only Linux tells which file a descriptor is of")
    return Disk(monkeypatch)


@pytest.mark.parametrize("verb", ["put_if_absent", "compare_and_swap"])
def test_a_write_is_on_disk_before_it_counts(verb: str, disk: Disk, tmp_path: Path) -> None:
    """The content is flushed before it gets its name, and the folder of the name after that."""
    store = FolderStore(str(tmp_path / "s"))
    if verb == "put_if_absent":
        store.put_if_absent("runs/a", b"1")
    else:
        store.put_if_absent("runs/a", b"0")
        disk.events.clear()
        replace(store, "runs/a", b"1")
    events = disk.events
    folder = tmp_path / "s" / "runs"
    placed = events.index(("place", folder / "a"))
    part = [path for event, path in events[:placed] if path.suffix == ".part"]
    assert len(part) == 1 and part[0].parent == folder
    assert ("flush", folder) in events[placed:]


def test_new_folders_are_on_disk_too(disk: Disk, tmp_path: Path) -> None:
    """A folder that was made is flushed into the one above it, up to one that was there before."""
    FolderStore(str(tmp_path / "x" / "y")).put_if_absent("runs/a/b", b"1")
    root = tmp_path / "x" / "y"
    assert disk.flushed() >= {tmp_path, tmp_path / "x", root, root / "runs", root / "runs" / "a"}


def test_a_removal_is_on_disk_too(disk: Disk, tmp_path: Path) -> None:
    """A deleted object does not come back after a power cut."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("runs/a", b"1")
    disk.events.clear()
    store.delete("runs/a")
    assert ("flush", tmp_path / "s" / "runs") in disk.events


@pytest.mark.parametrize("verb", ["put_if_absent", "compare_and_swap"])
@pytest.mark.parametrize("place", ["s/runs/x", "s/runs", "s"])
def test_a_folder_that_could_not_be_flushed_is_flushed_by_the_next_try(
    place: str, verb: str, disk: Disk, tmp_path: Path
) -> None:
    """An error when a folder is flushed is reported, and a repeat succeeds only once it is flushed."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("there", b"1")

    def write() -> None:
        if verb == "put_if_absent":
            store.put_if_absent("runs/x/a", b"1")
        else:
            store.compare_and_swap("runs/x/a", None, b"1")

    disk.refused = lambda path: path == tmp_path / place
    for _ in range(2):
        failure(write, str(tmp_path / "s"), "Input/output error", "check the disk", retryable=True)
    disk.refused = lambda path: False
    disk.flushed()
    write()
    assert store.read("runs/x/a") == b"1"
    assert tmp_path / place in disk.flushed()
    assert parts_left(tmp_path) == []


@pytest.mark.parametrize("verb", VERBS[1:])
@pytest.mark.parametrize("linked", ["runs", "runs/a", "runs/a/x"])
def test_a_link_is_never_followed(linked: str, verb: str, tmp_path: Path) -> None:
    """A symbolic link in a store, which may lead anywhere, is named; what it leads to is safe."""
    store = FolderStore(str(tmp_path / "s"))
    outside = tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "x").write_bytes(b"private")
    link = tmp_path / "s" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / Path(linked).relative_to("runs"))
    action: dict[str, Callable[[], object]] = {
        "put_if_absent": lambda: store.put_if_absent("runs/a/x", b"mine"),
        "compare_and_swap": lambda: store.compare_and_swap("runs/a/x", None, b"mine"),
        "delete": lambda: store.delete("runs/a/x"),
        "read": lambda: store.read("runs/a/x"),
        "get": lambda: store.get("runs/a/x"),
        "list_names": lambda: store.list_names("runs/a/x/"),
        "list_entries": lambda: store.list_entries("runs/"),
    }
    failure(action[verb], f"{link} is a symbolic link", retryable=False)
    assert (outside / "a" / "x").read_bytes() == b"private"
    assert link.is_symlink()


def test_the_store_itself_may_be_behind_a_link(tmp_path: Path) -> None:
    """The folder that a person named is used as it is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "real")
    store = FolderStore(str(tmp_path / "s"))
    store.check()
    store.put_if_absent("runs/a", b"1")
    assert (tmp_path / "real" / "runs" / "a").read_bytes() == b"1"


def test_a_key_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    """A key with `..` or a null byte is refused by every verb."""
    store = FolderStore(str(tmp_path / "s"))
    (tmp_path / "x").write_bytes(b"private")
    for key in ("../x", "runs/../../x", "runs/.."):
        for action in (
            lambda key=key: store.put_if_absent(key, b"1"),
            lambda key=key: store.compare_and_swap(key, None, b"1"),
            lambda key=key: store.delete(key),
            lambda key=key: store.read(key),
            lambda key=key: store.list_names(f"{key}/"),
        ):
            failure(action, "is not a key of the store", retryable=False)
    failure(lambda: store.read("a\0b"), "is not a key of the store", retryable=False)
    assert (tmp_path / "x").read_bytes() == b"private"
