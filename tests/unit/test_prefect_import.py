"""What can be said of Prefect's settings without importing Prefect."""

from pathlib import Path

import pytest

from fmnist.prefect_import import may_name_a_server


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and an environment that names neither a server nor a profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))


def test_without_any_of_its_files_no_server_is_named() -> None:
    assert not may_name_a_server()


def test_an_empty_address_names_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert not may_name_a_server()


def test_files_that_are_about_something_else_name_no_server(tmp_path: Path) -> None:
    """Settings of this package, another project's metadata, a profile without an address."""
    (tmp_path / ".env").write_text("FMNIST_STORE__URL=store\n")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["prefect"]\n')
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profiles.toml").write_text('active = "ephemeral"\n')
    assert not may_name_a_server()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("home/profiles.toml", '[profiles.own]\nPREFECT_API_URL = "http://server/api"\n'),
        (".env", "PREFECT_API_URL=http://server/api\n"),
        ("prefect.toml", '[api]\nurl = "http://server/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://server/api"\n'),
        (".env", b"\xff"),
    ],
)
def test_whatever_prefect_may_read_an_address_from_counts(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    """In doubt too: a file that cannot be read is for Prefect to complain about."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert may_name_a_server()


def test_an_address_in_the_environment_names_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    assert may_name_a_server()
