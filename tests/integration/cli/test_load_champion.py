"""The champion in one line: `fmnist.load_champion`."""

import errno
import tempfile
from pathlib import Path

import pytest

import fmnist
from fmnist.errors import DamagedError, StoreError
from fmnist.store.base import Store
from fmnist.store.folder import FolderStore
from tests.integration.cli.conftest import (
    LABELS,
    Put,
    World,
    images,
    overwrite,
    put_networks,
    run_id,
)
from tests.support.processes import run_program


def test_the_champion_is_loaded_in_one_line(networks: Store, world: World) -> None:
    predicted = fmnist.load_champion(networks.url).predict(images(0), verbose=0).argmax(axis=1)
    assert (predicted == LABELS).mean() == world.good.evaluation.accuracy


@pytest.mark.parametrize(
    ("place", "error", "part"),
    [
        ("nowhere", "StoreError", "no run was promoted yet"),
        ("s3://KEY:TOPSECRET@bucket", "SettingsError", "must not contain credentials"),
        ("http://host", "SettingsError", "must be a folder or s3://bucket/prefix"),
        ("", "SettingsError", "must not be empty"),
    ],
)
def test_a_champion_that_is_not_there_is_an_error(place: str, error: str, part: str) -> None:
    """A store without champion, or what is no store, is told in one line without secrets."""
    with pytest.raises(Exception) as caught:
        fmnist.load_champion(place)
    assert type(caught.value).__name__ == error
    assert part in str(caught.value)
    assert "TOPSECRET" not in str(caught.value)


def test_loading_says_nothing_and_writes_no_temporary_file(
    world: World, store_run: Put, tmp_path: Path
) -> None:
    """A new process prints no line of TensorFlow's, and a full temporary folder does no harm."""
    put_networks(FolderStore("store"), store_run, world)
    program = """
import os, tempfile
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)  # as this process has set it
import fmnist
tempfile.tempdir, tempfile._io = tempfile.gettempdir(), None  # whoever opens a file there fails
print(fmnist.load_champion("store").name)
"""
    ended = run_program("-c", program)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("fmnist\n", "", 0)


def test_where_no_temporary_folder_can_be_written_one_line_says_so(
    world: World, store_run: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow looks for one as it is imported, and would end in an error of its own."""
    put_networks(FolderStore("store"), store_run, world)

    def full() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", full)
    with pytest.raises(StoreError, match=r"no temporary file can be written: No usable .* TMPDIR"):
        fmnist.load_champion("store")


def test_a_swapped_model_is_never_loaded(world: World, store_run: Put) -> None:
    store = FolderStore("store")
    put_networks(store, store_run, world)
    overwrite(store, f"runs/{run_id(1)}/model.keras", world.poor.content)
    with pytest.raises(DamagedError, match=f"{run_id(1)}/model.keras is not the file"):
        fmnist.load_champion("store")
