"""The rules that keep the structure readable, held by reading the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "fmnist").glob("*.py"))

# Each module may import those that stand before it, so imports point one way.
ORDER = (
    "errors",
    "config",
    "cli",
    "progress",
    "dataset",
    "environment",
    "store",
    "fetch",
    "preprocess",
    "history",
    "model",
    "training",
    "evaluation",
    "comparison",
    "gate",
    "registry",
    "judging",
    "figures",
    "report",
    "publication",
    "upkeep",
    "doctor",
    "console",
    "commands",
)

# Where a large package may be imported, below `fmnist`; nowhere else.
HOMES = {
    "keras": {"model", "training"},
    "tensorflow": {"training"},
    "boto3": {"store"},
    "botocore": {"store"},
    "matplotlib": {"figures"},
    "seaborn": {"figures"},
    "sklearn": {"preprocess", "evaluation"},
    "httpx": {"fetch", "doctor"},
    "prefect": {"doctor"},
}


def imported(path: Path, *, by_functions: bool = True) -> set[str]:
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if by_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_its_place_in_the_order() -> None:
    """A new module is given its place before it can import or be imported."""
    assert {path.stem for path in MODULES} == {*ORDER, "__init__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_one_way(path: Path) -> None:
    """A module imports only modules that stand before it."""
    used = {
        name.split(".")[1]
        for name in imported(path)
        if name.startswith("fmnist.") and name.split(".")[1] in ORDER
    }
    assert used <= set(ORDER if path.stem.startswith("__") else ORDER[: ORDER.index(path.stem)])


def test_the_package_itself_imports_nothing_but_types() -> None:
    """What it offers is imported when it is called."""
    used = imported(ROOT / "fmnist" / "__init__.py", by_functions=False)
    assert {name.partition(".")[0] for name in used} <= {"typing"}


@pytest.mark.parametrize("package", HOMES)
def test_large_packages_are_imported_only_where_they_belong(package: str) -> None:
    """Each stays in its one or two modules, so that it can be replaced there."""
    users = {
        path.stem
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert users <= HOMES[package]


def test_only_the_flow_imports_prefect() -> None:
    """Nothing but flows/ knows the orchestrator; the doctor reads its settings."""
    modules = [path for path in MODULES if path.stem != "doctor"]
    assert {n for n in imported(ROOT / "fmnist" / "doctor.py") if n.startswith("prefect")} == {
        "prefect.settings",
        "prefect.settings.Settings",
    }
    others = [*modules, *(ROOT / "benchmarks").glob("*.py")]
    assert not [path for path in others if any(n.startswith("prefect") for n in imported(path))]


def run_python(program: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.strip()


def test_importing_the_package_imports_neither_tensorflow_nor_prefect(tmp_path: Path) -> None:
    """`import fmnist` is light."""
    program = "import sys, fmnist; print([n for n in ('tensorflow', 'keras', 'prefect') if n in sys.modules])"
    assert run_python(program, tmp_path) == "[]"


def test_importing_any_module_has_no_effect(tmp_path: Path) -> None:
    """No environment, folder, logger, thread or seed is touched by importing every module."""
    names = ", ".join(f"fmnist.{name}" for name in ORDER if name not in ("model", "training"))
    program = f"""
import logging, os, random, threading
import numpy
import pydantic_settings, platformdirs, rich.progress, boto3, httpx, sklearn.metrics
import scipy.stats, seaborn, matplotlib.figure, sklearn.model_selection
def state():
    return (dict(os.environ), random.getstate(), str(numpy.random.get_state()),
            threading.active_count(), logging.getLogger().handlers, os.listdir())
before = state()
import {names}
print(state() == before)
"""
    assert run_python(program, tmp_path) == "True"
