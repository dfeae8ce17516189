"""Run the stack of compose.yaml on one machine, without containers.

    python deployments/stack.py secrets   create deployments/.env with random passwords, once
    python deployments/stack.py start     start what is not running, and wait until all is healthy
    python deployments/stack.py status    show each service and its state
    python deployments/stack.py stop      stop everything, the worker first

compose.yaml remains the single source: its commands and environments are used as they are, except
that a service's name becomes 127.0.0.1 and a volume a folder. supervisord (http://supervisord.org)
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from dotenv import dotenv_values
from supervisor.xmlrpc import SupervisorTransport

HERE = Path(__file__).resolve().parent
COMPOSE = HERE / "compose.yaml"
# No secret of the stack has a default. Hexadecimal is safe in a URL, a shell and an env file.
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
_SUPERVISORD = """\
[unix_http_server]
file={state}/supervisor.sock
[supervisorctl]
serverurl=unix://{state}/supervisor.sock
[supervisord]
logfile={state}/log/supervisord.log
pidfile={state}/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
_PROGRAM = """\
[program:{service.name}]
command={command}
autostart=false
autorestart={service.lasting}
startsecs={startsecs}
startretries=1000
stopsignal={service.stop_signal}
stopwaitsecs={service.grace}
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


class StackError(Exception):
    """Why the stack cannot be started, with what to do about it."""


@dataclass(frozen=True)
class Service:
    """One service of compose.yaml, as a plain program of this machine.

    Attributes:
        name: its name in compose.yaml.
        command: program and arguments.
        environment: its own variables.
        health: a command that succeeds when the service is healthy; `None` if it has no check.
        lasting: whether it keeps running; otherwise it does its work and ends.
        stop_signal: the signal that stops it, without "SIG".
        grace: seconds it has to stop before it is killed.
        folders: its volumes.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: tuple[str, ...] | None
    lasting: bool
    stop_signal: str
    grace: int
    folders: tuple[Path, ...]


# ---- compose.yaml -------------------------------------------------------------------------------


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file, taken literally."""
    with path.open() as stream:
        return {n: v or "" for n, v in dotenv_values(stream=stream, interpolate=False).items()}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as compose does.

    Raises:
        StackError: a variable with a message is unset or empty.
    """

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if name is None:
            return "$"
        given = variables.get(name, "")
        if kind == "?" and not given:
            raise StackError(f"{name} is not set: {rest}")
        return given or (rest or "")

    return re.sub(r"\$\$|\$\{(\w+)(?::([-?])([^}]*))?\}", value, text)


def read_services(variables: Mapping[str, str], state: Path) -> dict[str, Service]:
    """The services of compose.yaml by name, each after those it depends on.

    Raises:
        StackError: a required variable is not set.
    """
    specs = yaml.safe_load(COMPOSE.read_text())["services"]
    needs = {name: spec.get("depends_on", {}) for name, spec in specs.items()}
    host = re.compile(rf"(?<=//|.@)({'|'.join(specs)})(?=:\d+(?![\w@]))")

    def service(name: str, spec: Mapping[str, Any]) -> Service:
        folders: dict[str, Path] = {}
        for volume in spec.get("volumes", []):
            source, target, *_ = volume.split(":")
            ours = source.startswith(".")
            folders[target] = HERE / source if ours else state / "volumes" / source

        def native(value: object) -> str:
            text = host.sub("127.0.0.1", interpolate(str(value), variables))
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
            lasting=spec["restart"] != "no",
            stop_signal=spec.get("stop_signal", "SIGTERM").removeprefix("SIG"),
            grace=int(spec.get("stop_grace_period", "10s").removesuffix("s")),
            folders=tuple(f for f in folders.values() if f.is_relative_to(state)),
        )

    return {name: service(name, specs[name]) for name in TopologicalSorter(needs).static_order()}


# ---- programs of this machine -------------------------------------------------------------------


def search_path() -> str:
    """Where to look for programs: beside this Python, on the `PATH`, and in Debian's PostgreSQL."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *map(str, debian)]
    )


def program_file(name: str) -> str:
    """The path of a program, or just its name if it is not installed."""
    return shutil.which(name, path=search_path()) or name


def missing_programs(services: Mapping[str, Service]) -> list[str]:
    """A line for each program that the stack needs and this machine lacks, with how to get it."""
    versions = dict(re.findall(r"github.com/minio/(minio|mc)@(\S+)", COMPOSE.read_text()))
    needed = {service.command[0] for service in services.values()} | {"mc"}
    return [
        f"{program} is not installed ({HOW_TO_GET.get(program, '').format(**versions)})"
        for program in sorted(needed)
        if not shutil.which(program, path=search_path())
    ]


def program_environment(service: Service, state: Path) -> dict[str, str]:
    """The complete environment of a service: its own, plus where programs and its files are.

    As in a container, it inherits nothing else from the caller.
    """
    home = next(iter(service.folders), state / "volumes" / service.name)
    kept = {n: os.environ[n] for n in ("LANG", "TZ", "SSL_CERT_FILE") if n in os.environ}
    return kept | {"PATH": search_path(), "HOME": str(home), **service.environment}


def execute(service: Service, state: Path) -> None:
    """Replace this process by the service's program. Does not return."""
    environment = program_environment(service, state)
    for folder in service.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = list(service.command)
    if command[0] == "postgres":
        _become_postgres(service, environment)
        # Its socket's default folder belongs to the system, and nobody here connects through it.
        command += ["-D", str(service.folders[0]), "-c", "unix_socket_directories="]
    os.chdir(HERE.parent)
    os.execve(program_file(command[0]), command, environment)  # noqa: S606 - the commands of compose.yaml


def _become_postgres(service: Service, environment: Mapping[str, str]) -> None:
    """Do what PostgreSQL's image does first: switch user, create the cluster and the database."""
    data = service.folders[0]
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
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
    """The running or stopped stack.

    Attributes:
        services: by name, each after those it depends on.
        state: the folder for everything that the services write.
        env_file: the file with their secrets.
    """

    services: Mapping[str, Service]
    state: Path
    env_file: Path

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.state / "log" / f"{name}.log"

    def configure(self) -> None:
        """Write the configuration of supervisord. It contains no secret: `execute` reads them."""
        for folder in (self.state, self.state / "volumes", self.state / "log"):
            folder.mkdir(parents=True, exist_ok=True)
            # PostgreSQL's own user must be able to pass through, and no more.
            folder.chmod(0o711)
        parts = [_SUPERVISORD.format(state=self.state)]
        for service in self.services.values():
            options = ["--state", str(self.state), "--env-file", str(self.env_file)]
            command = shlex.join([sys.executable, __file__, *options, "exec", service.name])
            parts.append(
                _PROGRAM.format(
                    service=service,
                    command=command.replace("%", "%%"),
                    startsecs=3 if service.lasting else 0,
                    log=self.log(service.name),
                )
            )
        (self.state / "supervisord.conf").write_text("".join(parts))

    def supervisor(self) -> Any:
        """The interface of the running supervisord; `None` if it is not running."""
        transport = SupervisorTransport(serverurl=f"unix://{self.state}/supervisor.sock")
        server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport)
        try:
            server.supervisor.getState()
        except (OSError, xmlrpc.client.Error):
            return None
        return server.supervisor

    def start(self) -> None:
        """Start what is not running, each service when those it depends on are healthy.

        Raises:
            StackError: a program is missing, or a service does not become healthy.
        """
        if missing := missing_programs(self.services):
            raise StackError("\n".join(missing))
        running = self.supervisor()
        self.configure()
        # An already running supervisord only has to take over what has changed.
        program, *rest = ["supervisorctl", "update"] if running else ["supervisord"]
        done = subprocess.run(  # noqa: S603 - its own program and file
            [program_file(program), "-c", "supervisord.conf", *rest],
            cwd=self.state,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[0]
            raise StackError(f"{program} failed: {reason}")
        supervisor = _wait_for(self.supervisor, 30, "supervisord does not answer")
        for service in self.services.values():
            self._bring_up(service, supervisor)

    def _bring_up(self, service: Service, supervisor: Any) -> None:
        started = time.monotonic()
        state = supervisor.getProcessInfo(service.name)["statename"]
        if state == "BACKOFF":
            supervisor.stopProcess(service.name)
        if state not in ("RUNNING", "STARTING"):
            supervisor.startProcess(service.name, False)

        def is_up() -> bool:
            info = supervisor.getProcessInfo(service.name)
            good = self._is_good(service, info)
            if not good and info["statename"] in ("FATAL", "EXITED", "BACKOFF"):
                log = self.log(service.name)
                raise StackError(f"{service.name} failed: {_last_line(log)}; its log: {log}")
            return good

        late = f"{service.name} does not become healthy; its log: {self.log(service.name)}"
        _wait_for(is_up, _LONGEST_START, late)
        done = "running" if service.lasting else "done"
        print(f"{service.name:14} {done:8} {time.monotonic() - started:5.1f} s", flush=True)

    def _is_good(self, service: Service, info: Mapping[str, Any]) -> bool:
        """Whether a service is running and healthy, or has done its work."""
        if service.lasting:
            return bool(info["statename"] == "RUNNING" and self.is_healthy(service))
        return bool(info["statename"] == "EXITED" and info["exitstatus"] == 0)

    def is_healthy(self, service: Service) -> bool:
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
        """Stop everything in reverse order, because a worker without its server stops slowly."""
        supervisor = self.supervisor()
        if not supervisor:
            return
        for name in reversed(list(self.services)):
            if supervisor.getProcessInfo(name)["statename"] in ("RUNNING", "STARTING", "BACKOFF"):
                supervisor.stopProcess(name)
                print(f"{name:14} stopped", flush=True)
        supervisor.shutdown()
        _wait_for(lambda: not self.supervisor(), 30, "supervisord does not end")

    def status(self) -> bool:
        """Print a line for each service; returns whether all are healthy."""
        supervisor, all_good = self.supervisor(), True
        for name, service in self.services.items():
            info = supervisor.getProcessInfo(name) if supervisor else {"statename": "STOPPED"}
            good = self._is_good(service, info)
            all_good = all_good and good
            state = info["statename"].lower()
            print(f"{name:14} {state:9} {'healthy' if good else 'NOT HEALTHY'}")
        return all_good


def _wait_for(condition: Callable[[], Any], seconds: float, late: str) -> Any:
    """Repeat a question until its answer is true, and return that answer.

    Raises:
        StackError: it was not true within that many seconds; `late` is the message.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise StackError(late)
        time.sleep(0.3)
    return answer


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log")


# ---- commands -----------------------------------------------------------------------------------


def make_secrets(path: Path) -> None:
    """Write an env file with a random value for each secret, readable by its owner only.

    Raises:
        StackError: the file already exists; nothing is overwritten.
    """
    lines = [f"{name}={form.format(secrets.token_hex(24))}" for name, form in SECRETS.items()]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StackError(f"{path} already exists, and was not changed") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(
            "# The stack's passwords: only for this machine, never for git.\n"
            "# `set -a; . deployments/.env; set +a` sets them for the prefect command too.\n"
            "PREFECT_API_URL=http://127.0.0.1:4200/api\n" + "\n".join(lines) + "\n"
        )
    print(f"created {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        help="the stack's variables (default: %(default)s); the environment takes precedence",
    )
    parser.add_argument("command", choices=["secrets", "start", "status", "stop", "exec"])
    parser.add_argument("service", nargs="?", help="for exec, which becomes a service's program")
    options = parser.parse_args(arguments)
    if (options.command == "exec") != (options.service is not None):
        parser.error("exec needs a service, and no other command takes one")
    state, env_file = options.state.resolve(), options.env_file.resolve()
    try:
        if options.command == "secrets":
            make_secrets(env_file)
            return 0
        variables = {**(read_env_file(env_file) if env_file.exists() else {}), **os.environ}
        stack = Stack(read_services(variables, state), state, env_file)
        if options.command == "status":
            return 0 if stack.status() else 1
        if options.command == "start":
            stack.start()
        elif options.command == "stop":
            stack.stop()
        else:
            execute(stack.services[options.service], state)
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
