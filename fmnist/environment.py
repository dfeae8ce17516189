"""What a run is computed with: the code, the machine and the packages."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# Recorded even from a checkout that was never installed, which declares no requirements.
_MAIN = ("fmnist", "tensorflow", "keras", "numpy", "prefect")
# The same package under the names of its other builds, as in the image.
_OTHER_BUILDS = {"tensorflow": ("tensorflow-cpu",)}


@dataclass(frozen=True)
class Environment:
    """What a run was computed with.

    Attributes:
        commit: the git commit of the code, with `+changes` if files differ from it; `None` if
            unknown.
        python: the version of Python.
        platform: operating system, its version and the machine type.
        processor: the processor's model.
        cores: number of logical processors.
        packages: version of this package and of each that it needs, or "not installed".
        source: a digest of this package's source files; empty in older records.
    """

    commit: str | None
    python: str
    platform: str
    processor: str
    cores: int
    packages: Mapping[str, str]
    source: str = ""


def describe_environment() -> Environment:
    """Describe this process's environment, without host name, user name or paths."""
    return Environment(
        commit=_commit(Path(__file__).parent),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        packages={name: installed(name) or "not installed" for name in (*_MAIN, *requirements())},
        source=_digest_of_source(Path(__file__).parent),
    )


def requirements() -> Mapping[str, SpecifierSet]:
    """The bounds that the package declares for each package that it needs."""
    try:
        declared = importlib.metadata.requires("fmnist") or ()
    except importlib.metadata.PackageNotFoundError:
        declared = ()
    return {found.name: found.specifier for found in map(Requirement, declared)}


def installed(package: str) -> str | None:
    """The version of a package, or of another build of it, if either is installed."""
    for name in (package, *_OTHER_BUILDS.get(package, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def precision_here(wanted: str) -> str:
    """The precision to train in: for `auto`, that in which this processor is fastest."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if "amx_bf16" in _cpuinfo("flags").split() else "float32"


def _digest_of_source(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _commit(folder: Path) -> str | None:
    """The commit of the checkout that contains `folder`; without one, the value of `SOURCE_COMMIT`.

    An image has no git: that variable holds the commit it was built from.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        # An installed package may lie inside the repository of another project.
        if git("ls-files", Path(__file__).name):
            return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    except (OSError, subprocess.SubprocessError):
        pass
    return os.environ.get("SOURCE_COMMIT") or None


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str:
    """What Linux says about the first processor under this name; empty if it says nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
