"""The folder on this machine in which a run is put together."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from fmnist.errors import writing
from fmnist.registry import keys
from fmnist.settings import StoreSettings

_FINISHED = "run"
_LEFTOVER_AGE = 7 * 24 * 3600


@contextlib.contextmanager
def workspace(settings: StoreSettings, run_id: str) -> Iterator[Path]:
    """A folder on this machine to put a run together in, removed at the end.

    If the block fails after the run was finished, the run's files are kept in `finished_folder`.
    """
    parent = work_folder(settings)
    folder = parent / run_id
    _remove_leftovers(parent)
    with writing(folder, "set store.work to another folder"):
        finished_folder(folder).mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        # What cannot be deleted must not hide the error that led here.
        if (finished_folder(folder) / keys.MANIFEST).exists():
            for path in set(folder.iterdir()) - {finished_folder(folder)}:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        path.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def work_folder(settings: StoreSettings) -> Path:
    """The folder in which runs are put together, each in a folder of its own."""
    return settings.work or platformdirs.user_cache_path("fmnist") / "work"


def _remove_leftovers(parent: Path) -> None:
    """Delete the folders of runs that were killed unfinished a week ago or earlier."""
    for run in parent.glob(f"*/{_FINISHED}"):
        with contextlib.suppress(OSError):
            age = time.time() - run.parent.stat().st_mtime
            if age > _LEFTOVER_AGE and not (run / keys.MANIFEST).exists():
                shutil.rmtree(run.parent, ignore_errors=True)


def finished_folder(folder: Path) -> Path:
    """The folder within a work folder that holds the files of the published run."""
    return folder / _FINISHED
