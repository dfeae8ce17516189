"""The store: one contract for a folder, a real MinIO and a mock of S3; and every way to fail."""

import errno
import functools
import http.client
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import botocore.loaders
import moto
import pytest

from fmnist.errors import ExitCode, StoreError
from fmnist.store.base import Conflict, Store, StoredObject, open_store
from fmnist.store.folder import FolderStore
from fmnist.store.s3 import S3Store
from tests.support.processes import S3Server, free_port

KEY, SECRET = "NOBODYSKEY0123456789", "NobodysSecretValue0123456789abcdefghijkl"

real = pytest.mark.minio

one_loader = functools.cache(botocore.loaders.create_loader)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are repeated without pauses, and boto3 reads its descriptions only once."""
    monkeypatch.setattr("botocore.session.create_loader", one_loader)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("fmnist.store.s3.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture(params=["folder", pytest.param("minio", marks=real), "versitygw", "moto"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "not" / "there" / "yet"))
    elif request.param == "minio":
        yield open_store(f"s3://{request.getfixturevalue('bucket')}/team/fmnist")
    elif request.param == "versitygw":
        server = request.getfixturevalue("versitygw_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        name = f"test-{secrets.token_hex(6)}"
        boto3.session.Session().client("s3").create_bucket(Bucket=name)
        yield open_store(f"s3://{name}/team/fmnist")
    else:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with moto.mock_aws():
            boto3.session.Session().client("s3").create_bucket(Bucket="mocked")
            yield open_store("s3://mocked/team/fmnist")


def failure(action: Callable[[], object], *named: str, retryable: bool) -> str:
    """The message of the `StoreError` that an action must end with; it fits on one line."""
    with pytest.raises(StoreError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE
    assert caught.value.retryable is retryable
    assert "\n" not in message and len(message) < 500
    for part in named:
        assert part in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert os.environ.get(name, SECRET) not in message
    return message


def actions(store: Store) -> list[Callable[[], object]]:
    """Each verb of a store, as an action."""
    return [
        store.check,
        lambda: store.put_if_absent("a/b", b"1"),
        lambda: store.compare_and_swap("a/b", None, b"1"),
        lambda: store.delete("a/b"),
        lambda: store.read("a/b"),
        lambda: store.get("a/b"),
        lambda: store.list_names("a/"),
        lambda: store.list_entries("a/"),
    ]


VERBS = [
    "check",
    "put_if_absent",
    "compare_and_swap",
    "delete",
    "read",
    "get",
    "list_names",
    "list_entries",
]
every_verb = pytest.mark.parametrize("verb", range(len(VERBS)), ids=VERBS)


def replace(store: Store, key: str, content: bytes) -> None:
    """Write an object, whether or not there is one."""
    found = store.get(key)
    store.compare_and_swap(key, found.version if found else None, content)


# ---- the contract -------------------------------------------------------------------------------


def test_an_empty_store_passes_its_check_again_and_again(store: Store) -> None:
    """A store that nothing was written to yet can be used, and checking it does no harm."""
    assert store.check() is True
    store.put_if_absent("a", b"1")
    assert store.check() is True
    assert store.read("a") == b"1"


def test_what_is_created_reads_back(store: Store) -> None:
    """An object is read back byte for byte, under a nested key with unusual characters too."""
    content = secrets.token_bytes(300_000)
    for key in ("plain", "runs/one/figures/a.png", "runs/with blank+plus/ü.json"):
        store.put_if_absent(key, content)
        assert store.read(key) == content
    store.put_if_absent("empty", b"")
    assert store.read("empty") == b""


@pytest.mark.parametrize("key", ["absent", "runs/absent/manifest.json"])
def test_what_is_not_there_reads_as_none(store: Store, key: str) -> None:
    """A missing object is no failure, in a store that is empty or not."""
    assert store.read(key) is None
    store.put_if_absent("present", b"1")
    assert store.read(key) is None


def test_creating_the_same_again_is_harmless(store: Store) -> None:
    """An object with the very same content is taken for one's own earlier success."""
    store.put_if_absent("runs/a", b"same")
    store.put_if_absent("runs/a", b"same")
    assert store.read("runs/a") == b"same"


@pytest.mark.parametrize("other", [b"", b"diff", b"longer than before"])
def test_creating_never_overwrites(store: Store, other: bytes) -> None:
    """An object with other content is left alone, and the refusal names it."""
    store.put_if_absent("runs/a", b"same")
    failure(
        lambda: store.put_if_absent("runs/a", other),
        store.location("runs/a"),
        "already there with other content",
        retryable=False,
    )
    assert store.read("runs/a") == b"same"


def test_swapping_writes_over_the_version_that_was_read(store: Store) -> None:
    """A new object needs no version; an old one is replaced by who has read its latest."""
    store.compare_and_swap("champion.json", None, b"first")
    first = store.get("champion.json")
    assert first and first.content == store.read("champion.json") == b"first"
    store.compare_and_swap("champion.json", first.version, b"second")
    second = store.get("champion.json")
    assert second and second.content == b"second"
    assert second.version != first.version
    assert store.get("champion.json") == second


def conflict(action: Callable[[], object], *named: str) -> None:
    """The action must be refused since its condition does not hold, which is no failure to mend."""
    failure(action, "nothing is overwritten", *named, retryable=False)
    with pytest.raises(Conflict):
        action()


def test_swapping_never_overwrites_what_was_not_read(store: Store) -> None:
    """A version of before, of another object or none at all leaves what others wrote."""
    location = store.location("runs/head")
    store.compare_and_swap("runs/head", None, b"first")
    store.put_if_absent("runs/other", b"other")
    other, first = store.get("runs/other"), store.get("runs/head")
    assert other and first
    conflict(lambda: store.compare_and_swap("runs/head", None, b"mine"), location)
    store.compare_and_swap("runs/head", first.version, b"second")
    for version in (first.version, other.version, None):
        conflict(
            lambda version=version: store.compare_and_swap("runs/head", version, b"mine"), location
        )
    assert store.read("runs/head") == b"second"


def test_swapping_what_is_not_there_any_more_is_a_conflict(store: Store) -> None:
    """A version of an object that was removed does not bring it back."""
    store.compare_and_swap("head", None, b"first")
    first = store.get("head")
    assert first
    store.delete("head")
    conflict(
        lambda: store.compare_and_swap("head", first.version, b"second"), store.location("head")
    )
    assert store.read("head") is None


def test_swapping_the_same_again_is_harmless(store: Store) -> None:
    """An object with the very content is one's own success, whatever version was asked for."""
    for version in (None, None):
        store.compare_and_swap("head", version, b"first")
    first = store.get("head")
    assert first
    for _ in range(2):
        store.compare_and_swap("head", first.version, b"second")
    store.compare_and_swap("head", None, b"second")
    assert store.read("head") == b"second"


def test_keys_do_not_disturb_each_other(store: Store) -> None:
    """Writing one key changes no other."""
    store.put_if_absent("runs/a/x", b"1")
    store.compare_and_swap("runs/a/y", None, b"2")
    store.put_if_absent("runs/b/x", b"3")
    store.delete("runs/b/z")
    assert [store.read(key) for key in ("runs/a/x", "runs/a/y", "runs/b/x")] == [b"1", b"2", b"3"]


def test_names_are_what_lies_directly_below(store: Store) -> None:
    """Objects by their name, and each folder once with a slash; in order, without dot names."""
    assert store.list_names("runs/") == []
    for key in (
        "runs/b/1",
        "runs/b/2",
        "runs/b/c/3",
        "runs/a",
        "runs/ü x",
        "runs.json",
        "runs-2/x",
    ):
        store.put_if_absent(key, b"1")
    for key in ("runs/.hidden", "runs/.folder/x", ".at-the-top"):
        store.put_if_absent(key, b"1")
    assert store.list_names("runs/") == ["a", "b/", "ü x"]
    assert store.list_names("runs/b/") == ["1", "2", "c/"]
    assert store.list_names("") == ["runs-2/", "runs.json", "runs/"]
    assert store.list_names("run/") == []


def test_entries_are_all_below(store: Store) -> None:
    """Every object at any depth has its full key, size and time of writing; no dot names."""
    assert store.list_entries("runs/") == {}
    before = datetime.now(UTC)
    sizes = {"runs/a": 0, "runs/b/1": 1, "runs/b/c/ü x": 3000}
    for key, size in sizes.items():
        store.put_if_absent(key, b"x" * size)
    store.put_if_absent("runs-2/a", b"1")
    store.check()
    for key in ("runs/.hidden", "runs/.folder/x"):
        store.put_if_absent(key, b"1")
    found = store.list_entries("runs/")
    assert {key: entry.size for key, entry in found.items()} == sizes
    for entry in found.values():
        # Some stores keep whole seconds.
        assert before - timedelta(seconds=2) < entry.modified < before + timedelta(minutes=2)
    assert store.list_entries("runs/b/").keys() == {"runs/b/1", "runs/b/c/ü x"}
    assert store.list_entries("").keys() == {*sizes, "runs-2/a"}
    assert store.list_entries("run/") == {}


@real
def test_the_folders_of_a_bucket_browser_are_no_objects(bucket: str) -> None:
    """The empty objects that browsers make for folders, whose keys end in a slash, are left out."""
    store = open_store(f"s3://{bucket}/x")
    store.put_if_absent("runs/a/1", b"1")
    client = boto3.session.Session().client("s3")
    for key in ("x/runs/", "x/runs/a/", "x/runs/b/"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert store.list_entries("runs/").keys() == {"runs/a/1"}
    assert store.list_names("runs/a/") == ["1"]
    assert store.list_names("") == ["runs/"]


@real
def test_more_objects_than_a_page_are_listed(bucket: str) -> None:
    """A listing that the server gives in several answers is whole."""
    client = boto3.session.Session().client("s3")
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda number: client.put_object(
                    Bucket=bucket, Key=f"x/runs/{number:04d}/a", Body=b"1"
                ),
                range(1005),
            )
        )
    store = open_store(f"s3://{bucket}/x")
    assert store.list_names("runs/") == [f"{number:04d}/" for number in range(1005)]
    assert len(store.list_entries("runs/")) == 1005


def test_what_is_deleted_is_gone(store: Store) -> None:
    """A deleted object is not read or listed any more, and the others are; again is harmless."""
    for key in ("runs/a/x", "runs/a/b/y", "runs/z"):
        store.put_if_absent(key, b"1")
    for _ in range(2):
        store.delete("runs/a/b/y")
    assert store.read("runs/a/b/y") is None
    assert store.list_names("runs/a/") == ["x"]
    store.delete("runs/a/x")
    store.delete("runs/never/was")
    assert store.list_names("runs/") == ["z"]
    store.put_if_absent("runs/a/x", b"2")
    assert store.read("runs/a/x") == b"2"


def test_two_who_delete_the_same_do_not_hinder_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that another removes at that moment is no failure, and all above it go."""
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


def test_location_is_where_a_person_finds_the_object(store: Store, tmp_path: Path) -> None:
    """A location is the object's path, or its bucket and full key."""
    store.put_if_absent("runs/a", b"here")
    location = store.location("runs/a")
    if isinstance(store, FolderStore):
        assert Path(location).read_bytes() == b"here"
        assert Path(location).is_relative_to(tmp_path)
    else:
        name, _, key = location.removeprefix("s3://").partition("/")
        answer = boto3.session.Session().client("s3").get_object(Bucket=name, Key=key)
        assert answer["Body"].read() == b"here"
        assert location == f"{store.url}/runs/a"


@pytest.mark.parametrize("kind", ["folder", pytest.param("minio", marks=real)])
def test_only_one_of_many_writers_wins(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of several writers that create or swap one object at a time, exactly one succeeds."""
    url = str(tmp_path / "s") if kind == "folder" else f"s3://{request.getfixturevalue('bucket')}"
    store = open_store(url)

    def create(number: int) -> int | None:
        try:
            store.put_if_absent("contested", b"%d" % number * 1000)
        except StoreError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.read("contested") == b"%d" % winners[0] * 1000

    found = store.get("contested")
    assert found

    def swap(number: int) -> int | None:
        try:
            store.compare_and_swap("contested", found.version, b"%d" % number * 2000)
        except Conflict:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(swap, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.read("contested") == b"%d" % winners[0] * 2000


@real
def test_a_bucket_without_a_prefix_is_a_store(bucket: str) -> None:
    """A store may be a whole bucket."""
    store = open_store(f"s3://{bucket}")
    store.check()
    store.put_if_absent("a/b", b"1")
    assert store.location("a/b") == f"s3://{bucket}/a/b"
    assert boto3.session.Session().client("s3").get_object(Bucket=bucket, Key="a/b")


# ---- a folder that fails ------------------------------------------------------------------------


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


def test_the_home_of_nobody_is_a_failure_in_words() -> None:
    """A `~` with the name of a user who does not exist ends as any unusable store."""
    failure(lambda: open_store("~nobody-of-this-name/models").check(), "~nobody", retryable=False)


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
def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path, below: str, verb: int) -> None:
    """A file where the store's folder should be is named, with the setting to change."""
    (tmp_path / "taken").write_text("a file")
    store = FolderStore(str(tmp_path / "taken" / below))
    failure(
        actions(store)[verb], str(tmp_path / "taken"), "a file", "set store.url", retryable=False
    )


def test_too_little_room_is_told_before_training(
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
    """A write that the system refuses is told, leaves no part, and the old content in force."""
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
    """Ctrl-C in the midst of a swap leaves the old content and no part of the new."""
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
    """A folder that cannot be written is found out before training."""
    monkeypatch.setattr(Path, "write_bytes", broken(code))
    store = FolderStore(str(tmp_path / "s"))
    failure(store.check, str(tmp_path / "s"), "cannot be written", "right to", retryable=False)


def test_a_name_too_long_for_the_disk_is_told(tmp_path: Path) -> None:
    """A folder's name that no disk can hold ends as an unusable store."""
    failure(FolderStore(str(tmp_path / ("x" * 300))).check, "too long", retryable=False)


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
    """A disk error at a folder's flush is told, and a repeat succeeds only once it is flushed."""
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
            failure(action, "is no key of the store", retryable=False)
    failure(lambda: store.read("a\0b"), "is no key of the store", retryable=False)
    assert (tmp_path / "x").read_bytes() == b"private"


# ---- the lock of a folder -----------------------------------------------------------------------


@contextmanager
def process_in_the_store(folder: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that does something with the store of this folder; killed at the end."""
    process = subprocess.Popen(
        [
            sys.executable, "-c",
            "import os, signal, sys, time\nfrom pathlib import Path\n"
            f"from fmnist.store.folder import FolderStore\nstore = FolderStore(sys.argv[1])\n{program}",
            str(folder),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = """
with store._lock():
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_lock_that_is_held_too_long_is_a_temporary_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock and what to do are named, nothing is written, and readers are not kept out."""
    monkeypatch.setattr("fmnist.store.folder._LONGEST_WAIT_FOR_LOCK", 0.2)
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("head", b"old")
    with process_in_the_store(tmp_path / "s", HOLD) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        for action in (lambda: replace(store, "head", b"new"), store.check):
            failure(
                action, str(tmp_path / "s" / ".lock"), "held by another process", "try again",
                retryable=True,
            )  # fmt: skip
        assert store.read("head") == b"old"
        store.put_if_absent("another", b"1")


def test_a_process_that_is_killed_takes_its_lock_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a SIGKILL of who held the lock, others swap as if nothing had been."""
    monkeypatch.setattr("fmnist.store.folder._LONGEST_WAIT_FOR_LOCK", 10)
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("head", b"old")
    with process_in_the_store(tmp_path / "s", HOLD) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        replace(store, "head", b"new")
    assert store.read("head") == b"new"


def test_a_process_that_is_killed_in_a_swap_leaves_the_old_content(tmp_path: Path) -> None:
    """A SIGKILL just before the new content gets its name harms neither readers nor writers."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("head", b"old")
    killed = """
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.compare_and_swap("head", store.get("head").version, b"theirs")
"""
    with process_in_the_store(tmp_path / "s", killed) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert store.read("head") == b"old"
    assert store.list_names("") == ["head"]
    assert store.list_entries("").keys() == {"head"}
    replace(store, "head", b"new")
    assert store.read("head") == b"new"


def test_a_folder_without_locks_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says that the file system will not do."""

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse)
    failure(FolderStore(str(tmp_path / "s")).check, "without locks", "store.url", retryable=False)


# ---- a bucket that fails ------------------------------------------------------------------------


@real
@every_verb
def test_a_missing_bucket_is_told(minio: S3Server, verb: int) -> None:
    """A bucket that does not exist is named with its server, and what to do about it."""
    store = open_store("s3://not-there-at-all/runs")
    failure(
        actions(store)[verb], "'not-there-at-all'", minio.endpoint, "create it", "store.url",
        retryable=False,
    )  # fmt: skip


@real
@every_verb
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_wrong_key_is_told_without_showing_it(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, verb: int
) -> None:
    """An unknown key or a wrong secret is told as such, and neither is shown."""
    monkeypatch.setenv(variable, SECRET)
    store = open_store(f"s3://{bucket}")
    message = failure(
        actions(store)[verb], bucket, minio.endpoint, "check the AWS credentials", retryable=False
    )
    assert minio.access_key not in message and minio.secret_key not in message


@every_verb
def test_no_credentials_at_all_are_told(monkeypatch: pytest.MonkeyPatch, verb: int) -> None:
    """Without any credentials the variables to set are named."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    store = open_store("s3://bucket/runs")
    failure(
        actions(store)[verb], "no complete credentials", "s3://bucket/runs", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", retryable=False,
    )  # fmt: skip


def test_half_the_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without its secret is told as incomplete."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    failure(lambda: open_store("s3://bucket").check(), "no complete credentials", retryable=False)


@pytest.fixture
def some_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are complete, if nobody's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.usefixtures("some_keys")
@every_verb
def test_a_server_that_is_not_up_is_told(monkeypatch: pytest.MonkeyPatch, verb: int) -> None:
    """A refused connection is retryable, and names the server and its variable."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    store = open_store("s3://bucket/runs")
    failure(
        actions(store)[verb], endpoint, "s3://bucket/runs", "AWS_ENDPOINT_URL_S3", retryable=True
    )


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:9000", "http://", "ftp//x"])
def test_an_invalid_server_address_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A server's address that is none is told before anything is contacted."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    failure(
        lambda: open_store("s3://bucket").check(), "s3://bucket", "AWS_ENDPOINT_URL_S3",
        retryable=False,
    )  # fmt: skip


@pytest.mark.usefixtures("some_keys")
def test_a_password_in_the_servers_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that someone put into the server's address stay out of messages."""
    endpoint = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(StoreError) as caught:
        open_store("s3://bucket").check()
    assert SECRET not in str(caught.value)


def test_an_unknown_profile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that no configuration file has is named, with the variable that asks for it."""
    monkeypatch.setenv("AWS_PROFILE", "nobodys-profile")
    failure(lambda: open_store("s3://bucket"), "nobodys-profile", "AWS_PROFILE", retryable=False)


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("name", ["a b", "UPPER_case!"])
def test_an_impossible_bucket_name_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's name that S3 does not allow is refused without a call."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    failure(
        lambda: open_store(f"s3://{name}/a").check(), name, "not a valid location", retryable=False
    )


@real
def test_a_key_without_the_right_to_write_is_told(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that may read but not write fails the check, with the rights it needs."""
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject",'
        f'"s3:ListBucket"],"Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}'
    )
    service = boto3.session.Session().client("sts", endpoint_url=minio.endpoint)
    role = service.assume_role(
        RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="reader", Policy=policy
    )["Credentials"]
    open_store(f"s3://{bucket}").put_if_absent("there", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", role["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", role["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", role["SessionToken"])
    store = open_store(f"s3://{bucket}")
    assert store.read("there") == b"1"
    for action in actions(store)[:3]:
        failure(action, bucket, minio.endpoint, "PutObject", "AccessDenied", "right to list, read "
                "and write", retryable=False)  # fmt: skip


# ---- a server of our own, that answers as we like -----------------------------------------------


class Answering(BaseHTTPRequestHandler):
    """Answers PUT, or everything, with one status and body; else as an empty bucket."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 500
    body: ClassVar[bytes] = b""
    refused: ClassVar[tuple[str, ...]] = ("HEAD", "GET", "PUT", "DELETE")
    requests: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append(self.command)
        if self.command in self.refused:
            self._send(self.status, self.body)
        else:
            self._send(200, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, some_keys: None) -> Iterator[Callable[..., str]]:
    """Starts local servers and points the environment at them."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        return endpoint

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(code: str) -> bytes:
    """The body of a refusal as S3 gives it."""
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told\nin lines</Message></Error>"
    ).encode()


ANSWERS = {
    "internal error": (500, refusal("InternalError"), "500 InternalError", True),
    "bad gateway": (502, b"<html><body>Bad Gateway</body></html>", "502", True),
    "unavailable": (503, refusal("SlowDown"), "503 SlowDown", True),
    "empty answer": (503, b"", "503", True),
    "too many requests": (429, refusal("TooManyRequests"), "429", True),
    "conflict": (409, refusal("ConditionalRequestConflict"), "409", True),
    "not implemented": (400, refusal("InvalidRequest"), "400 InvalidRequest", False),
    "unknown condition": (501, refusal("Unknown"), "501 Unknown", False),
    "no bucket": (404, refusal("NoSuchBucket"), "does not exist: create it", False),
    "no room, by status": (507, refusal("NoRoom"), "is full (NoRoom)", False),
    "no room, by name": (400, refusal("XMinioStorageFull"), "is full (XMinioStorageFull)", False),
    "quota": (403, refusal("QuotaExceeded"), "is full (QuotaExceeded)", False),
    "admin quota": (400, refusal("XMinioAdminBucketQuotaExceeded"), "is full", False),
    "forbidden": (403, refusal("AccessDenied"), "refuses PutObject (AccessDenied)", False),
    "unauthorized": (401, refusal("Unauthorized"), "right to list, read and write there", False),
    "wrong clock": (403, refusal("RequestTimeTooSkewed"), "by NTP", False),
    "wrong signature": (403, refusal("SignatureDoesNotMatch"), "refuses the key (Sig", False),
    "wrong token": (400, refusal("InvalidToken"), "refuses the key (InvalidToken)", False),
    "expired": (400, refusal("ExpiredToken"), "refuses the key (ExpiredToken)", False),
    "unknown key": (403, refusal("InvalidAccessKeyId"), "refuses the key (Inv", False),
}


@pytest.mark.parametrize(
    ("status", "body", "told", "retryable"), ANSWERS.values(), ids=ANSWERS.keys()
)
def test_a_refused_write_is_told(
    serve: Callable[..., str], status: int, body: bytes, told: str, retryable: bool
) -> None:
    """A server's refusal names bucket, server and reason, and whether waiting can help."""
    handler = type("H", (Answering,), {"status": status, "body": body, "requests": []})
    endpoint = serve(handler)
    store = open_store("s3://bucket/runs")
    failure(lambda: store.put_if_absent("a", b"1"), "'bucket'", endpoint, told, retryable=retryable)
    assert handler.requests.count("PUT") == (4 if retryable else 1)


@pytest.mark.parametrize("status", [500, 503])
@every_verb
def test_a_failing_server_is_a_temporary_failure(
    serve: Callable[..., str], verb: int, status: int
) -> None:
    """A server error is worth another attempt, whatever was asked of the server."""
    endpoint = serve(type("H", (Answering,), {"status": status, "requests": []}))
    store = open_store("s3://bucket/runs")
    failure(actions(store)[verb], endpoint, str(status), "try again later", retryable=True)


def test_a_server_that_forgets_is_not_trusted(serve: Callable[..., str]) -> None:
    """A server that takes an object but gives back another fails the check."""
    serve(type("H", (Answering,), {"refused": (), "requests": []}))
    failure(
        open_store("s3://bucket/runs").check, "s3://bucket/runs/", "does not read back",
        retryable=False,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [(501, "Unknown"), (400, "NotImplemented")])
def test_a_condition_that_is_not_known_is_left_out_by_a_single_publisher(
    serve: Callable[..., str], status: int, code: str
) -> None:
    """Be it told by status or by name, the object is then written without it."""
    written = []

    class Unknowing(Answering):
        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            known = "If-None-Match" not in self.headers
            if known:
                written.append((self.path, content))
                self._send(200, b"")
            else:
                self._send(status, refusal(code))

        def do_GET(self) -> None:
            self._send(404, refusal("NoSuchKey"))

    serve(Unknowing)
    open_store("s3://bucket/runs", single_publisher=True).put_if_absent("a", b"1")
    assert written == [("/bucket/runs/a", b"1")]


def test_what_older_servers_refuse_is_not_sent(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checksum beyond S3's first, sent or asked for, and the bucket in the path, not the name."""
    seen = []

    class Watching(Answering):
        refused = ()

        def parse_request(self) -> bool:
            parsed = super().parse_request()
            seen.append((self.path, " ".join(self.headers).lower()))
            return parsed

    endpoint = serve(Watching)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint.replace("127.0.0.1", "localhost"))
    store = open_store("s3://bucket/runs")
    store.put_if_absent("a", b"1")
    store.read("a")
    assert [path for path, _ in seen] == ["/bucket/runs/a"] * 2
    for _, headers in seen:
        assert "checksum" not in headers and "trailer" not in headers


def test_a_connection_cut_while_reading_is_temporary(serve: Callable[..., str]) -> None:
    """An answer that ends before its announced length is no content."""

    class Cut(Answering):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"part")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    endpoint = serve(Cut)
    failure(lambda: open_store("s3://bucket/runs").read("a"), endpoint, retryable=True)


@dataclass
class Proxy:
    """Passes every request to a real server, except where `meddle` says otherwise.

    That is asked with the command and how many of that command came before. It answers with a
    status to give instead of passing the request on, or with one of the constants below.
    """

    meddle: Callable[[str, int], int | str] = lambda command, before: ""
    answers: list[tuple[str, int]] = field(default_factory=list)

    def commands(self, command: str) -> int:
        """How many requests of a kind were made."""
        return sum(made == command for made, _ in self.answers)


UNASKED = "the request is dropped"
UNANSWERED = "the answer is dropped"
CUT = "the answer breaks off"
NOTHING = ""


@pytest.fixture
def proxy(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> Proxy:
    """A proxy in front of the real MinIO, which this process takes for the server."""
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            meddling = proxy.meddle(self.command, proxy.commands(self.command))
            if meddling == UNASKED:
                proxy.answers.append((self.command, 0))
                self._hang_up()
                return
            status, headers, content = (
                (meddling, {}, refusal("ConditionalRequestConflict"))
                if isinstance(meddling, int)
                else self._forward(body)
            )
            proxy.answers.append((self.command, status))
            if meddling == UNANSWERED:
                self._hang_up()
                return
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() in ("etag", "last-modified", "content-type"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if meddling == CUT:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self._hang_up()
                return
            self.wfile.write(content)

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            server = http.client.HTTPConnection(minio.endpoint.removeprefix("http://"))
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
            server.close()
            return answer.status, dict(answer.getheaders()), content

        def _hang_up(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_DELETE = _pass  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    serve(Handler)
    for name, value in minio.environment().items():
        if name != "AWS_ENDPOINT_URL_S3":
            monkeypatch.setenv(name, value)
    return proxy


def first(count: int, command: str, meddling: int | str) -> Callable[[str, int], int | str]:
    """Meddle with the first so many requests of a kind."""
    return lambda asked, before: meddling if asked == command and before < count else NOTHING


@real
def test_a_retried_creation_that_went_through_is_success(bucket: str, proxy: Proxy) -> None:
    """A creation whose answer was lost, and whose retry finds its own object, is no conflict."""
    store = S3Store(f"s3://{bucket}/runs")
    proxy.meddle = first(1, "PUT", UNANSWERED)
    store.put_if_absent("a", b"content")
    assert proxy.answers == [("PUT", 200), ("PUT", 412), ("GET", 200)]
    failure(lambda: store.put_if_absent("a", b"other"), "other content", retryable=False)
    assert store.read("a") == b"content"


@real
@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "over an old one"])
def test_a_retried_swap_that_went_through_is_success(
    old: bytes | None, bucket: str, proxy: Proxy
) -> None:
    """A swap whose answer was lost, and whose retry finds its own object, is no conflict."""
    store = S3Store(f"s3://{bucket}/runs")
    found = None
    if old is not None:
        store.put_if_absent("head", old)
        found = store.get("head")
    proxy.answers.clear()
    proxy.meddle = first(1, "PUT", UNANSWERED)
    store.compare_and_swap("head", found.version if found else None, b"mine")
    assert proxy.answers == [("PUT", 200), ("PUT", 412), ("GET", 200)]
    assert store.read("head") == b"mine"


@real
def test_a_retried_swap_that_others_wrote_over_is_a_conflict(bucket: str, proxy: Proxy) -> None:
    """Where another's content stands when the answer is settled, the swap is not taken for done."""
    store, other = S3Store(f"s3://{bucket}/runs"), S3Store(f"s3://{bucket}/runs")

    def meddle(command: str, before: int) -> str:
        if (command, before) == ("PUT", 1):
            proxy.meddle = lambda command, before: NOTHING
            replace(other, "head", b"theirs")
        return UNANSWERED if (command, before) == ("PUT", 0) else NOTHING

    proxy.meddle = meddle
    conflict_once = pytest.raises(Conflict, match="changed by another publisher")
    with conflict_once:
        store.compare_and_swap("head", None, b"mine")
    assert store.read("head") == b"theirs"


def writes(store: Store) -> list[Callable[[], object]]:
    """The writes that have a condition."""
    return [
        lambda: store.put_if_absent("a", b"content"),
        lambda: store.compare_and_swap("a", None, b"content"),
    ]


conditional = pytest.mark.parametrize("verb", [0, 1], ids=["put_if_absent", "compare_and_swap"])


@real
@conditional
def test_a_write_of_which_every_answer_was_lost_is_settled_by_reading(
    verb: int, bucket: str, proxy: Proxy
) -> None:
    """If the object is there it was written, whatever became of the answers."""
    store = S3Store(f"s3://{bucket}/runs")
    proxy.meddle = first(100, "PUT", UNANSWERED)
    writes(store)[verb]()
    assert proxy.answers == [("PUT", 200), *[("PUT", 412)] * 3, ("GET", 200)]
    assert store.read("a") == b"content"


@real
@conditional
@pytest.mark.parametrize("there", [None, b"other"], ids=["nothing there", "another there"])
def test_a_write_that_never_arrived_is_a_temporary_failure(
    there: bytes | None, verb: int, bucket: str, proxy: Proxy
) -> None:
    """If the content is not there it was not written, and may be tried again."""
    store = S3Store(f"s3://{bucket}/runs")
    if there is not None:
        store.put_if_absent("a", there)
    proxy.meddle = lambda command, before: UNASKED if command == "PUT" else NOTHING
    failure(writes(store)[verb], "cannot reach", retryable=True)
    assert store.read("a") == there


@real
@conditional
def test_a_write_that_cannot_be_settled_either_is_a_temporary_failure(
    verb: int, bucket: str, proxy: Proxy
) -> None:
    """A server that falls silent altogether is told as such, about the write that it failed."""
    proxy.meddle = lambda command, before: UNANSWERED
    failure(writes(S3Store(f"s3://{bucket}/runs"))[verb], "cannot reach", retryable=True)


@real
@conditional
def test_a_write_that_is_asked_for_again_is_written(verb: int, bucket: str, proxy: Proxy) -> None:
    """409 means that another request was under way: the same one is made again."""
    store = S3Store(f"s3://{bucket}/runs")
    proxy.meddle = first(3, "PUT", 409)
    writes(store)[verb]()
    assert proxy.answers == [*[("PUT", 409)] * 3, ("PUT", 200)]
    assert store.read("a") == b"content"


@real
@conditional
def test_a_write_that_is_asked_for_again_for_ever_is_a_temporary_failure(
    verb: int, bucket: str, proxy: Proxy
) -> None:
    """After a few times it is told, and nothing was written."""
    store = S3Store(f"s3://{bucket}/runs")
    proxy.meddle = first(100, "PUT", 409)
    failure(writes(store)[verb], bucket, "409", "try again later", retryable=True)
    assert proxy.answers == [*[("PUT", 409)] * 4, ("GET", 404)]
    assert store.read("a") is None


READS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read("runs/a"),
    "get": lambda store: store.get("runs/a"),
    "list_names": lambda store: store.list_names("runs/"),
    "list_entries": lambda store: store.list_entries("runs/").keys(),
}


@real
@pytest.mark.parametrize("verb", READS)
def test_an_answer_that_broke_off_is_asked_for_again(verb: str, bucket: str, proxy: Proxy) -> None:
    """A read or a listing of which a part arrived is made again, a few times."""
    store = S3Store(f"s3://{bucket}/x")
    store.put_if_absent("runs/a", b"content" * 1000)
    proxy.meddle = first(2, "GET", CUT)
    found = store.get("runs/a")
    assert proxy.commands("GET") == 3
    assert found == StoredObject(b"content" * 1000, found.version if found else "")
    expected = {
        "read": b"content" * 1000,
        "get": found,
        "list_names": ["a"],
        "list_entries": {"runs/a"},
    }
    proxy.answers.clear()
    proxy.meddle = first(2, "GET", CUT)
    assert READS[verb](store) == expected[verb]
    assert proxy.commands("GET") == 3
    proxy.meddle = first(100, "GET", CUT)
    failure(lambda: READS[verb](store), retryable=True)


# ---- a server that ignores conditions -----------------------------------------------------------


def ignore(store: S3Store, monkeypatch: pytest.MonkeyPatch, *conditions: str) -> None:
    """Let the real server see nothing of these conditions."""
    put = store._client.put_object

    def put_without(**request: Any) -> Any:
        return put(**{name: value for name, value in request.items() if name not in conditions})

    monkeypatch.setattr(store._client, "put_object", put_without)


ignorance = pytest.mark.parametrize(
    "conditions",
    [("IfNoneMatch",), ("IfMatch",), ("IfNoneMatch", "IfMatch")],
    ids=lambda conditions: "+".join(conditions),
)


@real
@ignorance
def test_a_server_that_ignores_conditions_is_found_before_training(
    conditions: tuple[str, ...], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store in which a conditional write goes through that should not is refused."""
    store = S3Store(f"s3://{bucket}/x")
    ignore(store, monkeypatch, *conditions)
    for _ in range(2):
        failure(
            store.check, bucket, "does not honour conditional writes", "store.single_publisher",
            retryable=False,
        )  # fmt: skip


@real
@ignorance
def test_a_server_that_ignores_conditions_may_serve_a_single_publisher(
    conditions: tuple[str, ...], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the user says so it is accepted, and told apart; what can be seen is still refused."""
    store = open_store(f"s3://{bucket}/x", single_publisher=True)
    assert isinstance(store, S3Store)
    ignore(store, monkeypatch, *conditions)
    assert store.check() is False
    refuse_what_they_see(store)


def refuse_what_they_see(store: Store) -> None:
    """Creations and swaps heed what is there, as far as looking first can tell."""
    for _ in range(2):
        store.put_if_absent("a", b"1")
    conflict(lambda: store.put_if_absent("a", b"2"), store.location("a"))
    for _ in range(2):
        store.compare_and_swap("head", None, b"1")
    first = store.get("head")
    assert first
    conflict(lambda: store.compare_and_swap("head", None, b"2"), store.location("head"))
    for _ in range(2):
        store.compare_and_swap("head", first.version, b"2")
    conflict(lambda: store.compare_and_swap("head", first.version, b"3"), store.location("head"))
    store.delete("head")
    conflict(lambda: store.compare_and_swap("head", first.version, b"3"), store.location("head"))
    assert [store.read("a"), store.read("head")] == [b"1", None]


@real
def test_a_single_publisher_is_as_safe_as_any_where_conditions_are_honoured(bucket: str) -> None:
    """The setting takes nothing from a store that is good enough."""
    store = open_store(f"s3://{bucket}/x", single_publisher=True)
    assert store.check() is True
    refuse_what_they_see(store)


@real
def test_a_server_that_knows_no_conditions_is_refused_but_for_a_single_publisher(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers 501 to a condition is as one that ignores it."""
    unknown = []

    def know_none(command: str, before: int) -> int | str:
        return 501 if unknown and unknown[-1] else NOTHING

    proxy.meddle = know_none
    store = S3Store(f"s3://{bucket}/x")
    single = S3Store(f"s3://{bucket}/x", single_publisher=True)
    for one in (store, single):
        put = one._client.put_object

        def put_watched(put: Any = put, **request: Any) -> Any:
            unknown.append(bool(request.keys() & {"IfMatch", "IfNoneMatch"}))
            try:
                return put(**request)
            finally:
                unknown.append(False)

        monkeypatch.setattr(one._client, "put_object", put_watched)
    failure(store.check, "does not honour conditional writes", retryable=False)
    for write in writes(store):
        failure(write, bucket, "501", retryable=False)
    assert store.read("a") is None
    assert single.check() is False
    refuse_what_they_see(single)


def test_a_folder_without_hard_links_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says that the file system will not do, and leaves nothing behind."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="without hard links"):
        open_store(str(tmp_path / "store")).check()
    assert list((tmp_path / "store").iterdir()) == []


def test_an_aws_configuration_that_names_a_missing_program_is_a_failure_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential program that is not there is no traceback."""
    (tmp_path / "aws").write_text("[default]\ncredential_process = /nowhere/program\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="/nowhere/program"):
        open_store("s3://models/x").check()


@pytest.mark.parametrize(
    "endpoint",
    ["http://me:hush-hush@[bad", "me://x:hush-hush@y z", "http://me:hush-hush@127.0.0.1:9"],
)
def test_a_password_in_the_endpoint_is_never_repeated(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it cannot be parsed or not be reached, the message has no password of it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StoreError) as caught:
        open_store("s3://models/x").check()
    assert "hush-hush" not in str(caught.value)
