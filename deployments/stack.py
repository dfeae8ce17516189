"""Run the stack of compose.yaml on one machine, without containers.

    python deployments/stack.py secrets   create deployments/.env with random passwords, once
    python deployments/stack.py start     start what is not running or was configured differently
    python deployments/stack.py restart   restart everything, or one SERVICE
    python deployments/stack.py status    show each service and its state
    python deployments/stack.py stop      stop everything, the worker first
    python deployments/stack.py env       print what the job sees, for `eval "$(...)"` in a shell

`start` and `restart` let the worker finish its job before they restart it, unless `--now` is given.

compose.py reads the services from compose.yaml; supervisord (http://supervisord.org) keeps them
running.
"""

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil
from compose import (
    HERE,
    INHERITED,
    Service,
    StackError,
    missing_programs,
    read_env_file,
    read_services,
    used_variables,
)
from supervisor.xmlrpc import SupervisorTransport

# No secret of the stack has a default. Hexadecimal is safe in a URL, a shell and an env file.
SECRETS = {
    "POSTGRES_PASSWORD": "{}",
    "PREFECT_API_AUTH_STRING": "admin:{}",
    "MINIO_ROOT_USER": "minio-{:.8}",
    "MINIO_ROOT_PASSWORD": "{}",
    "JOB_ACCESS_KEY": "job-{:.16}",
    "JOB_SECRET_KEY": "{}",
}
_ACTIVE = ("RUNNING", "STARTING", "BACKOFF")
_LONGEST_START = 180.0
_LONGEST_CHECK = 60.0
_VARIABLES = "variables.json"
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
environment=STACK_CONFIGURATION="{service.digest}"
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


def execute(service: Service) -> None:
    """Replace this process by the service's program. Does not return."""
    for folder in service.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = list(service.command)
    if command[0] == "postgres":
        command = [sys.executable, str(HERE / "postgres.py"), str(service.folders[0]), *command]
    os.chdir(HERE.parent)
    os.execvpe(command[0], command, service.environment)  # noqa: S606 - the commands of compose.yaml


def closed_folder(path: Path, user: str) -> Path | None:
    """The topmost folder of a path that keeps this user out; `None` if none does."""
    for folder in (*reversed(path.parents), path):
        test = ["test", "-x", str(folder)]
        if subprocess.run(test, user=user, group=user, extra_groups=[], cwd="/").returncode:  # noqa: S603
            return folder
    return None


def print_environment(worker: Service) -> None:
    """Print shell commands that set what a job of this worker sees: addresses, keys and settings."""
    own = ("PATH", "HOME", "PREFECT_WORKER_WEBSERVER_PORT", *INHERITED)
    for name, value in worker.environment.items():
        if name not in own:
            print(f"export {name}={shlex.quote(value)}")


@dataclass(frozen=True)
class Stack:
    """The running or stopped stack.

    Attributes:
        services: by name, each after those it depends on.
        state: the folder for everything that the services write.
        variables: those that compose.yaml uses, secrets among them.
    """

    services: Mapping[str, Service]
    state: Path
    variables: Mapping[str, str]

    def configure(self) -> None:
        """Write the configuration of supervisord, and the variables in a file for its owner only.

        supervisord itself keeps the environment that it was started with, so a service that it
        starts later reads that file.
        """
        for folder in (self.state, self.state / "volumes", self.state / "log"):
            folder.mkdir(parents=True, exist_ok=True)
            # PostgreSQL's own user must be able to pass through, and no more.
            folder.chmod(0o711)
        parts = [_SUPERVISORD.format(state=self.state)]
        file = self.state / _VARIABLES
        file.touch(0o600)
        file.write_text(json.dumps(self.variables))
        options = ["--state", str(self.state)]
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

    def start(self, *, now: bool = False) -> None:
        """Start what is not running, each service when those it depends on are healthy.

        What runs with another configuration is restarted; the worker after its job, unless `now`.
        """
        if missing := missing_programs(self.services):
            raise StackError("\n".join(missing))
        self.configure()
        if os.geteuid() == 0 and (closed := closed_folder(self.state / "volumes", "postgres")):
            raise StackError(
                f"PostgreSQL runs as the user postgres, who cannot pass through {closed}: give every "
                f"command `--state /var/lib/fmnist-stack`, or run `chmod o+x {closed}`"
            )
        if supervisor := self.supervisor():
            self._apply_changes(supervisor, now)
        else:
            command = [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
            done = subprocess.run(command, cwd=self.state, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[0]
                raise StackError(f"supervisord failed: {reason}")
            supervisor = _wait_for(self.supervisor, 30, "supervisord does not answer")
        for service in self.services.values():
            _bring_up(service, supervisor)

    def _apply_changes(self, supervisor: Any, now: bool) -> None:
        [[added, changed, removed]] = supervisor.reloadConfig()
        known = [*reversed(list(self.services)), *removed]
        for name in [name for name in known if name in (*changed, *removed)]:
            _end(name, supervisor, now=now)
            supervisor.removeProcessGroup(name)
        for name in (*changed, *added):
            supervisor.addProcessGroup(name)

    def stop(self, *names: str, now: bool = True) -> None:
        """Stop these services, or everything, the worker first: without its server it stops slowly."""
        supervisor = self.supervisor()
        if not supervisor:
            return
        for name in names or reversed(list(self.services)):
            _end(name, supervisor, now=now)
        if not names:
            supervisor.shutdown()
            _wait_for(lambda: not self.supervisor(), 30, "supervisord does not end")

    def status(self) -> bool:
        """Print a line for each service; returns whether all are healthy."""
        supervisor, all_good = self.supervisor(), True
        for name, service in self.services.items():
            info = process_info(name, supervisor)
            good = is_good(service, info)
            all_good = all_good and good
            # A stopped service is not ill.
            health = "" if info["statename"] == "STOPPED" else "healthy" if good else "NOT HEALTHY"
            print(f"{name:14} {info['statename'].lower():9} {health}".rstrip())
        return all_good


def process_info(name: str, supervisor: Any) -> Mapping[str, Any]:
    """What supervisord knows about a service; one that it does not know is stopped."""
    try:
        return dict(supervisor.getProcessInfo(name)) if supervisor else {"statename": "STOPPED"}
    except xmlrpc.client.Fault:
        return {"statename": "STOPPED"}


def is_good(service: Service, info: Mapping[str, Any]) -> bool:
    """Whether a service is running and healthy, or has done its work, by supervisord's `info`."""
    if not service.lasting:
        return bool(info["statename"] == "EXITED" and info["exitstatus"] == 0)
    running = bool(info["statename"] == "RUNNING")
    if not running or not service.health:
        return running
    environment = service.environment
    try:
        check = subprocess.run(  # noqa: S603
            service.health, env=environment, capture_output=True, timeout=_LONGEST_CHECK
        )
    except subprocess.TimeoutExpired:
        return False
    return check.returncode == 0


def _end(name: str, supervisor: Any, *, now: bool) -> None:
    info = process_info(name, supervisor)
    if info["statename"] not in _ACTIVE:
        return
    if name == "worker" and info["statename"] == "RUNNING" and not now:
        _wait_for_jobs(info["pid"])
    supervisor.stopProcess(name)
    print(f"{name:14} stopped", flush=True)


def _wait_for_jobs(pid: int) -> None:
    """Wait until the worker's process has no child but Prefect's worker, whose children are jobs."""
    said = False
    while psutil.pid_exists(pid) and len(psutil.Process(pid).children(recursive=True)) > 1:
        if not said:
            print("worker         waits for its job to end; --now would stop the job", flush=True)
        said = True
        time.sleep(0.5)


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
    parser.add_argument("--now", action="store_true", help="do not wait for the worker's job")
    commands = ["secrets", "start", "restart", "status", "stop", "env", "exec"]
    parser.add_argument("command", choices=commands)
    parser.add_argument(
        "service", nargs="?", help="for restart; for exec, which becomes its program"
    )
    options = parser.parse_args(arguments)
    name = options.service
    if (options.command == "exec" and not name) or (
        name and options.command not in ("exec", "restart")
    ):
        parser.error("exec needs a service, restart may have one, and no other command takes one")
    state, env_file = options.state.resolve(), options.env_file.resolve()
    try:
        if options.command == "secrets":
            make_secrets(env_file)
            return 0
        if options.command == "exec":
            variables = json.loads((state / _VARIABLES).read_text())
        else:
            variables = used_variables({**read_env_file(env_file), **os.environ})
        services = read_services(variables, state)
        if name and name not in services:
            raise StackError(f"{name} is no service; there are {', '.join(services)}")
        stack = Stack(services, state, variables)
        match options.command:
            case "status":
                return 0 if stack.status() else 1
            case "start":
                stack.start(now=options.now)
            case "restart":
                stack.stop(*([name] if name else []), now=options.now)
                stack.start(now=options.now)
            case "stop":
                stack.stop()
            case "env":
                print_environment(services["worker"])
            case _:
                execute(services[name])
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except xmlrpc.client.Fault as error:
        print(f"stack: supervisord refused: {error.faultString}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
