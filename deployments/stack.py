"""Run the stack of compose.yaml on one machine without containers.

    python deployments/stack.py secrets   make deployments/.env with random passwords, once
    python deployments/stack.py start     start what is not running; wait until all of it is well
    python deployments/stack.py status    show each service and its state
    python deployments/stack.py stop      stop everything, the worker first

compose.yaml stays the one source of truth: each service's own command and environment are used,
with a service's name as 127.0.0.1 and each volume as a folder. supervisord (https://supervisord.org)
keeps the services running. Format: https://github.com/compose-spec/compose-spec/blob/main/spec.md
"""

import argparse
import os
import pwd
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from supervisor.xmlrpc import SupervisorTransport

HERE = Path(__file__).resolve().parent
COMPOSE = HERE / "compose.yaml"
# No secret of the stack has a default. Hexadecimal: safe in a URL, a shell and an env file.
SECRETS = {
    "POSTGRES_PASSWORD": "{}",
    "PREFECT_API_AUTH_STRING": "admin:{}",
    "MINIO_ROOT_USER": "minio-{:.8}",
    "MINIO_ROOT_PASSWORD": "{}",
    "JOB_ACCESS_KEY": "job-{:.16}",
    "JOB_SECRET_KEY": "{}",
}
HOW_TO_GET = {
    "postgres": "Debian, Ubuntu: apt install postgresql",
    "minio": "go install github.com/minio/minio@{minio}",
    "mc": "go install github.com/minio/mc@{mc}",
    "prefect": "make setup",
}
_LONGEST_START = 180.0
_LOG_BYTES = "20MB"


class StackError(Exception):
    """The stack cannot be started, with what to do about it."""


@dataclass(frozen=True)
class Service:
    """One service of compose.yaml, made ready to run as a plain program of this machine.

    `health` is a command that succeeds once the service is well; `keep` says to start the program
    again when it ends; `grace` is the time in seconds that it is given to stop.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: tuple[str, ...] | None
    keep: bool
    stop_signal: str
    grace: int
    folders: tuple[Path, ...]


# ---- compose.yaml -------------------------------------------------------------------------------


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file: lines of `NAME=value`; comments and empty lines are skipped."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as compose does.

    Raises:
        StackError: a variable without a default is not set, or empty.
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        given = variables.get(found["name"], "")
        if given or found["kind"] is None:
            return given
        if found["kind"] == "-":
            return found["rest"]
        raise StackError(f"{found['name']} is not set: {found['rest']}")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}", value, text)


def read_services(variables: Mapping[str, str], state: Path) -> dict[str, Service]:
    """The services of compose.yaml by name, each after those that it needs.

    Raises:
        StackError: a variable that compose.yaml asks for is not set.
    """
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ordered: dict[str, Service] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for needed in services[name].get("depends_on", {}):
                add(needed)
            ordered[name] = _service(name, services[name], list(services), variables, state)

    for name in services:
        add(name)
    return ordered


def _service(
    name: str,
    spec: Mapping[str, Any],
    names: Sequence[str],
    variables: Mapping[str, str],
    state: Path,
) -> Service:
    folders: dict[str, Path] = {}
    for volume in spec.get("volumes", []):
        source, target, *_ = volume.split(":")
        folders[target] = HERE / source if source.startswith(".") else state / "volumes" / source

    def native(value: object) -> str:
        text = interpolate(str(value), variables)
        text = re.sub(rf"(?<=//|.@)({'|'.join(names)})(?=:\d+(?![\w@]))", "127.0.0.1", text)
        for target, folder in folders.items():
            text = text.replace(target, str(folder))
        return text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - what is replaced

    environment: dict[str, str] = {}
    for file in spec.get("env_file", []):
        path = HERE / interpolate(file["path"], variables)
        if path.exists() or file["required"]:
            environment |= read_env_file(path)
    environment |= {key: native(value) for key, value in spec.get("environment", {}).items()}
    test = spec.get("healthcheck", {}).get("test")
    return Service(
        name=name,
        command=tuple(map(native, spec["command"])),
        environment=environment,
        health=tuple(map(native, test[1:])) if test else None,
        keep=spec["restart"] != "no",
        stop_signal=spec.get("stop_signal", "SIGTERM").removeprefix("SIG"),
        grace=int(spec.get("stop_grace_period", "10s").removesuffix("s")),
        folders=tuple(f for f in folders.values() if f.is_relative_to(state)),
    )


# ---- programs of this machine -------------------------------------------------------------------


def search_path() -> str:
    """Where programs are looked for: this Python's own, the `PATH`, and Debian's PostgreSQL."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *map(str, debian)]
    )


def program_file(name: str) -> str:
    """Where a program is; just its name if it is nowhere."""
    return shutil.which(name, path=search_path()) or name


def missing_programs(services: Mapping[str, Service]) -> list[str]:
    """A line for each program that the stack needs and that is not here: which, and how to get it."""
    compose = COMPOSE.read_text()
    versions = {
        name: found[1]
        for name in ("minio", "mc")
        if (found := re.search(rf"github.com/minio/{name}@(\S+)", compose))
    }
    needed = {service.command[0] for service in services.values()} | {"mc"}
    return [
        f"{program} is not installed ({HOW_TO_GET.get(program, '').format(**versions)})"
        for program in sorted(needed)
        if not shutil.which(program, path=search_path())
    ]


def program_environment(service: Service, state: Path) -> dict[str, str]:
    """The whole environment of a service: its own, and where to find programs and to keep files.

    Nothing of the caller's environment reaches it, as nothing would reach a container.
    """
    home = next(iter(service.folders), state / "volumes" / service.name)
    kept = {
        name: os.environ[name] for name in ("LANG", "TZ", "SSL_CERT_FILE") if name in os.environ
    }
    return kept | {"PATH": search_path(), "HOME": str(home), **service.environment}


def execute(service: Service, state: Path) -> None:
    """Become the service's program. Does not return."""
    environment = program_environment(service, state)
    for folder in service.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = list(service.command)
    if command[0] == "postgres":
        _become_postgres(service, environment)
        # The default folder of its socket belongs to the system; nobody here connects by it.
        command += ["-D", str(service.folders[0]), "-c", "unix_socket_directories="]
    os.chdir(HERE.parent)
    os.execve(program_file(command[0]), command, environment)  # noqa: S606 - the commands of compose.yaml


def _become_postgres(service: Service, environment: Mapping[str, str]) -> None:
    """Do what the entry point of PostgreSQL's image does: its user, a new cluster, the database."""
    data = service.folders[0]
    if os.geteuid() == 0:
        # It refuses to run as root.
        user = pwd.getpwnam("postgres")
        os.chown(data, user.pw_uid, user.pw_gid)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    data.chmod(0o700)
    if (data / "PG_VERSION").exists():
        return
    own = service.environment

    def run(*command: str, send: str) -> None:
        subprocess.run(command, env=environment, input=send, text=True, check=True, cwd="/")  # noqa: S603

    run(
        *("initdb", "--pgdata", str(data), "--username", own["POSTGRES_USER"], "--encoding=UTF8"),
        *("--locale=C.UTF-8", "--auth=scram-sha-256", "--pwfile=/dev/stdin"),
        send=own["POSTGRES_PASSWORD"],
    )
    run(
        *("postgres", "--single", "-D", str(data), "postgres"),
        send=f"CREATE DATABASE {own['POSTGRES_DB']};\n",
    )


# ---- supervisord --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The services, the folder that holds all of their files, and where their secrets stand."""

    services: Mapping[str, Service]
    state: Path
    env_file: Path

    @property
    def _configuration(self) -> Path:
        return self.state / "supervisord.conf"

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.state / "log" / f"{name}.log"

    def configure(self) -> None:
        """Write the configuration of supervisord. No secret stands in it: see `execute`."""
        for folder in (self.state, self.state / "volumes", self.state / "log"):
            folder.mkdir(parents=True, exist_ok=True)
            # Passable for PostgreSQL's own user, and no more.
            folder.chmod(0o711)
        options = ["--state", self.state, "--env-file", self.env_file]
        parts = [
            f"[unix_http_server]\nfile={self.state}/supervisor.sock\nchmod=0700\n"
            f"[supervisorctl]\nserverurl=unix://{self.state}/supervisor.sock\n"
            "[supervisord]\n"
            f"logfile={self.log('supervisord')}\npidfile={self.state}/supervisord.pid\n"
            f"childlogdir={self.state}/log\n" + ("user=root\n" if os.geteuid() == 0 else ""),
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        ]
        for service in self.services.values():
            command = [sys.executable, __file__, *options, "exec", service.name]
            parts.append(
                f"[program:{service.name}]\n"
                f"command={shlex.join(map(str, command)).replace('%', '%%')}\n"
                f"autostart=false\nautorestart={str(service.keep).lower()}\n"
                f"startsecs={3 if service.keep else 0}\nstartretries=1000\n"
                f"stopsignal={service.stop_signal}\nstopwaitsecs={service.grace}\nkillasgroup=true\n"
                f"redirect_stderr=true\nstdout_logfile={self.log(service.name)}\n"
                f"stdout_logfile_maxbytes={_LOG_BYTES}\nstdout_logfile_backups=1\n"
            )
        self._configuration.write_text("".join(parts))

    def supervisor(self) -> Any:
        """The running supervisord; `None` if there is none."""
        server = xmlrpc.client.ServerProxy(
            "http://127.0.0.1",
            SupervisorTransport(serverurl=f"unix://{self.state}/supervisor.sock"),
        )
        try:
            server.supervisor.getState()
        except (OSError, xmlrpc.client.Error):
            return None
        return server.supervisor

    def start(self) -> None:
        """Start what is not running, in order, each when what it needs is well.

        Raises:
            StackError: a program is missing, or a service does not become well.
        """
        if missing := missing_programs(self.services):
            raise StackError("\n".join(missing))
        supervisor = self.supervisor()
        self.configure()
        if supervisor:
            added, changed, removed = supervisor.reloadConfig()[0]
            for name in (*changed, *removed):
                supervisor.stopProcessGroup(name)
                supervisor.removeProcessGroup(name)
            for name in (*added, *changed):
                supervisor.addProcessGroup(name)
        else:
            begun = subprocess.run(  # noqa: S603 - its own program and file
                [program_file("supervisord"), "-c", self._configuration],
                cwd=self.state,
                capture_output=True,
                text=True,
                check=False,
            )
            if begun.returncode:
                reason = (begun.stderr.strip() or begun.stdout.strip()).splitlines()[0]
                raise StackError(f"supervisord did not start: {reason}")
            supervisor = _until(self.supervisor, 30, "supervisord does not answer")
        for service in self.services.values():
            self._bring_up(service, supervisor)

    def _bring_up(self, service: Service, supervisor: Any) -> None:
        started = time.monotonic()
        state = supervisor.getProcessInfo(service.name)["statename"]
        if state == "BACKOFF":
            supervisor.stopProcess(service.name)
        if state not in ("RUNNING", "STARTING"):
            supervisor.startProcess(service.name, False)

        def well() -> bool:
            state = supervisor.getProcessInfo(service.name)
            if not service.keep and state["statename"] == "EXITED" and state["exitstatus"] == 0:
                return True
            if state["statename"] in ("FATAL", "EXITED", "BACKOFF"):
                raise StackError(
                    f"{service.name} ended at once: {_last_line(self.log(service.name))}; "
                    f"its whole log: {self.log(service.name)}"
                )
            return service.keep and state["statename"] == "RUNNING" and self.is_well(service)

        late = f"{service.name} is not well; its log: {self.log(service.name)}"
        _until(well, _LONGEST_START, late)
        done = "running" if service.keep else "done"
        print(f"{service.name:14} {done:8} {time.monotonic() - started:5.1f} s", flush=True)

    def is_well(self, service: Service) -> bool:
        """Whether the service's health check succeeds."""
        if not service.health:
            return True
        check = subprocess.run(  # noqa: S603 - the health checks of compose.yaml
            [program_file(service.health[0]), *service.health[1:]],
            env=program_environment(service, self.state),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return check.returncode == 0

    def stop(self) -> None:
        """Stop everything, in the opposite order: a worker whose server is gone stops slowly."""
        supervisor = self.supervisor()
        if not supervisor:
            return
        for name in reversed(list(self.services)):
            if supervisor.getProcessInfo(name)["statename"] in ("RUNNING", "STARTING", "BACKOFF"):
                supervisor.stopProcess(name)
                print(f"{name:14} stopped", flush=True)
        supervisor.shutdown()
        _until(lambda: not self.supervisor(), 30, "supervisord does not end")

    def status(self) -> bool:
        """Print a line for each service; whether all of it is well."""
        supervisor = self.supervisor()
        well = True
        for service in self.services.values():
            state = (
                supervisor.getProcessInfo(service.name)["statename"] if supervisor else "STOPPED"
            )
            good = (
                state == "RUNNING" and self.is_well(service) if service.keep else state == "EXITED"
            )
            well = well and good
            print(f"{service.name:14} {state.lower():9} {'well' if good else 'NOT WELL'}")
        return well


def _until(condition: Any, seconds: float, late: str) -> Any:
    """Ask until the answer is yes, and return that answer.

    Raises:
        StackError: `seconds` went by; the message is `late`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise StackError(late)
        time.sleep(0.3)
    return answer


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


# ---- commands -----------------------------------------------------------------------------------


def make_secrets(path: Path) -> None:
    """Write an env file with a random value for each secret, readable by its owner alone.

    Raises:
        StackError: the file is already there; nothing is overwritten.
    """
    lines = [f"{name}={form.format(secrets.token_hex(24))}" for name, form in SECRETS.items()]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StackError(f"{path} is already there, and was left as it is") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(
            "# The stack's passwords: for this machine alone, never for git.\n"
            "# `set -a; . deployments/.env; set +a` sets them for the prefect command too.\n"
            "PREFECT_API_URL=http://127.0.0.1:4200/api\n" + "\n".join(lines) + "\n"
        )
    print(f"made {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code is 0, or 1 after a line that says why."""
    parser = argparse.ArgumentParser(
        description="Run the stack of compose.yaml on one machine without containers."
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=platformdirs.user_state_path("fmnist") / "stack",
        help="folder for the services' data and logs (default: %(default)s)",
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        default=HERE / ".env",
        help="the stack's variables (default: %(default)s); the environment goes before it",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secrets", help="make the env file with random passwords")
    commands.add_parser("start", help="start what is not running; wait until all of it is well")
    commands.add_parser("stop", help="stop everything, the worker first")
    commands.add_parser("status", help="show each service and its state")
    commands.add_parser("exec", help="become one service's program").add_argument("service")
    given = parser.parse_args(arguments)
    state, env_file = given.state.resolve(), given.env_file.resolve()
    try:
        if given.command == "secrets":
            make_secrets(env_file)
            return 0
        variables = {**(read_env_file(env_file) if env_file.exists() else {}), **os.environ}
        services = read_services(variables, state)
        stack = Stack(services, state, env_file)
        if given.command == "exec":
            execute(services[given.service], state)
        if given.command == "status":
            return 0 if stack.status() else 1
        if given.command == "start":
            stack.start()
        else:
            stack.stop()
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
