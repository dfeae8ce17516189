"""Put a finished run together, publish it, and promote it if its verdict says so."""

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from fmnist import figures, registry, report
from fmnist.config import StoreSettings
from fmnist.dataset import Bytes
from fmnist.errors import StoreError
from fmnist.store import Store

FIGURES = {
    "Learning curves": "figures/learning_curves.png",
    "Confusion matrix": "figures/confusion_matrix.png",
    "Most confident mistakes": "figures/confident_mistakes.png",
}
MODEL = "model.keras"
_FINISHED = "run"
_LEFTOVER_AGE = 7 * 24 * 3600


@contextlib.contextmanager
def workspace(settings: StoreSettings, run_id: str) -> Iterator[Path]:
    """A folder of this machine to put a run together in, removed at the end.

    If an error ends the block after the run was finished, its files stay, in the folder that
    `finished` names.

    Raises:
        StoreError: the folder cannot be made.
    """
    parent = settings.work or platformdirs.user_cache_path("fmnist") / "work"
    folder = parent / run_id
    _remove_leftovers(parent)
    try:
        finished(folder).mkdir(parents=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the work folder {folder}: {error.strerror or error}; "
            "free some space, or set store.work to another folder"
        ) from error
    try:
        yield folder
    except BaseException:
        if (finished(folder) / registry.MANIFEST).exists():
            for path in folder.iterdir():
                if path != finished(folder):
                    _remove(path)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Delete the folders of runs that were killed before they were finished, after some days."""
    for run in parent.glob(f"*/{_FINISHED}"):
        with contextlib.suppress(OSError):
            age = time.time() - run.parent.stat().st_mtime
            if age > _LEFTOVER_AGE and not (run / registry.MANIFEST).exists():
                _remove(run.parent)


def _remove(path: Path) -> None:
    """Delete a file or a folder, as far as that goes: an error that came before counts more."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def finished(folder: Path) -> Path:
    """Where in a work folder the files lie that make up the published run."""
    return folder / _FINISHED


def assemble(run: report.Run, test_images: Bytes, folder: Path) -> None:
    """Put every file of the run but its model into `folder`, and seal it with a manifest.

    Raises:
        StoreError: the folder cannot be written.
    """
    drawings = {
        "Learning curves": figures.learning_curves(run.training),
        "Confusion matrix": figures.confusion_matrix(run.evaluation),
        "Most confident mistakes": figures.confident_mistakes(run.evaluation, test_images),
    }
    contents = {FIGURES[title]: figures.png(figure) for title, figure in drawings.items()}
    contents |= {
        registry.EVALUATION: registry.to_json(run.evaluation),
        "verdict.json": registry.to_json(run.verdict),
        "settings.json": registry.to_json(run.settings),
        "training.json": registry.to_json(run.training),
        "environment.json": registry.to_json(run.environment),
        "data.json": registry.to_json(run.data),
        "report.md": report.markdown(run, FIGURES).encode(),
    }
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        registry.seal(folder, run.run_id, datetime.now(UTC))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"cannot write the run's files into {folder}: {error.strerror}; "
            + ("free some space" if full else "give this user the right to write there")
            + ", or set store.work to another folder"
        ) from error


def publish(run: report.Run, folder: Path, store: Store) -> None:
    """Publish a sealed run, and make it the champion if it passed the gate; may be repeated.

    Raises:
        StoreError: the store cannot be written; the message names the folder that is kept.
    """
    try:
        manifest = registry.publish(store, folder)
        if run.verdict.promoted:
            registry.promote(store, manifest, run.evaluation.accuracy, datetime.now(UTC))
    except StoreError as error:
        raise StoreError(
            f"{error}; the finished run is kept in {folder}", temporary=error.temporary
        ) from error
