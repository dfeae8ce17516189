"""A proxy between a client and an S3 server that numbers the client's requests and spoils one.

Points are told apart by the folder below which their keys lie, so that many are under way at once.
"""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

LONGEST_WAIT = 60


class Fault(StrEnum):
    """What happens to a request."""

    KILLED_BEFORE = "client killed before the request is forwarded"
    KILLED_AFTER = "client killed after the request was forwarded"
    DROPPED = "reply dropped"
    RESET = "connection reset in the middle of the request"
    ERROR_500 = "500"
    BUSY_503 = "503"
    CONFLICT_409 = "409"
    LATE = "time-out, forwarded when the client has ended"
    NEVER = "time-out, never forwarded"
    TRUNCATED = "truncated answer"
    OUTAGE = "reply dropped, and nothing answered after it"

    @property
    def kills(self) -> bool:
        """Whether it ends the client."""
        return self in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)

    @property
    def outlasts_retries(self) -> bool:
        """Whether the client cannot get over it by asking again."""
        return self.kills or self is Fault.OUTAGE


_ANSWERS = {
    Fault.ERROR_500: (500, "InternalError"),
    Fault.BUSY_503: (503, "SlowDown"),
    Fault.CONFLICT_409: (409, "ConditionalRequestConflict"),
}


@dataclass
class Point:
    """One client's way through a scenario: its requests so far, and which of them is spoilt how.

    `kill` ends the client; it is set once there is one.
    """

    number: int = 0
    fault: Fault | None = None
    requests: list[str] = field(default_factory=list)
    kill: Callable[[], None] = lambda: None
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    under_way: int = 0


class Proxy:
    """A proxy in front of one server; `endpoint` is where its clients find it, in a `with`."""

    def __init__(self, upstream: str) -> None:
        self.points: dict[str, Point] = {}
        self.upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def settle(self, point: Point) -> None:
        """Let go what is held back of a client that has ended, and wait for its last answer."""
        point.ended.set()
        deadline = time.monotonic() + LONGEST_WAIT
        while point.under_way:
            if time.monotonic() > deadline:
                raise TimeoutError("a request is still under way")
            time.sleep(0.002)

    @contextmanager
    def request(self, line: str) -> Iterator[tuple[Point, Fault | None]]:
        """Number a request by its method and target; gives its point, and what happens to it."""
        point = self.points[re.findall(r"p\d+", line)[0]]
        with self._lock:
            point.requests.append(line)
            number = len(point.requests)
            point.under_way += 1
        if number == point.number:
            fault = point.fault
        else:
            fault = Fault.RESET if point.fault is Fault.OUTAGE and number > point.number else None
        try:
            yield point, fault
        finally:
            with self._lock:
                point.under_way -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def do_GET(self) -> None:
        line = unquote(f"{self.command} {self.path}")
        with self.server.proxy.request(line) as (point, fault):
            length = int(self.headers.get("Content-Length", 0))
            if fault is Fault.RESET:
                self.rfile.read(length // 2)
                self._hang_up()
                return
            body = self.rfile.read(length)
            if fault in (Fault.LATE, Fault.NEVER):
                point.ended.wait(LONGEST_WAIT)
            if fault is Fault.KILLED_BEFORE:
                self._kill(point)
            elif fault is Fault.NEVER:
                self._hang_up()
            elif fault in _ANSWERS:
                self._refuse(*_ANSWERS[fault])
            else:
                self._pass_on(body, point, fault)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _pass_on(self, body: bytes, point: Point, fault: Fault | None) -> None:
        status, reason, headers, content = self._ask_server(body)
        if fault is Fault.KILLED_AFTER:
            self._kill(point)
        elif fault in (Fault.DROPPED, Fault.OUTAGE, Fault.LATE):
            self._hang_up()
        else:
            lines = [
                f"{name}: {value}"
                for name, value in headers
                if name.lower() not in ("connection", "transfer-encoding", "content-length")
            ]
            length = len(content)
            if fault is Fault.TRUNCATED:
                # Ten bytes short of a length that is the object's own, if it has as many.
                length, content = max(length, 10), content[:-10]
            if status not in (204, 304):
                lines.append(f"Content-Length: {length}")
            head = "\r\n".join([f"HTTP/1.1 {status} {reason}", *lines, "", ""]).encode()
            self.wfile.write(head + content)
            if fault is Fault.TRUNCATED:
                self.close_connection = True

    def _ask_server(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        if self._upstream is None:
            upstream = self.server.proxy.upstream
            self._upstream = http.client.HTTPConnection(upstream, timeout=LONGEST_WAIT)
        server = self._upstream
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                server.putheader(name, value)
        server.endheaders(body or None)
        answer = server.getresponse()
        return answer.status, answer.reason, answer.getheaders(), answer.read()

    def _refuse(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _kill(self, point: Point) -> None:
        point.started.wait(LONGEST_WAIT)
        point.kill()
        self._hang_up()

    def _hang_up(self) -> None:
        """Reset the connection at once."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        socket.close(self.connection.detach())

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        if self.connection.fileno() >= 0:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
