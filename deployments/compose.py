"""The services of compose.yaml as plain programs of this machine.

Commands and environments are used as they are, except that a service's name becomes 127.0.0.1 and a
volume a folder. Format: https://github.com/compose-spec/compose-spec/blob/main/spec.md
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

HERE = Path(__file__).resolve().parent
COMPOSE = HERE / "compose.yaml"
# What a service gets from whoever starts it.
INHERITED = ("LANG", "TZ", "SSL_CERT_FILE")


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

    @property
    def digest(self) -> str:
        """Changes with what is configured, but not with the shell that the stack is started from."""
        own = {n: v for n, v in self.environment.items() if n not in ("PATH", *INHERITED)}
        values = self.command, sorted(own.items()), self.health, self.stop_signal, self.grace
        return hashlib.sha256(repr(values).encode()).hexdigest()


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file, taken literally; none if there is no file."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def used_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that compose.yaml uses."""
    names = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    return {name: value for name, value in variables.items() if name in names}


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
        environment = {n: os.environ[n] for n in INHERITED if n in os.environ}
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
