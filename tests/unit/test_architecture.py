"""The rules that keep the structure readable, held by reading the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fmnist"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__"))

# Each layer may import itself and those before it, so imports point one way. What everybody may
# use is the first; `training` and `evaluation` stand side by side.
LAYERS = (
    "",
    "store",
    "data",
    "training",
    "evaluation",
    "registry",
    "report",
    "promotion",
    "orchestration",
    "cli",
)
# Only its records reach beyond `training`, and what loads a published model.
PUBLIC_IN_TRAINING = {"records", "model_file"}

# Where a large package may be imported, below `fmnist`; nowhere else.
HOMES = {
    "keras": {"training"},
    "tensorflow": {"training"},
    "boto3": {"store/s3"},
    "botocore": {"store/s3"},
    "matplotlib": {"report/figures"},
    "seaborn": {"report/figures"},
    "sklearn": {"data/split", "evaluation/metrics"},
    "pooch": {"data/cache"},
    "httpx": {"data/sources", "cli/doctor", "orchestration"},
    "prefect": {"orchestration"},
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def layer_of(name: str) -> str:
    return name.rpartition("/")[0]


def imported(path: Path, *, by_functions: bool = True) -> set[str]:
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if by_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def used_modules(path: Path) -> set[str]:
    """The modules of the package that a module imports, by their names below it."""
    known = {name_of(module) for module in MODULES}
    names = {name.removeprefix("fmnist.").replace(".", "/") for name in imported(path)}
    return names & known


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    """A module imports only from its own layer and those before it."""
    layer = layer_of(name_of(path))
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    assert {layer_of(name) for name in used_modules(path)} <= set(allowed)


def test_training_and_evaluation_stand_side_by_side() -> None:
    """Neither knows the other, and nothing else of training is used outside it but the flow's call."""
    for path in MODULES:
        used = {name for name in used_modules(path) if layer_of(name) == "training"}
        if layer_of(name_of(path)) == "evaluation":
            assert not used
        elif layer_of(name_of(path)) != "training":
            assert {name.rpartition("/")[2] for name in used} <= PUBLIC_IN_TRAINING


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_two_modules_import_each_other(path: Path) -> None:
    """Inside a layer imports point one way too."""
    for name in used_modules(path):
        assert name_of(path) not in used_modules(PACKAGE / f"{name}.py")


def test_a_folder_is_described_in_its_init_file_which_has_no_code() -> None:
    """One sentence about the folder, and nothing that an import would run."""
    for layer in LAYERS[1:]:
        (docstring,) = ast.parse((PACKAGE / layer / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr)


def test_the_package_itself_imports_nothing_but_types() -> None:
    """What it offers is imported when it is called."""
    used = imported(PACKAGE / "__init__.py", by_functions=False)
    assert {name.partition(".")[0] for name in used} <= {"typing"}


@pytest.mark.parametrize("package", HOMES)
def test_large_packages_are_imported_only_where_they_belong(package: str) -> None:
    """Each stays in its place, so that it can be replaced there."""
    users = {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert not {user for user in users if not {user, layer_of(user)} & HOMES[package]}


def test_the_benchmarks_do_not_import_prefect() -> None:
    """Only flows/, deployments/ and the orchestration layer know the orchestrator."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not any(name.startswith("prefect") for name in imported(path))


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
    heavy = HOMES["keras"] | HOMES["prefect"]
    names = ", ".join(
        f"fmnist.{name_of(path).replace('/', '.')}"
        for path in MODULES
        if layer_of(name_of(path)) not in heavy
    )
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
