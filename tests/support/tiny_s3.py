"""A tiny S3 server in memory, for what no real server can be brought to do."""

import contextlib
import functools
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import botocore.loaders
import pytest


@dataclass
class TinyS3:
    """What the server holds, by `bucket/key`, and how it behaves.

    It may ignore conditions, have another `clock` than this machine or tell its `date` otherwise,
    and refuse every write with `refusal` (status and code) once it has taken `room` more objects.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    honours_conditions: bool = True
    clock: timedelta = timedelta(0)
    date: str | None = None
    room: float = float("inf")
    refusal: tuple[int, str] = (507, "QuotaExceeded")
    requests: list[str] = field(default_factory=list)

    def put(self, key: str, content: bytes, only_if_absent: bool, match: str | None) -> int:
        """Write an object, if the condition and the quota let it; the answer's status."""
        found = self.objects.get(key)
        if self.honours_conditions:
            if match and found is None:
                return 404
            if (only_if_absent and found is not None) or (match and match != etag(found or b"")):
                return 412
        if self.room <= 0:
            return self.refusal[0]
        self.room -= 1
        self.objects[key] = content
        return 200

    def listing(self, bucket: str, prefix: str, delimiter: str) -> str:
        """The answer to a request to list."""
        modified = (datetime.now(UTC) + self.clock).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        contents, folders = "", set()
        for name, content in sorted(self.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if not key.startswith(prefix):
                continue
            below = key.removeprefix(prefix)
            if delimiter and delimiter in below:
                folders.add(prefix + below.partition(delimiter)[0] + delimiter)
                continue
            contents += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
                f"<ETag>{escape(etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
        for folder in sorted(folders):
            contents += f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"


def etag(content: bytes) -> str:
    """The version of an object."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


class Handler(BaseHTTPRequestHandler):
    """Gives every request to `answer`, and logs nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets

    def answer(self, body: bytes) -> None:
        """Answer the request."""
        raise NotImplementedError

    def send(
        self, status: int, content: bytes = b"", *, length: int | None = None, **headers: str
    ) -> None:
        """Send an answer, whose announced length may be another than that of its content."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _pass_to_answer(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do_PATCH = _pass_to_answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def tiny_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyS3]:
    """Start the server, and point this process's environment at it."""
    state = TinyS3()
    monkeypatch.setattr("botocore.session.create_loader", one_loader)

    class Tiny(Handler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            """The server's clock, as each answer tells it."""
            now = (timestamp or time.time()) + state.clock.total_seconds()
            return super().date_time_string(now) if state.date is None else state.date

        def answer(self, body: bytes) -> None:
            address = urlsplit(self.path)
            key = unquote(address.path).lstrip("/")
            state.requests.append(f"{self.command} {key}")
            status, content = 200, b""
            if self.command == "PUT":
                absent = self.headers.get("If-None-Match") == "*"
                status = state.put(key, body, absent, self.headers.get("If-Match"))
            elif "list-type" in address.query:
                query = dict(parse_qsl(address.query))
                prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
                content = state.listing(key.rstrip("/"), prefix, delimiter).encode()
            elif self.command == "DELETE":
                state.objects.pop(key, None)
                status = 204
            elif key in state.objects:
                content = state.objects[key]
            else:
                status = 404
            if status >= 400:
                codes = {404: "NoSuchKey", 412: "PreconditionFailed"} | dict([state.refusal])
                content = f"<Error><Code>{codes[status]}</Code></Error>".encode()
            self.send(status, content, ETag=etag(body or content))

    with serving(Tiny) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield state


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Serve HTTP on this or a free port of the loopback address; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


KEY, SECRET = "NOBODYSKEY0123456789", "NobodysSecretValue0123456789abcdefghijkl"

one_loader = functools.cache(botocore.loaders.create_loader)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are repeated without pauses, and boto3 reads its descriptions only once."""
    monkeypatch.setattr("botocore.session.create_loader", one_loader)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("fmnist.store.s3.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def some_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are complete, if nobody's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def refusal(code: str) -> bytes:
    """The body of a refusal as S3 gives it."""
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told\nin lines</Message></Error>"
    ).encode()


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, some_keys: None
) -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Starts local servers and points the environment at them."""
    with contextlib.ExitStack() as servers:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            endpoint = servers.enter_context(serving(handler))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
            return endpoint

        yield start
