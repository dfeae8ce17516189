"""Fetching the data: from mirrors good and bad, from the caches, and from a user's own source."""

import contextlib
import gzip
import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmnist.data.cache import sha256_of
from fmnist.data.fetch import SUMS, fetch_files, parse_sums
from fmnist.data.idx import read_labelled_images
from fmnist.data.records import (
    FILES,
    OFFICIAL_SHA256,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    FetchedData,
)
from fmnist.errors import DataError, ExitCode
from fmnist.progress import Advance
from fmnist.settings import DataSettings
from tests.support.processes import S3Server, free_port, no_file_larger_than, run_program

Contents = dict[str, bytes]

ATTEMPTS = 4
SHORT = 0.5
"""A timeout that a good server meets and that a test can wait for."""


# ---- the files ----------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as a compressed IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), 1, mtime=0)


def four_files(seed: int) -> Contents:
    """Four small valid files; only the training images are large enough to be sent in pieces."""
    noise = np.random.default_rng(seed)
    return {
        TRAIN_IMAGES: idx(noise.integers(0, 256, (400, 28, 28))),
        TRAIN_LABELS: idx(noise.permutation(np.arange(400) % 10)),
        TEST_IMAGES: idx(noise.integers(0, 256, (20, 28, 28))),
        TEST_LABELS: idx(noise.permutation(np.arange(20) % 10)),
    }


OFFICIAL = four_files(1)
OWN = four_files(2)


def digest(content: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sums_of(contents: Contents) -> bytes:
    """What `sha256sum` writes for these files."""
    return "".join(f"{digest(content)}  {name}\n" for name, content in contents.items()).encode()


def with_sums(contents: Contents) -> Contents:
    """These files and the list of their digests."""
    return contents | {SUMS: sums_of(contents)}


def write(contents: Contents, folder: Path) -> Path:
    """Lay the files down in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def read(fetched: FetchedData) -> Contents:
    """The bytes of the files that were fetched, by standard name."""
    return {
        TRAIN_IMAGES: fetched.train_images.read_bytes(),
        TRAIN_LABELS: fetched.train_labels.read_bytes(),
        TEST_IMAGES: fetched.test_images.read_bytes(),
        TEST_LABELS: fetched.test_labels.read_bytes(),
    }


def in_cache(cache: Path) -> set[bytes]:
    """The bytes of everything in the cache folder, whatever its name."""
    return {path.read_bytes() for path in cache.iterdir()} if cache.exists() else set()


def damaged(content: bytes) -> bytes:
    """Other bytes of the same length."""
    return content[:-1] + bytes([content[-1] ^ 1])


# ---- the servers --------------------------------------------------------------------------------


@dataclass
class Request:
    """What a server was asked, and how many bytes of content it sent."""

    mirror: str
    name: str
    range: str | None
    sent: int = 0


class Reply:
    """The answer to one request, which a behaviour puts together."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: Request, content: bytes) -> None:
        """Tie the connection, what was asked on it, and the content that is meant."""
        self._handler = handler
        self.request = request
        self.content = content

    def head(self, status: int, length: int | None = None, **headers: str) -> None:
        """Send the status line and the headers."""
        self._handler.send_response(status)
        if length is not None:
            self._handler.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def send(self, content: bytes) -> None:
        """Send some content, and count it."""
        self._handler.wfile.write(content)
        self.request.sent += len(content)

    def begin(self) -> bytes:
        """Send the head of an honest answer, with regard to Range; returns what is to follow."""
        whole = len(self.content)
        if not self.request.range:
            self.head(200, whole)
            return self.content
        start = int(self.request.range.removeprefix("bytes=").removesuffix("-"))
        self.head(206, whole - start, Content_Range=f"bytes {start}-{whole - 1}/{whole}")
        return self.content[start:]


Behaviour = Callable[["Mirror", Reply], None]


class Mirror:
    """A real HTTP server on the loopback address, which behaves as a test says."""

    def __init__(
        self, name: str, contents: Contents, behaviour: Behaviour, log: list[Request]
    ) -> None:
        """Start serving."""
        self.requests: list[Request] = []
        self.closing = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.path.removeprefix("/")
                request = Request(name, asked, self.headers["Range"])
                mirror.requests.append(request)
                log.append(request)
                with contextlib.suppress(ConnectionError):
                    if asked in contents:
                        behaviour(mirror, Reply(self, request, contents[asked]))
                    else:
                        self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def asked(self) -> list[str]:
        """The names of the files it was asked for, in order."""
        return [request.name for request in self.requests]

    def close(self) -> None:
        """Stop serving and let go of who still waits."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Mirrors:
    """The servers of one test, and everything they were asked, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self.log: list[Request] = []
        self._started: list[Mirror] = []

    def start(
        self, behaviour: Behaviour | None = None, contents: Contents = OFFICIAL, name: str = ""
    ) -> Mirror:
        """Start a server; without more said, a good one with the official files."""
        mirror = Mirror(name, contents, behaviour or honest, self.log)
        self._started.append(mirror)
        return mirror

    def close(self) -> None:
        """Stop all."""
        for mirror in self._started:
            mirror.close()


def honest(_: Mirror, reply: Reply) -> None:
    """Send the file, or the part of it that was asked for."""
    reply.send(reply.begin())


def heedless_of_range(_: Mirror, reply: Reply) -> None:
    """Always send the whole file."""
    reply.head(200, len(reply.content))
    reply.send(reply.content)


def refusing(status: int) -> Behaviour:
    """Answer everything with this status."""

    def behave(_: Mirror, reply: Reply) -> None:
        reply.head(status, 0)

    return behave


def lying(_: Mirror, reply: Reply) -> None:
    """Send wrong bytes of the right length."""
    reply.head(200, len(reply.content))
    reply.send(damaged(reply.content))


def silent(mirror: Mirror, _: Reply) -> None:
    """Accept the request and never answer."""
    mirror.closing.wait(20)


def stalling(mirror: Mirror, reply: Reply) -> None:
    """Send half of what is asked for, then nothing more."""
    rest = reply.begin()
    reply.send(rest[: len(rest) // 2])
    mirror.closing.wait(20)


def trickling(mirror: Mirror, reply: Reply) -> None:
    """Send a byte now and then, so that no single wait is ever long; hang up after some time."""
    rest = reply.begin()
    for place in range(100):
        reply.send(rest[place : place + 1])
        if mirror.closing.wait(0.02):
            break


def dropping(_: Mirror, reply: Reply) -> None:
    """Close the connection halfway through what is asked for."""
    rest = reply.begin()
    reply.send(rest[: len(rest) // 2])


def hanging_up(_: Mirror, __: Reply) -> None:
    """Close the connection without a word."""


def endless(mirror: Mirror, reply: Reply) -> None:
    """Send more and more, without saying how much."""
    reply.head(200)
    while not mirror.closing.is_set():
        reply.send(bytes(1 << 16))


def at_first(faulty: Behaviour, then: Behaviour = honest, times: int = 1) -> Behaviour:
    """Behave one way for the first requests, and another way from then on."""

    def behave(mirror: Mirror, reply: Reply) -> None:
        (faulty if len(mirror.requests) <= times else then)(mirror, reply)

    return behave


# ---- fixtures -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_proxy_and_no_long_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reach the loopback address directly, and try again almost at once."""
    # No server here speaks TLS, so that no certificates need be loaded for each request.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("fmnist.data.download._PAUSE", 0.001)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the small files for the official ones."""
    digests = {name: digest(content) for name, content in OFFICIAL.items()}
    monkeypatch.setattr("fmnist.data.fetch.OFFICIAL_SHA256", digests)


@pytest.fixture
def mirrors(official: None) -> Iterator[Mirrors]:
    """A maker of servers, all of which end with the test."""
    started = Mirrors()
    yield started
    started.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder that is not there yet."""
    return tmp_path / "a" / "cache"


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a failing mirror only twice, to save time."""
    monkeypatch.setattr("fmnist.data.download._ATTEMPTS", 2)


def settings(cache: Path, *mirrors: Mirror | str, timeout: float = 10) -> DataSettings:
    """Settings that name these mirrors and no other."""
    urls = tuple(mirror.url if isinstance(mirror, Mirror) else mirror for mirror in mirrors)
    return DataSettings(mirrors=urls, cache=cache, timeout=timeout)


def closed_port() -> str:
    """The address of a server that is not up."""
    return f"http://127.0.0.1:{free_port()}"


# ---- mirrors ------------------------------------------------------------------------------------


def test_a_good_mirror_supplies_the_four_files(mirrors: Mirrors, cache: Path) -> None:
    """A good mirror is asked once for each file, and the files are as it serves them."""
    mirror = mirrors.start()
    fetched = fetch_files(settings(cache, mirror))
    assert read(fetched) == OFFICIAL
    assert mirror.asked == list(FILES)
    assert in_cache(cache) == set(OFFICIAL.values())
    assert len(list(cache.iterdir())) == 4


def test_the_origin_tells_the_mirror_and_the_digests(mirrors: Mirrors, cache: Path) -> None:
    """The origin names the mirror that was used, and each file's digest by its standard name."""
    mirror = mirrors.start()
    origin = fetch_files(settings(cache, mirror)).origin
    assert origin.source == mirror.url
    assert origin.official
    assert origin.sha256 == {name: digest(content) for name, content in OFFICIAL.items()}


def test_the_first_mirror_is_asked_first_and_alone(mirrors: Mirrors, cache: Path) -> None:
    """While the first mirror is good, no other is asked."""
    first, second = mirrors.start(), mirrors.start()
    fetch_files(settings(cache, first, second))
    assert first.asked == list(FILES)
    assert second.asked == []


def test_mirrors_are_tried_in_their_order(mirrors: Mirrors, cache: Path) -> None:
    """Mirrors are tried one after the other, in the order of the setting."""
    one, two = mirrors.start(refusing(404), name="one"), mirrors.start(lying, name="two")
    three, four = mirrors.start(name="three"), mirrors.start(name="four")
    fetched = fetch_files(settings(cache, two, one, four, three))
    order = list(dict.fromkeys(request.mirror for request in mirrors.log))
    assert order == ["two", "one", "four"]
    assert fetched.origin.source == four.url


FAULTS = [
    pytest.param(refusing(404), "HTTP 404", False, id="HTTP 404"),
    pytest.param(refusing(410), "HTTP 410", False, id="HTTP 410"),
    pytest.param(refusing(403), "HTTP 403", False, id="HTTP 403"),
    pytest.param(refusing(429), "HTTP 429", True, id="HTTP 429"),
    pytest.param(refusing(500), "HTTP 500", True, id="HTTP 500"),
    pytest.param(refusing(503), "HTTP 503", True, id="HTTP 503"),
    pytest.param(lying, "has SHA-256 " + digest(damaged(OFFICIAL[TRAIN_IMAGES])), False, id="lies"),
    pytest.param(silent, f"no answer within {SHORT:g} s", True, id="never answers"),
    pytest.param(stalling, f"no answer within {SHORT:g} s", True, id="stalls halfway"),
    pytest.param(dropping, "connection dropped", True, id="always drops halfway"),
    pytest.param(hanging_up, "connection dropped", True, id="hangs up"),
]


@pytest.mark.parametrize("faulty", [pytest.param(fault.values[0], id=fault.id) for fault in FAULTS])
def test_a_faulty_mirror_is_passed_over(
    mirrors: Mirrors, cache: Path, few_attempts: None, faulty: Behaviour
) -> None:
    """The next mirror supplies the files, and nothing that the faulty one sent is kept."""
    bad, good = mirrors.start(faulty), mirrors.start()
    fetched = fetch_files(settings(cache, bad, good, timeout=SHORT))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.source == good.url
    assert set(bad.asked) == {TRAIN_IMAGES}
    assert good.asked == list(FILES)
    assert in_cache(cache) == set(OFFICIAL.values())


@pytest.mark.parametrize(("faulty", "reason", "temporary"), FAULTS)
def test_a_faulty_mirror_alone_is_an_error_with_its_reason(
    mirrors: Mirrors,
    cache: Path,
    few_attempts: None,
    faulty: Behaviour,
    reason: str,
    temporary: bool,
) -> None:
    """Without another mirror a DataError gives the reason and whether a retry may help."""
    mirror = mirrors.start(faulty)
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirror, timeout=SHORT))
    assert re.search(f"{re.escape(mirror.url)}: .*{re.escape(reason)}", str(caught.value))
    assert caught.value.retryable is temporary
    assert in_cache(cache) == set()


def test_a_dead_mirror_is_passed_over(mirrors: Mirrors, cache: Path) -> None:
    """Where nobody listens, the next mirror supplies the files."""
    good = mirrors.start()
    fetched = fetch_files(settings(cache, closed_port(), good))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.source == good.url


def test_a_host_without_an_address_is_passed_over(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a mirror's name has no address, the next mirror supplies the files."""
    look_up = socket.getaddrinfo

    def knowing_no_such_name(host: str, *arguments: Any, **named: Any) -> Any:
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **named)

    monkeypatch.setattr("socket.getaddrinfo", knowing_no_such_name)
    assert read(fetch_files(settings(cache, "http://nowhere.invalid", mirrors.start()))) == OFFICIAL


def test_a_port_behind_which_nothing_works_is_passed_over(
    mirrors: Mirrors, cache: Path, few_attempts: None
) -> None:
    """A port that takes connections but behind which no server works does not hold up the job."""
    good = mirrors.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mute = f"http://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        assert read(fetch_files(settings(cache, mute, good, timeout=SHORT))) == OFFICIAL
    assert time.monotonic() - began < 20 * SHORT


def test_a_trickling_mirror_is_given_up_soon(
    mirrors: Mirrors, cache: Path, few_attempts: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A mirror that sends a few bytes a second is given up, for being slow, after the timeout."""
    slow, good = mirrors.start(trickling), mirrors.start()
    fetched = fetch_files(settings(cache, slow, good, timeout=SHORT))
    assert fetched.origin.source == good.url
    assert f"{slow.url}: too slow" in caplog.text
    # It would go on for 100 bytes if it were let.
    assert all(request.sent < 90 for request in slow.requests)


def test_mirrors_may_be_folders_of_a_server(mirrors: Mirrors, cache: Path) -> None:
    """A mirror's address may have a path, to which the files' names are joined."""
    below = {f"data/fashion/{name}": content for name, content in OFFICIAL.items()}
    mirror = mirrors.start(contents=below)
    assert read(fetch_files(settings(cache, f"{mirror.url}/data/fashion/"))) == OFFICIAL


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("SSL_CERT_FILE", "/no/such/file.pem", id="no file of certificates"),
        pytest.param("HTTP_PROXY", "ftp://127.0.0.1:1", id="unknown kind of proxy"),
        pytest.param("ALL_PROXY", "socks5://127.0.0.1:1", id="proxy of a kind not installed"),
    ],
)
def test_connection_variables_that_cannot_be_used_are_a_data_error(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Certificates or a proxy that cannot be used end in a DataError not blamed on the cache."""
    monkeypatch.setenv(variable, value)
    mirror = mirrors.start()
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirror))
    assert f"{mirror.url}: " in str(caught.value)
    assert "data.cache" not in str(caught.value)
    assert in_cache(cache) == set()


def test_a_mirror_that_never_stops_sending_is_given_up(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that outgrows any data set is given up instead of filling the disk."""
    monkeypatch.setattr("fmnist.data.download._LARGEST_DOWNLOAD", 1_000_000)
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        fetch_files(settings(cache, mirrors.start(endless)))
    assert in_cache(cache) == set()


def test_every_mirror_is_listed_with_its_own_reason(mirrors: Mirrors, cache: Path) -> None:
    """When all mirrors fail, the DataError has a line for each with the reason for that one."""
    failing, liar, dead = mirrors.start(refusing(500)), mirrors.start(lying), closed_port()
    missing = mirrors.start(refusing(404))
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, failing, liar, dead, missing))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    told = [line for line in lines if line.startswith("http://127.0.0.1")]
    for line, url, reason in zip(
        told,
        (failing.url, liar.url, dead, missing.url),
        ("HTTP 500", "SHA-256", "connect", "HTTP 404"),
        strict=True,
    ):
        assert line.startswith(f"{url}: ")
        assert reason in line


def test_the_error_says_how_to_supply_the_files_by_hand(mirrors: Mirrors, cache: Path) -> None:
    """When all mirrors fail, the DataError tells the setting to use and the four files needed."""
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirrors.start(refusing(404))))
    advice = str(caught.value).splitlines()[-1]
    assert "data.source" in advice
    assert "folder" in advice
    assert all(name in advice for name in FILES)
    assert caught.value.exit_code == ExitCode.DATA


def test_the_error_names_only_the_files_that_are_missing(mirrors: Mirrors, cache: Path) -> None:
    """When some files came and others did not, the DataError names those that did not."""
    half = {name: OFFICIAL[name] for name in (TRAIN_IMAGES, TRAIN_LABELS)}
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirrors.start(contents=half)))
    first_line = str(caught.value).splitlines()[0]
    assert TEST_IMAGES in first_line
    assert TEST_LABELS in first_line
    assert TRAIN_IMAGES not in first_line
    assert in_cache(cache) == set(half.values())


@pytest.mark.parametrize(
    ("faults", "temporary"),
    [
        pytest.param((404, 403), False, id="none would pass"),
        pytest.param((404, 503), True, id="the second may pass"),
        pytest.param((503, 404), True, id="the first may pass"),
    ],
)
def test_one_mirror_that_may_recover_makes_the_error_temporary(
    mirrors: Mirrors, cache: Path, faults: tuple[int, int], temporary: bool
) -> None:
    """The error is temporary if at least one of the mirrors may answer later."""
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, *(mirrors.start(refusing(status)) for status in faults)))
    assert caught.value.retryable is temporary


def test_a_dead_mirror_is_a_temporary_error(official: None, cache: Path) -> None:
    """Where nobody listens, the error says so and a retry may help."""
    with pytest.raises(DataError, match="cannot connect") as caught:
        fetch_files(settings(cache, closed_port()))
    assert caught.value.retryable


def test_a_mirror_that_fails_once_is_asked_again(mirrors: Mirrors, cache: Path) -> None:
    """After one HTTP 500 the same mirror is asked again and supplies everything."""
    recovering, other = mirrors.start(at_first(refusing(500))), mirrors.start()
    fetched = fetch_files(settings(cache, recovering, other))
    assert read(fetched) == OFFICIAL
    assert recovering.asked == [TRAIN_IMAGES, *FILES]
    assert other.asked == []


def test_a_mirror_is_asked_only_so_often(mirrors: Mirrors, cache: Path) -> None:
    """A mirror that keeps failing is asked four times, one that has no such file only once."""
    failing, without = mirrors.start(refusing(503)), mirrors.start(refusing(404))
    with pytest.raises(DataError):
        fetch_files(settings(cache, failing, without))
    assert failing.asked == [TRAIN_IMAGES] * ATTEMPTS
    assert without.asked == [TRAIN_IMAGES]


def test_the_next_mirror_is_asked_only_for_the_rest(mirrors: Mirrors, cache: Path) -> None:
    """Files that an earlier mirror supplied are not asked of the next one."""
    half = {name: OFFICIAL[name] for name in (TRAIN_IMAGES, TRAIN_LABELS)}
    first, second = mirrors.start(contents=half), mirrors.start()
    assert read(fetch_files(settings(cache, first, second))) == OFFICIAL
    assert second.asked == [TEST_IMAGES, TEST_LABELS]


def test_a_redirect_is_followed(mirrors: Mirrors, cache: Path) -> None:
    """A mirror that points elsewhere is followed there."""
    target = mirrors.start()

    def elsewhere(_: Mirror, reply: Reply) -> None:
        reply.head(302, 0, Location=f"{target.url}/{reply.request.name}")

    assert read(fetch_files(settings(cache, mirrors.start(elsewhere)))) == OFFICIAL
    assert target.asked == list(FILES)


def test_a_file_labelled_as_encoded_is_kept_as_it_is(mirrors: Mirrors, cache: Path) -> None:
    """A server that calls the files gzip-encoded does not get them unpacked on the way."""

    def labelling(_: Mirror, reply: Reply) -> None:
        reply.head(200, len(reply.content), Content_Encoding="gzip")
        reply.send(reply.content)

    assert read(fetch_files(settings(cache, mirrors.start(labelling)))) == OFFICIAL


def test_a_server_that_does_not_tell_the_length_is_good_enough(
    mirrors: Mirrors, cache: Path
) -> None:
    """Files sent without a length are verified like all others, and accepted."""

    def untold(_: Mirror, reply: Reply) -> None:
        reply.head(200)
        reply.send(reply.content)

    assert read(fetch_files(settings(cache, mirrors.start(untold)))) == OFFICIAL


def test_the_real_files_come_whole_through_a_drop(
    real_data: FetchedData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real files are fetched over HTTP, through a dropped connection, and read right."""
    monkeypatch.setattr("fmnist.data.fetch.OFFICIAL_SHA256", OFFICIAL_SHA256)
    mirror = Mirror("real", read(real_data), at_first(dropping), [])
    try:
        fetched = fetch_files(settings(cache, mirror))
    finally:
        mirror.close()
    assert fetched.origin.official
    assert {name: sha256_of(path) for name, path in paths_of(fetched).items()} == OFFICIAL_SHA256
    assert len(read_labelled_images(fetched.test_images, fetched.test_labels)) == 10_000


def paths_of(fetched: FetchedData) -> dict[str, Path]:
    """The paths of the files that were fetched, by standard name."""
    return {
        TRAIN_IMAGES: fetched.train_images,
        TRAIN_LABELS: fetched.train_labels,
        TEST_IMAGES: fetched.test_images,
        TEST_LABELS: fetched.test_labels,
    }


# ---- going on after a drop ----------------------------------------------------------------------


@pytest.mark.parametrize("interruption", [dropping, stalling], ids=["dropped", "stalled"])
def test_an_interrupted_download_asks_only_for_the_rest(
    mirrors: Mirrors, cache: Path, interruption: Behaviour
) -> None:
    """After a drop halfway, the next request asks, by Range, for what has not arrived yet."""
    mirror = mirrors.start(at_first(interruption))
    fetched = fetch_files(settings(cache, mirror, timeout=SHORT))
    first, second = mirror.requests[:2]
    whole = len(OFFICIAL[TRAIN_IMAGES])
    assert first.range is None
    assert second.name == TRAIN_IMAGES
    asked = re.fullmatch(r"bytes=([0-9]+)-", second.range or "")
    assert asked
    start = int(asked[1])
    assert 0 < start <= first.sent
    assert second.sent == whole - start
    assert first.sent + second.sent < whole + (1 << 16)
    assert [request.range for request in mirror.requests[2:]] == [None] * 3
    assert read(fetched) == OFFICIAL


def test_several_drops_in_one_file_are_survived(mirrors: Mirrors, cache: Path) -> None:
    """A connection that drops three times in one file still brings it, piece by piece."""
    mirror = mirrors.start(at_first(dropping, times=3))
    assert read(fetch_files(settings(cache, mirror))) == OFFICIAL
    starts = [int((request.range or "bytes=0-")[6:-1]) for request in mirror.requests[:4]]
    assert starts == sorted(starts)
    assert starts[0] == 0 < starts[1]


def test_a_server_that_ignores_range_starts_anew(mirrors: Mirrors, cache: Path) -> None:
    """When the whole file is sent in place of the rest, it replaces what had arrived."""
    mirror = mirrors.start(at_first(dropping, then=heedless_of_range))
    fetched = fetch_files(settings(cache, mirror))
    assert mirror.requests[1].range is not None
    assert mirror.requests[1].sent == len(OFFICIAL[TRAIN_IMAGES])
    assert read(fetched) == OFFICIAL


def test_a_server_that_sends_another_range_starts_anew(mirrors: Mirrors, cache: Path) -> None:
    """When a partial answer begins elsewhere than asked, it is not joined to what had arrived."""

    def from_the_start(_: Mirror, reply: Reply) -> None:
        whole = len(reply.content)
        reply.head(206, whole, Content_Range=f"bytes 0-{whole - 1}/{whole}")
        reply.send(reply.content)

    mirror = mirrors.start(at_first(dropping, then=from_the_start))
    assert read(fetch_files(settings(cache, mirror))) == OFFICIAL


def test_a_rest_that_does_not_fit_is_not_kept(mirrors: Mirrors, cache: Path) -> None:
    """When the file has changed at the server between the two parts, neither part is kept."""

    def changed(mirror: Mirror, reply: Reply) -> None:
        reply.content = OWN[reply.request.name]
        honest(mirror, reply)

    first, second = mirrors.start(at_first(dropping, then=changed)), mirrors.start()
    fetched = fetch_files(settings(cache, first, second))
    assert fetched.origin.source == second.url
    assert read(fetched) == OFFICIAL
    assert in_cache(cache) == set(OFFICIAL.values())


# ---- the cache ----------------------------------------------------------------------------------


def test_with_everything_cached_no_server_is_asked(mirrors: Mirrors, cache: Path) -> None:
    """A second fetch asks no server, and gives the same files."""
    mirror = mirrors.start()
    first = fetch_files(settings(cache, mirror))
    mirror.requests.clear()
    second = fetch_files(settings(cache, mirror))
    assert mirror.requests == []
    assert paths_of(second) == paths_of(first)
    assert second.origin.official
    assert second.origin.source == "cache"


def test_with_everything_cached_no_network_is_needed(mirrors: Mirrors, cache: Path) -> None:
    """Once cached, the files are there although the mirrors are not."""
    fetch_files(settings(cache, mirrors.start()))
    assert read(fetch_files(settings(cache, closed_port()))) == OFFICIAL


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damaged, id="one bit"),
        pytest.param(lambda content: content[:100], id="cut off"),
        pytest.param(lambda _: b"", id="emptied"),
        pytest.param(lambda content: content + b"\0", id="too long"),
    ],
)
def test_a_damaged_cached_file_is_fetched_again(
    mirrors: Mirrors, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A cached file that has been damaged is noticed, and it alone is fetched again."""
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
    """While a download is under way, the cache holds only partial files and whole ones."""
    halfway, go_on = threading.Event(), threading.Event()

    def pausing(_: Mirror, reply: Reply) -> None:
        rest = reply.begin()
        reply.send(rest[: len(rest) // 2])
        if reply.request.name == TEST_IMAGES:
            halfway.set()
            go_on.wait(20)
        reply.send(rest[len(rest) // 2 :])

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch_files, settings(cache, mirrors.start(pausing)))
        try:
            assert halfway.wait(20)
            names = {path.read_bytes() for path in cache.iterdir() if path.suffix != ".part"}
            partial = [path for path in cache.iterdir() if path.suffix == ".part"]
        finally:
            go_on.set()
        assert read(fetching.result(20)) == OFFICIAL
    assert names == {OFFICIAL[TRAIN_IMAGES], OFFICIAL[TRAIN_LABELS]}
    assert len(partial) == 1
    assert in_cache(cache) == set(OFFICIAL.values())


def test_an_interrupted_fetch_leaves_nothing_half_done(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a download leaves no part of a file in the cache."""

    @contextlib.contextmanager
    def interrupted(label: str, total: float) -> Iterator[Advance]:
        def advance(done: float, note: str) -> None:
            raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr("fmnist.data.download.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_files(settings(cache, mirrors.start()))
    assert in_cache(cache) == set()


def test_old_leftovers_are_removed(mirrors: Mirrors, cache: Path) -> None:
    """Partial files of a writer killed more than a day ago are removed, younger ones are not."""
    write({"old.part": b"old", "young.part": b"young", "other": b"other"}, cache)
    now = time.time()
    os.utime(cache / "old.part", (now - 25 * 3600,) * 2)
    os.utime(cache / "young.part", (now - 23 * 3600,) * 2)
    os.utime(cache / "other", (now - 25 * 3600,) * 2)
    fetch_files(settings(cache, mirrors.start()))
    left = {path.name for path in cache.iterdir()} & {"old.part", "young.part", "other"}
    assert left == {"young.part", "other"}


@pytest.mark.parametrize("place", ["the folder itself", "the folder above"])
def test_a_file_in_place_of_the_cache_is_a_data_error(
    mirrors: Mirrors, cache: Path, place: str
) -> None:
    """A cache folder that cannot be made ends in a DataError naming it and the setting."""
    obstacle = cache if place == "the folder itself" else cache.parent
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    with pytest.raises(DataError, match=r"data\.cache") as caught:
        fetch_files(settings(cache, mirrors.start()))
    assert str(cache) in str(caught.value)
    assert not caught.value.retryable
    assert obstacle.read_text() == "in the way"


def test_a_folder_in_place_of_a_cached_file_is_a_data_error(mirrors: Mirrors, cache: Path) -> None:
    """A folder where the cache keeps a file ends in a DataError naming the cache."""
    mirror = mirrors.start()
    path = fetch_files(settings(cache, mirror)).test_labels
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"data\.cache") as caught:
        fetch_files(settings(cache, mirror))
    assert str(cache) in str(caught.value)


FULL_DISKS = pytest.mark.parametrize(
    ("file", "room"),
    [
        pytest.param(TRAIN_IMAGES, 100_000, id="while a large file is written"),
        pytest.param(TRAIN_LABELS, 100, id="when a small file is flushed"),
    ],
)


@FULL_DISKS
def test_a_full_disk_is_a_data_error(mirrors: Mirrors, cache: Path, file: str, room: int) -> None:
    """A download that finds no room ends in a DataError that names the setting; no part stays."""
    mirror = mirrors.start()
    paths_of(fetch_files(settings(cache, mirror)))[file].unlink()
    with no_file_larger_than(room), pytest.raises(DataError, match=r"data\.cache") as caught:
        fetch_files(settings(cache, mirror))
    assert str(cache) in str(caught.value)
    assert not caught.value.retryable
    assert in_cache(cache) == {content for name, content in OFFICIAL.items() if name != file}


# ---- Keras's cache ------------------------------------------------------------------------------


@pytest.fixture
def keras_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's own folder of the data set, with the official files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return write(OFFICIAL, tmp_path / "keras" / "datasets" / "fashion-mnist")


def test_keras_own_copies_are_used_without_download(
    mirrors: Mirrors, cache: Path, keras_cache: Path
) -> None:
    """Valid files in Keras's cache are used where they are, and no server is asked."""
    mirror = mirrors.start()
    fetched = fetch_files(settings(cache, mirror))
    assert paths_of(fetched) == {name: keras_cache / name for name in FILES}
    assert fetched.origin.official
    assert mirror.requests == []


def test_a_damaged_copy_of_keras_is_passed_over(
    mirrors: Mirrors, cache: Path, keras_cache: Path
) -> None:
    """A damaged file in Keras's cache is left alone, and that file is downloaded."""
    wrong = damaged(OFFICIAL[TRAIN_LABELS])
    (keras_cache / TRAIN_LABELS).write_bytes(wrong)
    mirror = mirrors.start()
    assert read(fetch_files(settings(cache, mirror))) == OFFICIAL
    assert mirror.asked == [TRAIN_LABELS]
    assert (keras_cache / TRAIN_LABELS).read_bytes() == wrong


def test_keras_folder_in_the_home_is_found(
    mirrors: Mirrors, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without KERAS_HOME, Keras's cache is looked for in the home folder."""
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = write(OFFICIAL, tmp_path / ".keras" / "datasets" / "fashion-mnist")
    assert fetch_files(settings(cache, mirrors.start())).train_images == folder / TRAIN_IMAGES


# ---- two at once --------------------------------------------------------------------------------


def meeting(parties: int) -> Behaviour:
    """Send half of each file only when so many ask for it at once, then the rest likewise."""
    barriers = {name: threading.Barrier(parties, timeout=60) for name in FILES}

    def behave(_: Mirror, reply: Reply) -> None:
        barrier = barriers.get(reply.request.name)
        rest = reply.begin()
        if barrier:
            barrier.wait()
            reply.send(rest[: len(rest) // 2])
            barrier.wait()
        reply.send(rest[len(rest) // 2 if barrier else 0 :])

    return behave


def test_several_threads_fetching_at_once_do_not_disturb_each_other(
    mirrors: Mirrors, cache: Path
) -> None:
    """Three threads that download the same files into the same cache all get them whole."""
    mirror = mirrors.start(meeting(3))
    with ThreadPoolExecutor(3) as pool:
        fetching = [pool.submit(fetch_files, settings(cache, mirror)) for _ in range(3)]
        assert [read(each.result(60)) for each in fetching] == [OFFICIAL] * 3
    assert sorted(mirror.asked) == sorted(FILES * 3)
    assert in_cache(cache) == set(OFFICIAL.values())
    assert len(list(cache.iterdir())) == 4


def test_two_processes_fetching_at_once_do_not_disturb_each_other(
    mirrors: Mirrors, cache: Path
) -> None:
    """Two processes that download the same files into the same cache both get them whole."""
    mirror = mirrors.start(meeting(2), with_sums(OWN))
    program = (
        "import sys; from pathlib import Path; from fmnist.settings import DataSettings; "
        "from fmnist.data.fetch import fetch_files; "
        "fetch_files(DataSettings(source=sys.argv[1], cache=Path(sys.argv[2])))"
    )
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(run_program, "-c", program, mirror.url, str(cache), timeout=60)
            for _ in range(2)
        ]
        for run in runs:
            assert run.result().returncode == 0, run.result().stderr
    assert mirror.asked.count(TRAIN_IMAGES) == 2
    assert in_cache(cache) == set(OWN.values())
    assert len(list(cache.iterdir())) == 4


# ---- a folder of the user's own -----------------------------------------------------------------


def from_folder(folder: Path) -> DataSettings:
    """Settings that name this folder as the source."""
    return DataSettings(source=str(folder))


def test_official_files_in_a_folder_are_accepted(official: None, tmp_path: Path) -> None:
    """Official files in a folder are used where they are, without a list, as official ones."""
    folder = write(OFFICIAL, tmp_path / "data")
    fetched = fetch_files(from_folder(folder))
    assert paths_of(fetched) == {name: folder / name for name in FILES}
    assert fetched.origin.official is True
    assert fetched.origin.source == str(folder)


def test_official_files_with_a_list_are_still_official(official: None, tmp_path: Path) -> None:
    """A matching list beside the official files does not make them any less official."""
    assert fetch_files(from_folder(write(with_sums(OFFICIAL), tmp_path / "data"))).origin.official


def test_a_folder_in_the_home_may_be_given_with_a_tilde(
    official: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading `~` in the source is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(OFFICIAL, tmp_path / "data")
    assert read(fetch_files(DataSettings(source="~/data"))) == OFFICIAL


def test_own_files_without_a_list_are_refused(official: None, tmp_path: Path) -> None:
    """Files that are not the official ones are refused, with the command that vouches for them."""
    folder = write(OFFICIAL | {TEST_IMAGES: OWN[TEST_IMAGES]}, tmp_path / "data")
    with pytest.raises(DataError) as caught:
        fetch_files(from_folder(folder))
    message = str(caught.value)
    assert f"{folder}/{TEST_IMAGES}" in message
    assert digest(OWN[TEST_IMAGES]) in message
    assert f"sha256sum *-ubyte.gz > {SUMS}" in message
    assert not caught.value.retryable


def test_the_command_in_the_message_makes_the_folder_acceptable(
    official: None, tmp_path: Path
) -> None:
    """After the command that the refusal gives, the same files are accepted."""
    folder = write(OWN, tmp_path / "data")
    with pytest.raises(DataError) as caught:
        fetch_files(from_folder(folder))
    where, command = re.findall(r"in (\S+), (sha256sum .*)$", str(caught.value))[0]
    assert os.system(f"cd {where} && {command}") == 0
    assert read(fetch_files(from_folder(folder))) == OWN


def test_own_files_with_a_matching_list_are_accepted(official: None, tmp_path: Path) -> None:
    """Files that match the list beside them are accepted, and are not called official."""
    folder = write(with_sums(OWN), tmp_path / "data")
    fetched = fetch_files(from_folder(folder))
    assert read(fetched) == OWN
    assert fetched.origin.official is False
    assert fetched.origin.sha256 == {name: digest(content) for name, content in OWN.items()}


def test_a_list_may_name_other_files_too(official: None, tmp_path: Path) -> None:
    """Other files in the list are no fault, and are not in the origin's digests."""
    folder = write(with_sums(OWN | {"LICENSE": b"MIT"}), tmp_path / "data")
    assert set(fetch_files(from_folder(folder)).origin.sha256) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_match_their_list_are_refused(
    official: None, tmp_path: Path, name: str
) -> None:
    """A file that differs from its digest in the list is refused by name, with both digests."""
    folder = write(with_sums(OWN) | {name: damaged(OWN[name])}, tmp_path / "data")
    with pytest.raises(DataError) as caught:
        fetch_files(from_folder(folder))
    message = str(caught.value)
    assert f"{folder}/{name}" in message
    assert SUMS in message
    assert digest(OWN[name]) in message
    assert digest(damaged(OWN[name])) in message


def test_official_files_that_do_not_match_their_list_are_refused(
    official: None, tmp_path: Path
) -> None:
    """The list decides where there is one: official files in place of others are refused."""
    folder = write(OFFICIAL | {SUMS: sums_of(OWN)}, tmp_path / "data")
    with pytest.raises(DataError, match="does not match"):
        fetch_files(from_folder(folder))


BAD_LISTS = [
    pytest.param(b"", "does not list", id="empty"),
    pytest.param(b"<html>\nNot found</html>", "line 1", id="no list at all"),
    pytest.param(sums_of(OWN) + b"0123  short\n", "line 5", id="short digest"),
    pytest.param(sums_of(OWN).replace(b"  ", b" "), "line 1", id="one space"),
    pytest.param(b"\xff\xfe" + sums_of(OWN), "line 1", id="not text"),
    pytest.param(
        sums_of({name: content for name, content in OWN.items() if name != TEST_LABELS}),
        f"does not list {TEST_LABELS}",
        id="incomplete",
    ),
]


@pytest.mark.parametrize(("content", "found"), BAD_LISTS)
def test_a_bad_list_is_refused(official: None, tmp_path: Path, content: bytes, found: str) -> None:
    """A list that is malformed or incomplete is refused, with its place and how to write it."""
    folder = write(OWN | {SUMS: content}, tmp_path / "data")
    with pytest.raises(DataError) as caught:
        fetch_files(from_folder(folder))
    message = str(caught.value)
    assert f"{folder}/{SUMS}" in message
    assert found in message
    assert "sha256sum" in message


def test_a_list_that_cannot_be_read_is_a_data_error(official: None, tmp_path: Path) -> None:
    """A folder in place of the list ends in a DataError that names the list."""
    folder = write(OFFICIAL, tmp_path / "data")
    (folder / SUMS).mkdir()
    with pytest.raises(DataError, match=SUMS):
        fetch_files(from_folder(folder))


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "without a list"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_missing_from_the_folder_is_named(
    official: None, tmp_path: Path, name: str, listed: bool
) -> None:
    """A file that is not in the folder is named, as are the four that are needed."""
    folder = write(with_sums(OFFICIAL) if listed else OFFICIAL, tmp_path / "data")
    (folder / name).unlink()
    with pytest.raises(DataError) as caught:
        fetch_files(from_folder(folder))
    assert f"{folder}/{name}: is not there" in str(caught.value)
    assert all(file in str(caught.value) for file in FILES)
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_a_missing_folder_is_a_data_error(official: None, tmp_path: Path, kind: str) -> None:
    """A source that is no folder ends in a DataError that names it and the setting."""
    folder = tmp_path / "data"
    if kind == "a file":
        folder.write_text("no folder")
    with pytest.raises(DataError, match=r"data\.source") as caught:
        fetch_files(from_folder(folder))
    assert str(folder) in str(caught.value)


# ---- an HTTP server of the user's own -----------------------------------------------------------


def from_server(mirror: Mirror | str, cache: Path, timeout: float = 10) -> DataSettings:
    """Settings that name this server as the source."""
    url = mirror.url if isinstance(mirror, Mirror) else mirror
    return DataSettings(source=url, cache=cache, timeout=timeout)


def test_own_files_on_a_server_are_accepted_with_a_matching_list(
    mirrors: Mirrors, cache: Path
) -> None:
    """Files on a user's server that match its list are fetched, and are not called official."""
    mirror = mirrors.start(contents=with_sums(OWN))
    fetched = fetch_files(from_server(mirror, cache))
    assert read(fetched) == OWN
    assert fetched.origin.official is False
    assert fetched.origin.source == mirror.url
    assert in_cache(cache) == set(OWN.values())


def test_official_files_on_a_server_need_no_list(mirrors: Mirrors, cache: Path) -> None:
    """Official files on a user's server are accepted without a list, as official ones."""
    fetched = fetch_files(from_server(mirrors.start(), cache))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.official is True


def test_own_files_on_a_server_without_a_list_are_refused(mirrors: Mirrors, cache: Path) -> None:
    """Files on a server that are not official and not listed are refused, and not kept."""
    mirror = mirrors.start(contents=OWN)
    with pytest.raises(DataError, match=f"sha256sum .* > {SUMS}") as caught:
        fetch_files(from_server(mirror, cache))
    assert f"{mirror.url}/{TRAIN_IMAGES}" in str(caught.value)
    assert in_cache(cache) == set()


def test_own_files_on_a_server_that_do_not_match_are_refused(mirrors: Mirrors, cache: Path) -> None:
    """A file on a server that differs from its digest in the list is refused by its address."""
    contents = with_sums(OWN) | {TEST_LABELS: OFFICIAL[TEST_LABELS]}
    mirror = mirrors.start(contents=contents)
    with pytest.raises(DataError, match="does not match") as caught:
        fetch_files(from_server(mirror, cache))
    assert f"{mirror.url}/{TEST_LABELS}" in str(caught.value)
    assert in_cache(cache) == {OWN[name] for name in FILES if name != TEST_LABELS}


@pytest.mark.parametrize(("content", "found"), BAD_LISTS)
def test_a_bad_list_on_a_server_is_refused(
    mirrors: Mirrors, cache: Path, content: bytes, found: str
) -> None:
    """A malformed or incomplete list on a server is refused before any file is fetched."""
    mirror = mirrors.start(contents=OWN | {SUMS: content})
    with pytest.raises(DataError) as caught:
        fetch_files(from_server(mirror, cache))
    assert f"{mirror.url}/{SUMS}" in str(caught.value)
    assert found in str(caught.value)
    assert mirror.asked == [SUMS]


def test_a_file_missing_from_the_server_is_named(mirrors: Mirrors, cache: Path) -> None:
    """A file that the user's server does not have is named, and a retry cannot help."""
    contents = with_sums(OWN)
    del contents[TEST_IMAGES]
    mirror = mirrors.start(contents=contents)
    with pytest.raises(DataError) as caught:
        fetch_files(from_server(mirror, cache))
    assert f"{mirror.url}/{TEST_IMAGES}: is not there" in str(caught.value)
    assert not caught.value.retryable


def test_a_server_that_is_down_is_a_temporary_error(official: None, cache: Path) -> None:
    """When nobody listens at the user's server, the DataError names it and is temporary."""
    url = closed_port()
    with pytest.raises(DataError, match="cannot connect") as caught:
        fetch_files(from_server(url, cache))
    assert url in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        pytest.param(refusing(503), "HTTP 503", id="HTTP 503"),
        pytest.param(silent, "no answer", id="never answers"),
        pytest.param(stalling, "no answer", id="stalls halfway"),
        pytest.param(dropping, "connection dropped", id="drops halfway"),
    ],
)
def test_a_list_that_does_not_come_is_a_temporary_error(
    mirrors: Mirrors, cache: Path, faulty: Behaviour, reason: str
) -> None:
    """A list that a server fails to send is not taken for missing; the error is temporary."""
    mirror = mirrors.start(faulty, with_sums(OFFICIAL))
    with pytest.raises(DataError, match=reason) as caught:
        fetch_files(from_server(mirror, cache, timeout=SHORT))
    assert f"{mirror.url}/{SUMS}" in str(caught.value)
    assert caught.value.retryable
    assert set(mirror.asked) == {SUMS}


def test_only_the_list_is_asked_for_when_the_files_are_cached(
    mirrors: Mirrors, cache: Path
) -> None:
    """A second fetch from a user's server reads its list again, but none of the files."""
    mirror = mirrors.start(contents=with_sums(OWN))
    fetch_files(from_server(mirror, cache))
    mirror.requests.clear()
    assert read(fetch_files(from_server(mirror, cache))) == OWN
    assert mirror.asked == [SUMS]


def test_a_changed_list_brings_the_changed_files(mirrors: Mirrors, cache: Path) -> None:
    """When the user replaces the files and the list, the new files come, not the cached ones."""
    contents = with_sums(OWN)
    mirror = mirrors.start(contents=contents)
    fetch_files(from_server(mirror, cache))
    contents.update(with_sums(four_files(3)))
    assert read(fetch_files(from_server(mirror, cache))) == four_files(3)


def test_a_users_server_that_drops_once_is_gone_on_with(mirrors: Mirrors, cache: Path) -> None:
    """A dropped download from a user's server goes on where it stopped."""
    mirror = mirrors.start(at_first(dropping), OFFICIAL)
    assert read(fetch_files(from_server(mirror, cache))) == OFFICIAL


# ---- S3 -----------------------------------------------------------------------------------------


def put(contents: Contents, bucket: str) -> str:
    """Put the files into the bucket under a prefix; returns where they are."""
    import boto3

    client = boto3.session.Session().client("s3")
    for name, content in contents.items():
        client.put_object(Bucket=bucket, Key=f"data/fashion/{name}", Body=content)
    return f"s3://{bucket}/data/fashion"


def test_official_files_in_a_bucket_need_no_list(official: None, bucket: str, cache: Path) -> None:
    """Official files in a bucket are accepted without a list, and verified into the cache."""
    source = put(OFFICIAL, bucket)
    fetched = fetch_files(DataSettings(source=source, cache=cache))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.official is True
    assert fetched.origin.source == source
    assert in_cache(cache) == set(OFFICIAL.values())


def test_own_files_in_a_bucket_are_accepted_with_a_matching_list(
    official: None, bucket: str, cache: Path
) -> None:
    """Files in a bucket that match the list there are fetched, and are not called official."""
    fetched = fetch_files(DataSettings(source=put(with_sums(OWN), bucket), cache=cache))
    assert read(fetched) == OWN
    assert fetched.origin.official is False


def test_own_files_in_a_bucket_without_a_list_are_refused(
    official: None, bucket: str, cache: Path
) -> None:
    """Files in a bucket that are not official and not listed are refused, and not kept."""
    source = put(OWN, bucket)
    with pytest.raises(DataError, match=f"sha256sum .* > {SUMS}") as caught:
        fetch_files(DataSettings(source=source, cache=cache))
    assert f"{source}/{TRAIN_IMAGES}" in str(caught.value)
    assert in_cache(cache) == set()


def test_own_files_in_a_bucket_that_do_not_match_are_refused(
    official: None, bucket: str, cache: Path
) -> None:
    """A file in a bucket that differs from its digest in the list is refused by its location."""
    source = put(with_sums(OWN) | {TEST_IMAGES: damaged(OWN[TEST_IMAGES])}, bucket)
    with pytest.raises(DataError, match="does not match") as caught:
        fetch_files(DataSettings(source=source, cache=cache))
    assert f"{source}/{TEST_IMAGES}" in str(caught.value)
    assert damaged(OWN[TEST_IMAGES]) not in in_cache(cache)


def test_a_file_missing_from_the_bucket_is_named(official: None, bucket: str, cache: Path) -> None:
    """A file that is not in the bucket is named by its location."""
    contents = with_sums(OWN)
    del contents[TRAIN_LABELS]
    source = put(contents, bucket)
    with pytest.raises(DataError, match="is not there") as caught:
        fetch_files(DataSettings(source=source, cache=cache))
    assert f"{source}/{TRAIN_LABELS}" in str(caught.value)


def test_a_missing_bucket_is_a_data_error(official: None, minio: S3Server, cache: Path) -> None:
    """A bucket that does not exist ends in a DataError that names it; a retry cannot help."""
    with pytest.raises(DataError, match="does not exist") as caught:
        fetch_files(DataSettings(source="s3://no-such-bucket/data", cache=cache))
    assert "no-such-bucket" in str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA
    assert not caught.value.retryable


def test_an_unusable_data_bucket_is_not_blamed_on_the_store(
    official: None, minio: S3Server, cache: Path
) -> None:
    """The advice on a bucket of the data is to change `data.source`, not another setting."""
    with pytest.raises(DataError) as caught:
        fetch_files(DataSettings(source="s3://no-such-bucket/data", cache=cache))
    assert "data.source" in str(caught.value)
    assert "store.url" not in str(caught.value)


def test_a_wrong_key_for_the_bucket_is_a_data_error(
    official: None, bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key ends in a DataError that points to the credentials and does not show them."""
    source = put(OFFICIAL, bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-secret")
    with pytest.raises(DataError, match="credentials") as caught:
        fetch_files(DataSettings(source=source, cache=cache))
    assert "not-the-right-secret" not in str(caught.value)
    assert not caught.value.retryable


def test_missing_credentials_are_a_data_error(
    official: None, minio: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any key, a DataError tells which variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID"):
        fetch_files(DataSettings(source="s3://bucket/data", cache=cache))


def test_an_unusable_aws_configuration_is_a_data_error(
    official: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that does not exist ends, for a source of data, in a DataError that says so."""
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(DataError, match="no-such-profile"):
        fetch_files(DataSettings(source="s3://bucket/data", cache=cache))


@FULL_DISKS
def test_a_full_disk_is_a_data_error_from_a_bucket_too(
    official: None, bucket: str, cache: Path, file: str, room: int
) -> None:
    """A file from a bucket that finds no room ends in a DataError that names the setting."""
    own = DataSettings(source=put(OFFICIAL, bucket), cache=cache)
    paths_of(fetch_files(own))[file].unlink()
    with no_file_larger_than(room), pytest.raises(DataError, match=r"data\.cache") as caught:
        fetch_files(own)
    assert str(cache) in str(caught.value)
    assert in_cache(cache) == {content for name, content in OFFICIAL.items() if name != file}


# ---- the list of digests ------------------------------------------------------------------------

A, B = "0123456789abcdef" * 4, "f" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"{A}  one\n{B}  two\n", {"one": A, "two": B}, id="text"),
        pytest.param(f"{A} *one\n", {"one": A}, id="binary"),
        pytest.param(f"{A}  ./one\n{B} *./two\n", {"one": A, "two": B}, id="in this folder"),
        pytest.param(f"{A.upper()}  One\n", {"One": A}, id="uppercase digest"),
        pytest.param(f"\n{A}  one\n\n  \n{B}  two\n\n", {"one": A, "two": B}, id="blank lines"),
        pytest.param(f"{A}  one", {"one": A}, id="no newline at the end"),
        pytest.param(f"{A}  one\r\n{B}  two\r\n", {"one": A, "two": B}, id="Windows line ends"),
        pytest.param(f"{A}  a name\n", {"a name": A}, id="space in the name"),
        pytest.param("", {}, id="empty"),
    ],
)
def test_lists_of_digests_are_read_in_every_usual_form(text: str, expected: dict[str, str]) -> None:
    """A list that `sha256sum` can write is read, whatever its variant."""
    assert parse_sums(text) == expected


@pytest.mark.parametrize(
    ("line", "number"),
    [
        pytest.param(f"{A[:-1]}  one", 1, id="digest too short"),
        pytest.param(f"{A}0  one", 1, id="digest too long"),
        pytest.param(f"{A[:-1]}g  one", 1, id="not hexadecimal"),
        pytest.param(A, 1, id="no name"),
        pytest.param(f"{A}  ", 1, id="blank name"),
        pytest.param(f"{A} *", 1, id="marker without a name"),
        pytest.param(f"{A} one", 1, id="one space"),
        pytest.param(f"{A}\tone", 1, id="tab"),
        pytest.param(f"one  {A}", 1, id="the wrong way round"),
        pytest.param(f"SHA256 (one) = {A}", 1, id="BSD form"),
        pytest.param(f"{A}  one\n\n{B}", 3, id="fault in the third line"),
    ],
)
def test_malformed_lists_of_digests_are_refused(line: str, number: int) -> None:
    """A line of another form is a ValueError that tells its number."""
    with pytest.raises(ValueError, match=f"line {number} "):
        parse_sums(line)


@pytest.mark.parametrize("status", [401, 403])
def test_official_files_are_taken_where_absent_files_are_called_forbidden(
    mirrors: Mirrors, tmp_path: Path, status: int
) -> None:
    """A bucket that answers so for a missing SHA256SUMS still serves the official files."""

    def forbidding(mirror: Mirror, reply: Reply) -> None:
        (refusing(status) if reply.request.name == SUMS else honest)(mirror, reply)

    mirror = mirrors.start(forbidding, contents=OFFICIAL | {SUMS: b""})
    fetched = fetch_files(DataSettings(source=mirror.url, cache=tmp_path / "cache"))
    assert fetched.origin.official
    assert mirror.asked == [SUMS, *OFFICIAL]
