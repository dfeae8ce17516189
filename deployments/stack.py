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
stdout_logfile={state}/log/{service.name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


class StackError(Exception):
    """Why the stack cannot be started, and what to do about it. Everything here may raise it."""


@dataclass(frozen=True)
class Service:
    """One service of compose.yaml, as a plain program of this machine.

    Attributes:
        name: its name in compose.yaml.
        command: program and arguments.
        environment: all of its variables; as in a container, it inherits nothing from the caller.
        health: a command that succeeds when the service is healthy; empty if it has no check.
        lasting: whether it keeps running; otherwise it does its work and ends.
        stop_signal: the signal that stops it, without "SIG".
        grace: seconds it has to stop before it is killed.
        folders: its volumes.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: tuple[str, ...]
    lasting: bool
    stop_signal: str
    grace: int
    folders: tuple[Path, ...]


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file, taken literally; none if there is no file."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups(default="")
        if not name:
            return "$"
        given = variables.get(name, "")
        if kind == "?" and not given:
            raise StackError(f"{name} is not set: {rest}")
        return given or rest

    return re.sub(r"\$\$|\$\{(\w+)(?::([-?])([^}]*))?\}", value, text)


def read_services(variables: Mapping[str, str], state: Path) -> dict[str, Service]:
    """The services of compose.yaml by name, each after those it depends on."""
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

        own = tuple(folder for folder in folders.values() if folder.is_relative_to(state))
        home = own[0] if own else state / "volumes" / name
        environment = {n: os.environ[n] for n in ("LANG", "TZ", "SSL_CERT_FILE") if n in os.environ}
        for file in spec.get("env_file", []):
            environment |= read_env_file(HERE / interpolate(file["path"], variables))
        # After the env files: a PATH of theirs would hide this Python and its programs.
        environment |= {"PATH": search_path(), "HOME": str(home)}
        environment |= {key: native(value) for key, value in spec.get("environment", {}).items()}
        return Service(
            name=name,
            command=tuple(map(native, spec["command"])),
            environment=environment,
            health=tuple(map(native, spec.get("healthcheck", {}).get("test", [])[1:])),
            lasting=spec["restart"] != "no",
            stop_signal=spec.get("stop_signal", "SIGTERM").removeprefix("SIG"),
            grace=int(spec.get("stop_grace_period", "10s").removesuffix("s")),
            folders=own,
        )

    return {name: service(name, specs[name]) for name in TopologicalSorter(needs).static_order()}


def search_path() -> str:
    """Where to look for programs: beside this Python, on the `PATH`, and in Debian's PostgreSQL."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *map(str, debian)]
    )


def missing_programs(services: Mapping[str, Service]) -> list[str]:
    """A line for each program that the stack needs and this machine lacks, with how to get it."""
    how = {"postgres": "Debian, Ubuntu: apt install postgresql", "prefect": "make setup"}
    for command, program in re.findall(r"(go install \S+/(\w+)@\S+)", COMPOSE.read_text()):
        how[program] = command
    needed = {service.command[0] for service in services.values()} | {"mc"}
    return [
        f"{program} is not installed ({how.get(program, '')})"
        for program in sorted(needed)
        if not shutil.which(program, path=search_path())
    ]


def execute(service: Service) -> None:
    """Replace this process by the service's program. Does not return."""
    for folder in service.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = list(service.command)
    if command[0] == "postgres":
        _become_postgres(service)
        # Its socket's default folder belongs to the system, and nobody here connects through it.
        command += ["-D", str(service.folders[0]), "-c", "unix_socket_directories="]
    os.chdir(HERE.parent)
    os.execvpe(command[0], command, service.environment)  # noqa: S606 - the commands of compose.yaml


def _become_postgres(service: Service) -> None:
    """Do what PostgreSQL's image does first: switch user, create the cluster and the database."""
    data, own = service.folders[0], service.environment
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
    initdb = ["initdb", "--username", own["POSTGRES_USER"], "--encoding=UTF8", "--locale=C.UTF-8"]
    for command, send in (
        ([*initdb, "--auth=scram-sha-256", "--pwfile=/dev/stdin"], own["POSTGRES_PASSWORD"]),
        (["postgres", "--single", "postgres"], f"CREATE DATABASE {own['POSTGRES_DB']};\n"),
    ):
        environment = {**own, "PGDATA": str(data)}
        subprocess.run(command, env=environment, input=send, text=True, check=True, cwd="/")  # noqa: S603


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

    def configure(self) -> None:
        """Write the configuration of supervisord. It contains no secret: `execute` reads them."""
        for folder in (self.state, self.state / "volumes", self.state / "log"):
            folder.mkdir(parents=True, exist_ok=True)
            # PostgreSQL's own user must be able to pass through, and no more.
            folder.chmod(0o711)
        parts = [_SUPERVISORD.format(state=self.state)]
        options = ["--state", str(self.state), "--env-file", str(self.env_file)]
        for service in self.services.values():
            command = shlex.join([sys.executable, __file__, *options, "exec", service.name])
            values = {"command": command.replace("%", "%%"), "startsecs": 3 * service.lasting}
            parts.append(_PROGRAM.format(service=service, state=self.state, **values))
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
        """Start what is not running, each service when those it depends on are healthy."""
        if missing := missing_programs(self.services):
            raise StackError("\n".join(missing))
        # A supervisord that is already running only has to take over what has changed.
        program, *rest = ["supervisorctl", "update"] if self.supervisor() else ["supervisord"]
        self.configure()
        command = [sys.executable, "-m", f"supervisor.{program}", "-c", "supervisord.conf", *rest]
        done = subprocess.run(command, cwd=self.state, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[0]
            raise StackError(f"{program} failed: {reason}")
        supervisor = _wait_for(self.supervisor, 30, "supervisord does not answer")
        for service in self.services.values():
            _bring_up(service, supervisor)

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
            good = is_good(service, info)
            all_good = all_good and good
            print(f"{name:14} {info['statename'].lower():9} {'healthy' if good else 'NOT HEALTHY'}")
        return all_good


def is_good(service: Service, info: Mapping[str, Any]) -> bool:
    """Whether a service is running and healthy, or has done its work, by supervisord's `info`."""
    if not service.lasting:
        return bool(info["statename"] == "EXITED" and info["exitstatus"] == 0)
    running = bool(info["statename"] == "RUNNING")
    if not running or not service.health:
        return running
    environment = service.environment
    check = subprocess.run(service.health, env=environment, capture_output=True, timeout=60)  # noqa: S603
    return check.returncode == 0


def _bring_up(service: Service, supervisor: Any) -> None:
    started = time.monotonic()
    before = supervisor.getProcessInfo(service.name)
    log = Path(before["logfile"])
    if before["statename"] == "BACKOFF":
        supervisor.stopProcess(service.name)
    if before["statename"] not in ("RUNNING", "STARTING"):
        supervisor.startProcess(service.name, False)

    def is_up() -> bool:
        info = supervisor.getProcessInfo(service.name)
        good = is_good(service, info)
        if not good and info["statename"] in ("FATAL", "EXITED", "BACKOFF"):
            written = log.read_text(errors="replace").strip() if log.exists() else ""
            reason = written.splitlines()[-1] if written else "it wrote no log"
            raise StackError(f"{service.name} failed: {reason}; its log: {log}")
        return good

    late = f"{service.name} does not become healthy; its log: {log}"
    _wait_for(is_up, _LONGEST_START, late)
    done = "running" if service.lasting else "done"
    print(f"{service.name:14} {done:8} {time.monotonic() - started:5.1f} s", flush=True)


def _wait_for(condition: Callable[[], Any], seconds: float, late: str) -> Any:
    """Repeat a question until its answer is true, and return it; after `seconds`, fail with `late`."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise StackError(late)
        time.sleep(0.3)
    return answer


def make_secrets(path: Path) -> None:
    """Write a new env file with a random value for each secret, readable by its owner only."""
    try:
        path.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise StackError(f"{path} already exists, and was not changed") from None
    lines = [
        "# The stack's passwords: only for this machine, never for git.",
        "# `set -a; . deployments/.env; set +a` sets them for the prefect command too.",
        "PREFECT_API_URL=http://127.0.0.1:4200/api",
        *(f"{name}={form.format(secrets.token_hex(24))}" for name, form in SECRETS.items()),
    ]
    path.write_text("\n".join(lines) + "\n")
    print(f"created {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 after a line that says what is wrong."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    folder = platformdirs.user_state_path("fmnist") / "stack"
    said = "folder for the services' data and logs (default: %(default)s)"
    parser.add_argument("--state", type=Path, default=folder, help=said)
    said = "the stack's variables (default: %(default)s); the environment takes precedence"
    parser.add_argument("--env-file", type=Path, default=HERE / ".env", help=said)
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
        services = read_services({**read_env_file(env_file), **os.environ}, state)
        stack = Stack(services, state, env_file)
        match options.command:
            case "status":
                return 0 if stack.status() else 1
            case "start":
                stack.start()
            case "stop":
                stack.stop()
            case _:
                execute(services[options.service])
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
