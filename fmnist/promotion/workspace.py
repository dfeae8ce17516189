"""The folder on this machine in which a run is put together, and what ended runs left there."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from fmnist.errors import JobError, writing
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.champion import promotion_since
from fmnist.registry.records import from_json, is_run_id
from fmnist.registry.runs import check_listing, find_run, later_verdicts
from fmnist.settings import StoreSettings
from fmnist.store.base import open_store

_FINISHED = "run"
_LOCK = ".lock"
_AGE_WITHOUT_LOCK = 7 * 24 * 3600


@dataclass(frozen=True)
class LeftFolder:
    """The work folder of a run that has ended.

    Attributes:
        path: the folder.
        reason: why it is kept; empty if nothing in it is needed any more.
    """

    path: Path
    reason: str


@contextlib.contextmanager
def workspace(settings: StoreSettings, run_id: str) -> Iterator[Path]:
    """A folder on this machine to put a run together in, removed at the end.

    If the block fails after the run was finished, the run's files are kept in `finished_folder`.
    What killed runs left is removed first, except finished runs that are still to be published.
    Temporary files of the block are in the folder too.
    """
    folder = work_folder(settings) / run_id
    with writing(folder, "set store.work to another folder"):
        lock = _new_folder(folder, settings)
    try:
        with _temporary_files_in(folder / "tmp"):
            yield folder
    except BaseException:
        lock.release()
        sealed = (finished_folder(folder) / keys.MANIFEST).exists()
        _clear(folder, keep_finished=sealed)
        raise
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def work_folder(settings: StoreSettings) -> Path:
    """The folder in which runs are put together, each in a folder of its own."""
    return settings.work or platformdirs.user_cache_path("fmnist") / "work"


def finished_folder(folder: Path) -> Path:
    """The folder within a work folder that holds the files of the published run."""
    return folder / _FINISHED


def left_folders(settings: StoreSettings) -> Iterator[LeftFolder]:
    """The work folders of runs that have ended, on this machine."""
    parent = work_folder(settings)
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        if is_run_id(folder.name) and not _is_in_use(folder):
            finished = finished_folder(folder)
            sealed = (finished / keys.MANIFEST).exists()
            yield LeftFolder(folder, _still_to_do(finished, settings) if sealed else "")


def _new_folder(folder: Path, settings: StoreSettings) -> FileLock:
    """Create a run's folder, locked until its process ends, however that ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / _LOCK):
        for left in left_folders(settings):
            _clear(left.path, keep_finished=bool(left.reason))
        finished_folder(folder).mkdir(parents=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire()
        with contextlib.suppress(OSError):
            (folder.parent / _LOCK).unlink()
    return lock


def _clear(folder: Path, *, keep_finished: bool) -> None:
    """Remove a work folder, or all of it but the finished run, as far as it can be deleted."""
    if not keep_finished:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in set(folder.iterdir()) - {finished_folder(folder)}:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_in_use(folder: Path) -> bool:
    """Whether a living process is putting a run together in this folder."""
    try:
        if not (folder / _LOCK).exists():
            # A kept run, or one of a version that did not lock its folder.
            sealed = (finished_folder(folder) / keys.MANIFEST).exists()
            return not sealed and time.time() - folder.stat().st_mtime < _AGE_WITHOUT_LOCK
        with FileLock(folder / _LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _still_to_do(finished: Path, settings: StoreSettings) -> str:
    """What remains to be done with a finished run; nothing if the store has it, decided."""
    advice = f"`fmnist publish {finished}` finishes it"
    try:
        store = open_store(settings.url, single_publisher=settings.single_publisher)
        manifest = (finished / keys.MANIFEST).read_bytes()
        run = find_run(store, finished.parent.name)
        if run is None or run.content != manifest:
            return f"the store does not have it; {advice}"
        check_listing(store, run, advice)
        path = finished / keys.VERDICT
        verdict = from_json(Verdict, path.read_bytes(), str(path))
        if verdict.decided and not verdict.promoted:
            return ""
        if promotion_since(store, run.run_id, verdict.generation):
            return ""
        return "" if later_verdicts(store, run.run_id) else f"it is not decided yet; {advice}"
    except (JobError, OSError) as error:
        return str(error)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let this process make its temporary files in a folder that is removed whatever happens."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
