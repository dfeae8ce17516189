"""The temporary Prefect server of a run: out of reach of the terminal, and gone with its parent.

Prefect has one of its own, but that is in the process group of the run, so Ctrl-C and a service
manager's SIGTERM end it before the run has said that it was cancelled; it survives a run that is
killed; what it prints is the run's output; and it starts only when everything else is ready, while
this one starts beside the run. It costs no import of Prefect until it is needed.

As a program, this file is that server: `temporary_server.py DESCRIPTOR`, of a listening socket.
"""

import contextlib
import gc
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, cast

LOG = "temporary-server.log"
_LONGEST_START = 180.0
_LONGEST_END = 5.0
_NOT_STARTED = 3
_SETTINGS = {
    "PREFECT_UI_ENABLED": "0",
    # Its telemetry prints a traceback if the database is locked when it starts.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    # Nobody looks for blocks on it. To register them, or only to find that they are registered, it
    # would import every Prefect integration that is installed.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class TemporaryServer:
    """A server that gets ready beside the run, and serves when it is told to."""

    def __init__(self) -> None:
        # To Prefect, an empty address would be one.
        own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._port = int(listening.getsockname()[1])
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, str(listening.fileno())],
                env=own | _SETTINGS,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self._port}/api"

    def begin(self) -> None:
        """Tell it to serve, for which it uses Prefect's folder; `fault` tells whether it does."""
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).write(b"\n")

    def fault(self) -> str:
        """Wait until it answers; what is wrong with one that never does, and nothing otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_LONGEST_START)
        try:
            # The system holds the connection until the server accepts it, or has ended.
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
            return "" if status == http.client.OK else f"it answers with HTTP {status}"
        except TimeoutError:
            return f"it did not answer within {_LONGEST_START:.0f} s"
        except (OSError, http.client.HTTPException):
            return f"it ended with exit code {self._process.wait()}"
        finally:
            connection.close()

    def end(self) -> None:
        """Let it end, which nobody waits for. Safe to repeat."""
        cast(IO[bytes], self._process.stdin).close()


@contextlib.contextmanager
def temporary_server() -> Iterator[TemporaryServer]:
    """A server that gets ready, and may serve, while this block runs."""
    server = TemporaryServer()
    try:
        yield server
    finally:
        server.end()


def main(descriptor: str) -> int:
    """Serve Prefect's API on a listening socket, given by its descriptor; returns an exit code."""
    asked, ended = threading.Event(), threading.Event()

    def follow_parent() -> None:
        # The parent writes once, and this returns nothing when it has ended, however it ended.
        if not os.read(0, 1):
            os._exit(0)
        asked.set()
        os.read(0, 1)
        ended.set()

    threading.Thread(target=follow_parent, daemon=True).start()
    gc.disable()  # while importing, of which nothing is garbage
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    gc.freeze()
    gc.enable()
    asked.wait()
    home = get_current_settings().home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOG).open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # The run's current folder may be deleted meanwhile.
    os.chdir(home)
    server = uvicorn.Server(
        uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    )

    def end_with_parent() -> None:
        ended.wait()
        # What it was told last is still on its way into the database.
        server.should_exit = True
        time.sleep(_LONGEST_END)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=int(descriptor))])
    return 0 if server.started else _NOT_STARTED


if __name__ == "__main__":
    # Python puts this file's folder first, whose modules are none for a server to import.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1]))
