"""The cache of verified downloads, and the copies that Keras keeps."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fmnist.data.fetch import fetch_files
from fmnist.data.records import FILES, TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS
from fmnist.errors import DataError
from fmnist.progress import Advance
from fmnist.settings import DataSettings
from tests.support.mirrors import (
    OFFICIAL,
    Mirror,
    Mirrors,
    Reply,
    closed_port,
    damaged,
    digest,
    in_cache,
    meeting,
    paths_of,
    read,
    settings,
    write,
)
from tests.support.processes import no_file_larger_than


def test_with_everything_cached_no_network_is_needed(mirrors: Mirrors, cache: Path) -> None:
    mirror = mirrors.start()
    first = fetch_files(settings(cache, mirror))
    mirror.requests.clear()
    for server in (mirror, closed_port()):
        again = fetch_files(settings(cache, server))
        assert paths_of(again) == paths_of(first)
        assert read(again) == OFFICIAL
        assert again.origin.official
        assert again.origin.source == "cache"
    assert mirror.requests == []


def test_files_are_cached_by_digest_and_name(mirrors: Mirrors, cache: Path) -> None:
    """Each file keeps the name that earlier versions gave it, so their caches stay valid."""
    fetch_files(settings(cache, mirrors.start()))
    names = {f"{digest(content)[:16]}-{name}" for name, content in OFFICIAL.items()}
    assert {path.name for path in cache.iterdir()} == names


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": damaged,
    "cut off": lambda content: content[:100],
    "emptied": lambda _: b"",
    "too long": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cached_file_is_fetched_again(
    mirrors: Mirrors, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    mirror = mirrors.start()
    path = fetch_files(settings(cache, mirror)).test_images
    path.write_bytes(damage(path.read_bytes()))
    mirror.requests.clear()
    assert read(fetch_files(settings(cache, mirror))) == OFFICIAL
    assert mirror.asked == [TEST_IMAGES]
    assert in_cache(cache) == set(OFFICIAL.values())


def test_the_cache_folder_is_in_the_users_cache_by_default(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a setting, downloads are kept under `fmnist` in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    fetched = fetch_files(DataSettings(mirrors=(mirrors.start().url,)))
    assert fetched.train_images.is_relative_to(tmp_path / "xdg" / "fmnist")


def test_nothing_unverified_is_ever_under_a_final_name(mirrors: Mirrors, cache: Path) -> None:
    """While a download is under way, the cache has only complete files outside its folder."""
    halfway, go_on = threading.Event(), threading.Event()

    def pausing(_: Mirror, reply: Reply) -> None:
        rest = reply.send_half()
        if reply.request.name == TEST_IMAGES:
            halfway.set()
            go_on.wait(20)
        reply.send(rest)

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch_files, settings(cache, mirrors.start(pausing)))
        try:
            assert halfway.wait(20)
            complete = {path.read_bytes() for path in cache.iterdir() if path.is_file()}
            partial = [path for path in cache.iterdir() if path.is_dir()]
        finally:
            go_on.set()
        assert read(fetching.result(20)) == OFFICIAL
    assert complete == {OFFICIAL[TRAIN_IMAGES], OFFICIAL[TRAIN_LABELS]}
    assert len(partial) == 1 and partial[0].name.startswith(".download-")
    assert len(list(cache.iterdir())) == 4


def test_an_interrupted_fetch_leaves_nothing_half_done(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    @contextlib.contextmanager
    def interrupted(label: str, total: float) -> Iterator[Advance]:
        def advance(done: float, note: str) -> None:
            raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr("fmnist.data.sources.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_files(settings(cache, mirrors.start()))
    assert in_cache(cache) == set()


@pytest.mark.parametrize(("folder_hours", "file_hours"), [(23, 23), (25, 25), (25, 0)])
@pytest.mark.parametrize("name", [".download-x", "download-x", "tmpabcdefgh"])
def test_leftovers_of_killed_downloads_are_removed_after_a_day(
    mirrors: Mirrors, cache: Path, name: str, folder_hours: int, file_hours: int
) -> None:
    """A download's folder in which nothing was written for a day is removed; nothing else is."""
    folder = write({"tmp": b"part of a file"}, cache / name)
    for path, hours in ((folder / "tmp", file_hours), (folder, folder_hours)):
        os.utime(path, (time.time() - hours * 3600,) * 2)
    fetch_files(settings(cache, mirrors.start()))
    assert folder.exists() is not (file_hours == 25 and name == ".download-x")


def cannot_write_to_the_cache(data: DataSettings) -> None:
    """Fetching must end in a lasting DataError that names the cache and its setting."""
    with pytest.raises(DataError, match=r"data\.cache") as caught:
        fetch_files(data)
    assert str(data.cache) in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("place", ["the folder itself", "the folder above"])
def test_a_file_in_place_of_the_cache_is_a_data_error(
    mirrors: Mirrors, cache: Path, place: str
) -> None:
    obstacle = cache if place == "the folder itself" else cache.parent
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    cannot_write_to_the_cache(settings(cache, mirrors.start()))
    assert obstacle.read_text() == "in the way"


def test_a_folder_in_place_of_a_cached_file_is_a_data_error(mirrors: Mirrors, cache: Path) -> None:
    mirror = mirrors.start()
    path = fetch_files(settings(cache, mirror)).test_labels
    path.unlink()
    path.mkdir()
    cannot_write_to_the_cache(settings(cache, mirror))


@pytest.mark.parametrize(
    ("file", "room"),
    [
        pytest.param(TRAIN_IMAGES, 100_000, id="while a large file is written"),
        pytest.param(TRAIN_LABELS, 100, id="when a small file is flushed"),
    ],
)
def test_a_full_disk_is_a_data_error(mirrors: Mirrors, cache: Path, file: str, room: int) -> None:
    """The DataError names the setting; no partial file stays."""
    mirror = mirrors.start()
    paths_of(fetch_files(settings(cache, mirror)))[file].unlink()
    with no_file_larger_than(room):
        cannot_write_to_the_cache(settings(cache, mirror))
    assert in_cache(cache) == {content for name, content in OFFICIAL.items() if name != file}


def test_several_threads_fetching_at_once_do_not_disturb_each_other(
    mirrors: Mirrors, cache: Path
) -> None:
    mirror = mirrors.start(meeting(3, FILES))
    with ThreadPoolExecutor(3) as pool:
        fetching = [pool.submit(fetch_files, settings(cache, mirror)) for _ in range(3)]
        assert [read(each.result(60)) for each in fetching] == [OFFICIAL] * 3
    assert sorted(mirror.asked) == sorted(FILES * 3)
    assert in_cache(cache) == set(OFFICIAL.values())
    assert len(list(cache.iterdir())) == 4


@pytest.fixture
def keras_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's own folder of the data set, with the official files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return write(OFFICIAL, tmp_path / "keras" / "datasets" / "fashion-mnist")


def test_keras_own_copies_are_used_without_download(
    mirrors: Mirrors, cache: Path, keras_cache: Path
) -> None:
    mirror = mirrors.start()
    fetched = fetch_files(settings(cache, mirror))
    assert paths_of(fetched) == {name: keras_cache / name for name in FILES}
    assert fetched.origin.official
    assert mirror.requests == []


def test_a_damaged_copy_of_keras_is_passed_over(
    mirrors: Mirrors, cache: Path, keras_cache: Path
) -> None:
    wrong = damaged(OFFICIAL[TRAIN_LABELS])
    (keras_cache / TRAIN_LABELS).write_bytes(wrong)
    mirror = mirrors.start()
    assert read(fetch_files(settings(cache, mirror))) == OFFICIAL
    assert mirror.asked == [TRAIN_LABELS]
    assert (keras_cache / TRAIN_LABELS).read_bytes() == wrong


def test_keras_folder_in_the_home_is_found(
    mirrors: Mirrors, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = write(OFFICIAL, tmp_path / ".keras" / "datasets" / "fashion-mnist")
    assert fetch_files(settings(cache, mirrors.start())).train_images == folder / TRAIN_IMAGES
