"""Pulling the champion into a folder."""

from pathlib import Path

import pytest

from fmnist.errors import SettingsError, StoreError
from fmnist.registry.pull import pull_champion
from tests.support.memory import MemoryStore
from tests.support.processes import files_in, no_file_larger_than
from tests.support.registry import ALL, put


def test_a_pulled_champion_is_there_completely_or_not_at_all(tmp_path: Path) -> None:
    """When the disk fills up in the middle, neither the folder nor anything beside it is left."""
    store = MemoryStore()
    put(store, 1, promoted=True, files={"model.keras": b"m" * 100_000})
    (tmp_path / "here").mkdir()
    with no_file_larger_than(50_000), pytest.raises(StoreError, match="cannot be written"):
        pull_champion(store, tmp_path / "here" / "champion")
    assert list((tmp_path / "here").iterdir()) == []
    pulled = pull_champion(store, tmp_path / "here" / "champion")
    assert pulled.new and files_in(pulled.folder) == set(pulled.files) == ALL


def test_a_folder_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that make the same folder at once, the second ends with an error."""
    store = MemoryStore()
    put(store, 1, promoted=True)
    folder = tmp_path / "here" / "champion"
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        folder.mkdir()
        (folder / "mine").write_text("mine")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(StoreError, match="cannot be written"):
        pull_champion(store, folder)
    assert files_in(tmp_path / "here") == {"champion/mine"}


def test_a_link_in_the_folders_place_is_left(tmp_path: Path) -> None:
    """A symbolic link, even one that leads nowhere, is something else in the folder's place."""
    store = MemoryStore()
    put(store, 1, promoted=True)
    (tmp_path / "champion").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="exists already"):
        pull_champion(store, tmp_path / "champion")
    assert (tmp_path / "champion").is_symlink()
