"""The record of a run's environment, with the commit that git names."""

import getpass
import importlib.metadata
import socket
import subprocess
from pathlib import Path

import pytest

from fmnist.environment import _commit, describe_environment, precision_here
from fmnist.registry.records import to_json
from tests.support.processes import ROOT


def test_the_versions_are_those_installed() -> None:
    packages = describe_environment().packages
    assert packages["tensorflow"] == importlib.metadata.version("tensorflow")
    assert "not installed" not in packages.values()


def test_a_checkout_that_was_never_installed_records_the_main_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def requires(package: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    packages = describe_environment().packages
    assert packages["keras"] == importlib.metadata.version("keras")


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    """It is marked if files were edited since; a folder outside a checkout has none."""
    path = tmp_path / "environment.py"
    path.write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    assert _commit(tmp_path) is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert _commit(tmp_path) is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = _commit(tmp_path)
    assert commit and len(commit) == 40
    path.write_text("2")
    assert _commit(tmp_path) == f"{commit}+changes"


def test_without_git_the_commit_comes_from_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SOURCE_COMMIT` is used outside a checkout, and only there."""
    monkeypatch.setenv("SOURCE_COMMIT", "")
    assert _commit(tmp_path) is None
    monkeypatch.setenv("SOURCE_COMMIT", "abc")
    assert _commit(tmp_path) == "abc"
    assert _commit(ROOT / "fmnist") != "abc"


def test_nothing_personal_is_recorded() -> None:
    written = to_json(describe_environment()).decode()
    assert socket.gethostname() not in written
    assert str(Path.home()) + "/" not in written
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in written


@pytest.mark.parametrize(
    ("flags", "auto"),
    [("fpu avx512_bf16 amx_bf16 amx_tile", "bfloat16"), ("fpu avx512_bf16", "float32")],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_in_it(
    flags: str, auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVX512's bfloat16 is no faster than float32; a precision that is named is kept."""
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\nflags\t\t: {flags}\n")
    assert precision_here("auto") == auto
    assert [precision_here(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_without_knowing_the_processor_float32_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert precision_here("auto") == "float32"
