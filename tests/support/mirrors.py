"""Small data files, and web servers that supply them well or badly."""

import contextlib
import gzip
import hashlib
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fmnist.data.fetch import SUMS
from fmnist.data.records import (
    FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    FetchedData,
)
from fmnist.settings import DataSettings
from tests.support.processes import free_port
from tests.support.tiny_s3 import Handler, serving

Contents = dict[str, bytes]


def header(*shape: int, element_type: int = 8) -> bytes:
    """The start of an IDX file."""
    return struct.pack(f">HBB{len(shape)}I", 0, element_type, len(shape), *shape)


def idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as a compressed IDX file."""
    return gzip.compress(header(*array.shape) + array.astype(np.uint8).tobytes(), 1, mtime=0)


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


def damaged(content: bytes) -> bytes:
    """Other bytes of the same length."""
    return content[:-1] + bytes([content[-1] ^ 1])


def write(contents: Contents, folder: Path) -> Path:
    """Write the files into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def paths_of(fetched: FetchedData) -> dict[str, Path]:
    """The paths of the files that were fetched, by standard name."""
    paths = (fetched.train_images, fetched.train_labels, fetched.test_images, fetched.test_labels)
    return dict(zip(FILES, paths, strict=True))


def read(fetched: FetchedData) -> Contents:
    """The bytes of the files that were fetched, by standard name."""
    return {name: path.read_bytes() for name, path in paths_of(fetched).items()}


def in_cache(cache: Path) -> set[bytes]:
    """The bytes of everything in the cache folder, whatever its name."""
    found = cache.rglob("*") if cache.is_dir() else ()
    return {path.read_bytes() for path in found if path.is_file()}


@dataclass
class Request:
    """What a server was asked, and how many bytes of content it sent."""

    mirror: str
    name: str
    sent: int = 0


@dataclass
class Reply:
    """The answer to one request, which a behaviour puts together."""

    handler: Handler
    request: Request
    content: bytes

    def head(self, status: int, length: int | None = None, **headers: str) -> None:
        """Send the status line and the headers."""
        self.handler.send_response(status)
        if length is not None:
            self.handler.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def send(self, content: bytes) -> None:
        """Send some content, and count it."""
        self.handler.wfile.write(content)
        self.request.sent += len(content)

    def begin(self) -> bytes:
        """Send the head of an honest answer; returns what is to follow."""
        self.head(200, len(self.content))
        return self.content

    def send_half(self) -> bytes:
        """Send the head and half of the content; returns the rest."""
        content = self.begin()
        self.send(content[: len(content) // 2])
        return content[len(content) // 2 :]


Behaviour = Callable[["Mirror", Reply], None]


@dataclass
class Mirror:
    """A real HTTP server on the loopback address that behaves as a test says."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> list[str]:
        """The names of the files it was asked for, in order."""
        return [request.name for request in self.requests]


@dataclass
class Mirrors:
    """The servers of one test, and everything they were asked, in order."""

    running: contextlib.ExitStack
    log: list[Request] = field(default_factory=list)

    def start(self, behaviour: Behaviour | None = None, contents: Contents = OFFICIAL) -> Mirror:
        """Start a server: by default a good one, with the official files."""
        mirror, log = Mirror(), self.log

        class Asked(Handler):
            protocol_version = "HTTP/1.0"

            def answer(self, body: bytes) -> None:
                asked = self.path.removeprefix("/")
                request = Request(mirror.url, asked)
                mirror.requests.append(request)
                log.append(request)
                with contextlib.suppress(ConnectionError):
                    if asked in contents:
                        (behaviour or honest)(mirror, Reply(self, request, contents[asked]))
                    else:
                        self.send_error(404)

        mirror.url = self.running.enter_context(serving(Asked))
        # Whoever still waits is released first.
        self.running.callback(mirror.closing.set)
        return mirror


def honest(_: Mirror, reply: Reply) -> None:
    """Send the file."""
    reply.send(reply.begin())


def refusing(status: int) -> Behaviour:
    """Answer everything with this status."""
    return lambda _, reply: reply.head(status, 0)


def lying(_: Mirror, reply: Reply) -> None:
    """Send wrong bytes of the right length."""
    reply.send(damaged(reply.begin()))


def silent(mirror: Mirror, _: Reply) -> None:
    """Accept the request and never answer."""
    mirror.closing.wait(20)


def stalling(mirror: Mirror, reply: Reply) -> None:
    """Send half of the file, then nothing more."""
    reply.send_half()
    mirror.closing.wait(20)


def trickling(mirror: Mirror, reply: Reply) -> None:
    """Send a byte now and then, so that no single wait is ever long; hang up after some time."""
    content = reply.begin()
    for index in range(100):
        reply.send(content[index : index + 1])
        if mirror.closing.wait(0.02):
            break


def dropping(_: Mirror, reply: Reply) -> None:
    """Close the connection halfway through the file."""
    reply.send_half()


def hanging_up(_: Mirror, __: Reply) -> None:
    """Close the connection without a word."""


def endless(mirror: Mirror, reply: Reply) -> None:
    """Send more and more, without saying how much."""
    reply.head(200)
    while not mirror.closing.is_set():
        reply.send(bytes(1 << 16))


def at_first(faulty: Behaviour, times: int = 1) -> Behaviour:
    """Behave badly for the first requests, and well from then on."""

    def behave(mirror: Mirror, reply: Reply) -> None:
        (faulty if len(mirror.requests) <= times else honest)(mirror, reply)

    return behave


def meeting(parties: int, files: tuple[str, ...]) -> Behaviour:
    """Send half of each file only when so many ask for it at once, then the rest likewise."""
    barriers = {name: threading.Barrier(parties, timeout=60) for name in files}

    def behave(mirror: Mirror, reply: Reply) -> None:
        if not (barrier := barriers.get(reply.request.name)):
            honest(mirror, reply)
            return
        barrier.wait()
        rest = reply.send_half()
        barrier.wait()
        reply.send(rest)

    return behave


def settings(cache: Path, *mirrors: Mirror | str, timeout: float = 10) -> DataSettings:
    """Settings that name these mirrors and no other."""
    urls = tuple(mirror.url if isinstance(mirror, Mirror) else mirror for mirror in mirrors)
    return DataSettings(mirrors=urls, cache=cache, timeout=timeout)


def closed_port() -> str:
    """The address of a server that is not up."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def no_proxy_and_no_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reach the loopback address directly, and try again at once."""
    # No server here speaks TLS, so no certificates need be loaded for each request.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files pass for the official ones."""
    digests = {name: digest(content) for name, content in OFFICIAL.items()}
    monkeypatch.setattr("fmnist.data.fetch.OFFICIAL_SHA256", digests)


@pytest.fixture
def mirrors(official: None) -> Iterator[Mirrors]:
    """A maker of servers, all of which end with the test."""
    with contextlib.ExitStack() as running:
        yield Mirrors(running)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder that is not there yet."""
    return tmp_path / "a" / "cache"


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing mirror is asked only twice, to save time."""
    monkeypatch.setattr("fmnist.data.cache._RETRIES", 1)
