"""The temporary Prefect server of a run: out of reach of the terminal, and gone with its parent.

As a program, this file is that server: `temporary_server.py DESCRIPTOR`, of a bound socket.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx

_LONGEST_START = 180.0
_NOT_STARTED = 3


def prepare() -> None:
    """Let Prefect start its temporary server, when it comes to that, as a process of this kind.

    Prefect's own is in the process group of the run, so Ctrl-C and a service manager's SIGTERM end
    it before the run has said that it was cancelled; it survives a run that is killed; one that
    ends at its start is started again for minutes; and what it prints is the run's output.

    Prefect raises the `RuntimeError` of a server that does not start, which names its log.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    class TemporaryServer(SubprocessASGIServer):
        def find_available_port(self) -> int:
            # Bound until the server has it, so that no other run can get it.
            self._socket = socket.socket()
            self._socket.bind(("127.0.0.1", 0))
            return int(self._socket.getsockname()[1])

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            settings = get_current_settings()
            home = settings.home.expanduser().absolute()
            home.mkdir(parents=True, exist_ok=True)
            log = home / "temporary-server.log"
            with self._socket, log.open("wb") as stream:
                server = subprocess.Popen(  # noqa: S603
                    [sys.executable, __file__, str(self._socket.fileno())],
                    env=os.environ
                    | settings.to_environment_variables(exclude_unset=True)
                    | {
                        "PREFECT_HOME": str(home),
                        "PREFECT_UI_ENABLED": "0",
                        "PREFECT__SERVER_EPHEMERAL": "1",
                        "PREFECT__SERVER_FINAL": "1",
                    },
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=[self._socket.fileno()],
                    # The run's current folder may be deleted while the server starts.
                    cwd=home,
                    start_new_session=True,
                )
            fault = _fault_at_start(server, f"{self.api_url}/health")
            if fault:
                raise RuntimeError(f"{fault}; its log is {log}")
            return server

    # From here Prefect takes the server of this process; None stands for any port.
    SubprocessASGIServer._instances.setdefault(None, TemporaryServer())


def _fault_at_start(server: subprocess.Popen[Any], health: str) -> str:
    """Wait until a server answers; what is wrong with one that never does."""
    deadline = time.monotonic() + _LONGEST_START
    while server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(health).is_success:
                return ""
        if time.monotonic() > deadline:
            return f"it did not answer within {_LONGEST_START:.0f} s"
        time.sleep(0.1)
    return f"it ended with exit code {server.returncode}"


def _end_with_parent() -> None:
    # The parent writes nothing, so this returns when the parent has ended, however it ended.
    os.read(0, 1)
    os._exit(0)


def main(descriptor: str) -> int:
    """Serve Prefect's API on a bound socket, given by its file descriptor; returns an exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    application = "prefect.server.api.server:create_app"
    server = uvicorn.Server(
        uvicorn.Config(application, factory=True, log_level="error", lifespan="on")
    )
    server.run(sockets=[socket.socket(fileno=int(descriptor))])
    return 0 if server.started else _NOT_STARTED


if __name__ == "__main__":
    # Python puts this file's folder first, whose modules are none for a server to import.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1]))
