"""What every kind of store must do; each kind's tests import it beside a fixture `store`."""

import functools
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.store.base import Conflict, Store
from fmnist.store.folder import FolderStore
from tests.support.tiny_s3 import SECRET


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


Action = Callable[..., object]
VERBS: dict[str, Action] = {
    "check": lambda store: store.check(),
    "put_if_absent": lambda store, key="a/b": store.put_if_absent(key, b"1"),
    "compare_and_swap": lambda store, key="a/b": store.compare_and_swap(key, None, b"1"),
    "delete": lambda store, key="a/b": store.delete(key),
    "read": lambda store, key="a/b": store.read(key),
    "get": lambda store, key="a/b": store.get(key),
    "list_names": lambda store, key="a/b": store.list_names(f"{key}/"),
    "list_entries": lambda store, key="a/b": store.list_entries(f"{key}/"),
}
CONDITIONAL: dict[str, Action] = {
    "put_if_absent": lambda store: store.put_if_absent("a", b"content"),
    "compare_and_swap": lambda store: store.compare_and_swap("a", None, b"content"),
}
every_verb = pytest.mark.parametrize("act", VERBS.values(), ids=VERBS)
every_write = pytest.mark.parametrize("write", CONDITIONAL.values(), ids=CONDITIONAL)


def replace(store: Store, key: str, content: bytes) -> None:
    """Write an object, whether or not there is one."""
    found = store.get(key)
    store.compare_and_swap(key, found.version if found else None, content)


def conflict(action: Callable[[], object], *named: str) -> None:
    """The action must be refused because its condition does not hold."""
    failure(action, "nothing is overwritten", *named, retryable=False)
    with pytest.raises(Conflict):
        action()


def refuse_what_they_see(store: Store) -> None:
    """Creations and swaps must refuse what reading first can tell."""
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


def only_one_wins(store: Store) -> None:
    """Of several threads that create or swap one object at a time, exactly one must succeed."""

    def one_wins(write: Callable[[bytes], None], refusal: type[StoreError]) -> None:
        def attempt(content: bytes) -> bytes | None:
            try:
                write(content)
            except refusal:
                return None
            return content

        contents = [secrets.token_bytes(2000) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            (winner,) = filter(None, pool.map(attempt, contents))
        assert store.read("contested") == winner

    one_wins(functools.partial(store.put_if_absent, "contested"), StoreError)
    found = store.get("contested")
    assert found
    one_wins(functools.partial(store.compare_and_swap, "contested", found.version), Conflict)


def test_an_empty_store_passes_its_check_again_and_again(store: Store) -> None:
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
    assert store.read(key) is None
    store.put_if_absent("present", b"1")
    assert store.read(key) is None


@pytest.mark.parametrize("other", [b"", b"diff", b"longer than before"])
def test_creating_never_overwrites(store: Store, other: bytes) -> None:
    """The same content counts as one's own earlier success; other content is named and refused."""
    for _ in range(2):
        store.put_if_absent("runs/a", b"same")
    where, told = store.location("runs/a"), "already there with other content"
    conflict(lambda: store.put_if_absent("runs/a", other), where, told)
    assert store.read("runs/a") == b"same"


def test_swapping_writes_over_the_version_that_was_read(store: Store) -> None:
    """A new object needs no version; an old one is replaced only by who has read its latest."""
    store.compare_and_swap("champion.json", None, b"first")
    first = store.get("champion.json")
    assert first and first.content == store.read("champion.json") == b"first"
    store.compare_and_swap("champion.json", first.version, b"second")
    second = store.get("champion.json")
    assert second and second.content == b"second"
    assert second.version != first.version
    assert store.get("champion.json") == second


def test_swapping_never_overwrites_what_was_not_read(store: Store) -> None:
    """An old version, that of another object or none at all never overwrites what others wrote."""
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


def test_swapping_a_deleted_object_is_a_conflict(store: Store) -> None:
    store.compare_and_swap("head", None, b"first")
    first = store.get("head")
    assert first
    store.delete("head")
    conflict(
        lambda: store.compare_and_swap("head", first.version, b"second"), store.location("head")
    )
    assert store.read("head") is None


def test_swapping_the_same_again_is_harmless(store: Store) -> None:
    """An object with that content already counts as success, whatever version was given."""
    for _ in range(2):
        store.compare_and_swap("head", None, b"first")
    first = store.get("head")
    assert first
    for _ in range(2):
        store.compare_and_swap("head", first.version, b"second")
    store.compare_and_swap("head", None, b"second")
    assert store.read("head") == b"second"


def test_keys_do_not_disturb_each_other(store: Store) -> None:
    store.put_if_absent("runs/a/x", b"1")
    store.compare_and_swap("runs/a/y", None, b"2")
    store.put_if_absent("runs/b/x", b"3")
    store.delete("runs/b/z")
    assert [store.read(key) for key in ("runs/a/x", "runs/a/y", "runs/b/x")] == [b"1", b"2", b"3"]


def test_names_are_what_lies_directly_below(store: Store) -> None:
    """Objects by their name, and each folder once with a slash; in order, without dot names."""
    assert store.list_names("runs/") == []
    for name in ("b/1", "b/2", "b/c/3", "a", "ü x", ".hidden", ".folder/x"):
        store.put_if_absent(f"runs/{name}", b"1")
    for key in ("runs.json", "runs-2/x", ".at-the-top"):
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


def test_an_object_over_the_limit_is_not_read(store: Store) -> None:
    """Whoever replaced a record by something huge costs its reader an error, and no memory."""
    store.put_if_absent("a/b", b"12345")
    assert store.read("a/b", 5) == b"12345" and store.read("a/c", 5) is None
    for read in (store.read, store.get):
        with pytest.raises(DamagedError, match="has 5 bytes, but should have no more than 4"):
            read("a/b", 4)


def test_what_is_deleted_is_gone(store: Store) -> None:
    """It is no longer read or listed, unlike the others; deleting it again is harmless."""
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
