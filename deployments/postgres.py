"""Run a PostgreSQL server as its image does: as its own user, in a cluster it creates if needed.

    python deployments/postgres.py FOLDER postgres -p PORT ...

POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB are those of a new cluster.
"""

import os
import pwd
import subprocess
import sys
from pathlib import Path

USER = "postgres"


def main(data: Path, command: list[str]) -> None:
    """Replace this process by the server, whose files are in the folder `data`."""
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam(USER)
        os.chown(data, user.pw_uid, user.pw_gid)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    # The project's folder may be closed to that user.
    os.chdir("/")
    data.chmod(0o700)
    if not (data / "PG_VERSION").exists():
        _create_cluster(data)
    # Its socket's default folder belongs to the system, and nobody here connects through it.
    command += ["-D", str(data), "-c", "unix_socket_directories="]
    os.execvp(command[0], command)  # noqa: S606 - the command of compose.yaml


def _create_cluster(data: Path) -> None:
    own = {**os.environ, "PGDATA": str(data)}
    initdb = ["initdb", "--username", own["POSTGRES_USER"], "--encoding=UTF8", "--locale=C.UTF-8"]
    for command, send in (
        ([*initdb, "--auth=scram-sha-256", "--pwfile=/dev/stdin"], own["POSTGRES_PASSWORD"]),
        (["postgres", "--single", "postgres"], f"CREATE DATABASE {own['POSTGRES_DB']};\n"),
    ):
        subprocess.run(command, env=own, input=send, text=True, check=True)  # noqa: S603


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
