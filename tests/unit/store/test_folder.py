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

from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.support.store_contract import *  # noqa: F403
from tests.support.store_contract import VERBS, Action, failure, only_one_wins, replace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder that is not there yet."""
    return open_store(str(tmp_path / "s"))


def test_a_store_may_be_below_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "not" / "there" / "yet"))
    assert store.read("a") is None and store.list_names("") == []
    assert store.check() is True


def test_only_one_of_many_writers_wins(store: Store) -> None:
    only_one_wins(store)


def test_concurrent_deletions_of_the_same_object_succeed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that another process removes at that moment is no failure."""
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


def broken(code: int | None) -> Callable[..., Any]:
    """Something that the system refuses with this error, or does not know at all."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code)) if code else NotImplementedError

    return refuse


def test_a_home_folder_may_be_written_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/models").put_if_absent("a", b"1")
    assert (tmp_path / "models" / "a").read_bytes() == b"1"


def test_a_folder_store_leaves_only_its_objects(store: Store, tmp_path: Path) -> None:
    """Beside its lock a folder holds the objects, readable by everyone, and no more."""
    store.check()
    store.put_if_absent("runs/a", b"1")
    store.put_if_absent("runs/a", b"1")
    replace(store, "champion.json", b"1")
    replace(store, "champion.json", b"2")
    files = {path for path in (tmp_path / "s").rglob("*") if path.is_file()}
    files -= {tmp_path / "s" / ".lock"}
    assert files == {tmp_path / "s" / "runs" / "a", tmp_path / "s" / "champion.json"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)


def test_a_folder_goes_with_its_last_object(store: Store, tmp_path: Path) -> None:
    """Folders are no objects: an emptied one is removed, but not the store, nor a full one."""
    store.put_if_absent("runs/a/figures/x", b"1")
    store.put_if_absent("runs/b", b"1")
    store.delete("runs/a/figures/x")
    assert not (tmp_path / "s" / "runs" / "a").exists()
    assert store.list_names("") == ["runs/"]
    store.delete("runs/b")
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "delete"])
def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path, below: str, verb: str) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    store = FolderStore(str(taken / below))
    failure(lambda: VERBS[verb](store), str(taken), "a file", "set store.url", retryable=False)


def test_too_little_room_is_reported_before_training(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9 - 4096, free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    failure(store.check, store.url, "is full", "free some space", retryable=False)
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
@pytest.mark.parametrize("step", ["pathlib.Path.open", "os.fsync", "last step"])
def test_a_write_that_fails_leaves_the_folder_as_it_was(
    code: int, verb: str, step: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_if_absent("old", b"old")
    key, write, last_step = {
        "put_if_absent": ("new", store.put_if_absent, "os.link"),
        "compare_and_swap": ("old", functools.partial(replace, store), "pathlib.Path.replace"),
    }[verb]
    *told, retryable = CODES[code]
    with monkeypatch.context() as patched:
        patched.setattr(last_step if step == "last step" else step, broken(code))
        failure(
            lambda: write(key, b"new content"), store.url, *told, "store.url", retryable=retryable
        )
    assert parts_left(tmp_path) == []
    assert store.read("old") == b"old"
    assert store.read("new") is None
    write(key, b"new content")
    assert store.read(key) == b"new content"


def test_an_interrupted_swap_leaves_the_old_content(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_if_absent("champion.json", b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(store, "champion.json", b"new" * 100_000)
    assert store.read("champion.json") == b"old"
    assert parts_left(tmp_path) == []


def test_a_name_too_long_for_the_disk_is_reported(tmp_path: Path) -> None:
    failure(FolderStore(str(tmp_path / ("x" * 300))).check, "too long", retryable=False)


@pytest.mark.parametrize(
    ("place", "error", "told"),
    [
        pytest.param("pathlib.Path.write_bytes", errno.EROFS, "cannot be written", id="read-only"),
        pytest.param("pathlib.Path.write_bytes", errno.EACCES, "the right to", id="forbidden"),
        pytest.param("os.link", errno.EPERM, "without hard links", id="no hard links"),
        pytest.param("filelock.BaseFileLock.acquire", None, "without locks", id="no locks"),
    ],
)
def test_an_unsuitable_folder_is_found_before_training(
    place: str, error: int | None, told: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says what is wrong with the folder or its file system, and leaves nothing."""
    monkeypatch.setattr(place, broken(error))
    failure(store.check, store.url, told, "store.url", retryable=False)
    assert list(Path(store.url).iterdir()) == []


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
def test_a_write_is_on_disk_before_it_counts(
    verb: str, disk: Disk, store: Store, tmp_path: Path
) -> None:
    """The content is flushed before it gets its name, and the folder of the name after that."""
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


def test_a_removal_is_on_disk_too(disk: Disk, store: Store, tmp_path: Path) -> None:
    """A deleted object does not come back after a power cut."""
    store.put_if_absent("runs/a", b"1")
    disk.events.clear()
    store.delete("runs/a")
    assert ("flush", tmp_path / "s" / "runs") in disk.events


@pytest.mark.parametrize("verb", ["put_if_absent", "compare_and_swap"])
@pytest.mark.parametrize("place", ["s/runs/x", "s/runs", "s"])
def test_a_folder_that_could_not_be_flushed_is_flushed_by_the_next_try(
    place: str, verb: str, disk: Disk, store: Store, tmp_path: Path
) -> None:
    """The error is reported, and a repeat succeeds only once the folder is flushed."""
    store.put_if_absent("there", b"1")

    def write() -> None:
        if verb == "put_if_absent":
            store.put_if_absent("runs/x/a", b"1")
        else:
            store.compare_and_swap("runs/x/a", None, b"1")

    disk.refused = lambda path: path == tmp_path / place
    for _ in range(2):
        failure(write, store.url, "Input/output error", "check the disk", retryable=True)
    disk.refused = lambda path: False
    disk.flushed()
    write()
    assert store.read("runs/x/a") == b"1"
    assert tmp_path / place in disk.flushed()
    assert parts_left(tmp_path) == []


keyed = pytest.mark.parametrize("act", list(VERBS.values())[1:], ids=list(VERBS)[1:])


@keyed
@pytest.mark.parametrize("linked", ["runs", "runs/a", "runs/a/x"])
def test_a_link_is_never_followed(linked: str, act: Action, store: Store, tmp_path: Path) -> None:
    """A symbolic link in a store, which may lead anywhere, is named; what it leads to is safe."""
    outside = tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "x").write_bytes(b"private")
    link = tmp_path / "s" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / Path(linked).relative_to("runs"))
    for action in (lambda: act(store, "runs/a/x"), lambda: store.list_entries("runs/")):
        failure(action, f"{link} is a symbolic link", retryable=False)
    assert (outside / "a" / "x").read_bytes() == b"private"
    assert link.is_symlink()


def test_the_store_itself_may_be_behind_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "real")
    store.check()
    store.put_if_absent("runs/a", b"1")
    assert (tmp_path / "real" / "runs" / "a").read_bytes() == b"1"


@keyed
@pytest.mark.parametrize("key", ["../x", "runs/../../x", "runs/..", "a\0b"])
def test_a_key_never_leads_out_of_the_folder(
    key: str, act: Action, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"private")
    failure(lambda: act(store, key), "is not a key of the store", retryable=False)
    assert (tmp_path / "x").read_bytes() == b"private"
