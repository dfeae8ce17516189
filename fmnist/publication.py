"""Put a finished run together, publish it, and promote it if the gate says so."""

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from fmnist import figures, registry, report
from fmnist.comparison import Comparison
from fmnist.config import StoreSettings
from fmnist.dataset import Bytes
from fmnist.errors import DamagedError, StoreError
from fmnist.evaluation import digest_of_predictions
from fmnist.gate import Verdict
from fmnist.judging import Judge

# The first is drawn only where there was a champion to compare with.
FIGURES = {
    report.CHAMPION_AND_CHALLENGER: "figures/champion_and_challenger.png",
    "Learning curves": "figures/learning_curves.png",
    "Confusion matrix": "figures/confusion_matrix.png",
    "Most confident mistakes": "figures/confident_mistakes.png",
}
COMPARISON = "comparison.json"
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
    parent = work_folder(settings)
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


def work_folder(settings: StoreSettings) -> Path:
    """Where runs are put together, each in a folder of its own."""
    return settings.work or platformdirs.user_cache_path("fmnist") / "work"


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
    if isinstance(run.against, Comparison):
        drawings[report.CHAMPION_AND_CHALLENGER] = figures.champion_and_challenger(
            run.against, test_images
        )
    contents = {FIGURES[title]: figures.png(figure) for title, figure in drawings.items()}
    contents |= {
        registry.EVALUATION: registry.to_json(run.evaluation),
        registry.VERDICT: registry.to_json(run.verdict),
        registry.SETTINGS: registry.to_json(run.settings),
        registry.DATA: registry.to_json(run.data),
        "training.json": registry.to_json(run.training),
        "environment.json": registry.to_json(run.environment),
        "report.md": report.markdown(run, {title: FIGURES[title] for title in drawings}).encode(),
    }
    if run.against:
        contents[COMPARISON] = registry.to_json(run.against)
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


def publish(run: report.Run, folder: Path, judge: Judge) -> report.Run:
    """Publish a sealed run, and make it the champion if it passes the gate; may be repeated.

    Before the champion moves, the model is read back from the store, loaded, and asked the same
    test images. If the champion was changed since the verdict, or nothing was decided yet, the gate
    decides now: the run that is returned has the verdict that counted.

    Raises:
        DamagedError: what the store gives back is not what was judged.
        StoreError: the store cannot be read or written. In both cases the message names the folder
            that is kept.
    """
    published = run

    def decide(head: registry.Champion | None) -> Verdict:
        nonlocal published
        found = judge.decide(run.evaluation, probabilities, head)
        published = replace(run, verdict=found.verdict, champion_before=head, against=found.against)
        return found.verdict

    try:
        stored = registry.publish(judge.store, folder)
        if run.verdict.decided and not run.verdict.promoted:
            return run
        probabilities = judge.bench.score(registry.read_file(judge.store, stored, registry.MODEL))
        if digest_of_predictions(probabilities) != run.evaluation.predictions_sha256:
            raise DamagedError(
                f"{run.location}/{registry.MODEL}, read back from the store, predicts other classes "
                "than the model that was judged; nothing is promoted"
            )
        outcome = registry.promote(
            judge.store, stored, run.evaluation.accuracy, run.verdict, decide, by="flows/train.py"
        )
        return replace(published, verdict=outcome.verdict)
    except registry.RetiredError:
        raise
    except StoreError as error:
        raise type(error)(
            f"{error}; the finished run is kept in {folder} (`fmnist publish` with that folder "
            "finishes it)",
            temporary=error.temporary,
        ) from error
