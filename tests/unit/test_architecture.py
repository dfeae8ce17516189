"""The rules that keep the structure readable, checked by reading the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fmnist"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__"))

# Each layer may import itself and those before it, so imports point one way. The first is what
# every module may use; `training` and `evaluation` do not import each other.
LAYERS = (
    *("", "store", "data", "training", "evaluation"),
    *("registry", "report", "promotion", "orchestration", "cli"),
)
# Outside `training`, only its records are used, and what loads a published model.
PUBLIC_IN_TRAINING = {"records", "model_file"}

# The only places below `fmnist` that may import a large package.
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

UNIT_TESTS = sorted((ROOT / "tests" / "unit").rglob("test_*.py"))
# Helpers and fixtures of the tests that start a program.
STARTS_A_PROCESS = {"run_program", "s3_server", "minio", "minio_server", "bucket", "laboratory"}


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


def test_training_and_evaluation_are_independent() -> None:
    """Neither imports the other, and only two modules of `training` are used by other layers."""
    for path in MODULES:
        used = {name for name in used_modules(path) if layer_of(name) == "training"}
        if layer_of(name_of(path)) == "evaluation":
            assert not used
        elif layer_of(name_of(path)) != "training":
            assert {name.rpartition("/")[2] for name in used} <= PUBLIC_IN_TRAINING


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_two_modules_import_each_other(path: Path) -> None:
    """Within a layer, imports point one way too."""
    for name in used_modules(path):
        assert name_of(path) not in used_modules(PACKAGE / f"{name}.py")


def test_an_init_file_describes_its_folder_and_has_no_code() -> None:
    """It has one sentence about the folder, and nothing that an import would run."""
    for layer in LAYERS[1:]:
        (docstring,) = ast.parse((PACKAGE / layer / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr)


def test_every_folder_reaches_the_image() -> None:
    """Builders do not agree on wildcards for folders, so each is named."""
    listed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!fmnist/{layer}/*.py" for layer in LAYERS[1:]} <= set(listed)


def test_the_package_itself_imports_nothing_but_types() -> None:
    """What its functions need is imported when they are called."""
    used = imported(PACKAGE / "__init__.py", by_functions=False)
    assert {name.partition(".")[0] for name in used} <= {"typing"}


@pytest.mark.parametrize("package", HOMES)
def test_large_packages_are_imported_only_where_they_belong(package: str) -> None:
    """Each can be replaced in one place."""
    users = {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert not {user for user in users if not {user, layer_of(user)} & HOMES[package]}


def test_the_benchmarks_do_not_import_prefect() -> None:
    """Only flows, deployments and the orchestration layer know the orchestrator."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not any(name.startswith("prefect") for name in imported(path))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_unit_tests_need_neither_tensorflow_nor_a_process(path: Path) -> None:
    """They stay quick: what starts a program or trains a network is an integration test."""
    names = imported(path)
    packages = {name.partition(".")[0] for name in names}
    assert not packages & {"keras", "tensorflow", "subprocess"}
    assert not {name.rpartition(".")[2] for name in names} & STARTS_A_PROCESS
    # The parameters of tests are fixtures.
    nodes = ast.walk(ast.parse(path.read_text()))
    assert not {node.arg for node in nodes if isinstance(node, ast.arg)} & STARTS_A_PROCESS
