"""The temporary Prefect server of a run: out of reach of the terminal, and gone with its parent.

As a program, this file is that server: `temporary_server.py PORT`.
"""

import os
import subprocess
import sys
import threading
from typing import Any


def prepare() -> None:
    """Let Prefect start its temporary server, when it comes to that, as a process of this kind.

    Prefect's own is in the process group of the run, so Ctrl-C and a service manager's SIGTERM end
    it before the run has said that it was cancelled; and it survives a run that is killed.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    class TemporaryServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            settings = get_current_settings()
            home = settings.home.expanduser().absolute()
            home.mkdir(parents=True, exist_ok=True)
            return subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, str(self.port)],
                env=os.environ
                | settings.to_environment_variables(exclude_unset=True)
                | {
                    "PREFECT_HOME": str(home),
                    "PREFECT_UI_ENABLED": "0",
                    "PREFECT__SERVER_EPHEMERAL": "1",
                    "PREFECT__SERVER_FINAL": "1",
                },
                stdin=subprocess.PIPE,
                # The run's current folder may be deleted while the server starts.
                cwd=home,
                start_new_session=True,
            )

    # From here Prefect takes the server of this process; None stands for any port.
    SubprocessASGIServer._instances.setdefault(None, TemporaryServer())


def _end_with_parent() -> None:
    # The parent writes nothing, so this returns when the parent has ended, however it ended.
    os.read(0, 1)
    os._exit(0)


def main(port: str) -> None:
    """Serve Prefect's API on this port of the loopback address."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(port),
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    # Python puts this file's folder first, whose modules are none for a server to import.
    sys.path.pop(0)
    main(sys.argv[1])
