"""Write a run's files, publish them, and promote the run if the gate says so."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fmnist.data.records import Bytes, DataRecord
from fmnist.errors import DamagedError, StoreError, writing
from fmnist.evaluation.metrics import digest_of_predictions
from fmnist.promotion.judge import Decision, Judge
from fmnist.promotion.stored import remember
from fmnist.registry import keys
from fmnist.registry.records import RetiredError, to_json
from fmnist.registry.runs import read_file, seal_run, upload_run
from fmnist.report.figures import draw_figures, figure_titles
from fmnist.report.markdown import markdown
from fmnist.report.run import Run


def write_run(run: Run, test_images: Bytes, mean_images: Bytes, folder: Path) -> None:
    """Write every file of the run except its model into `folder`, and seal it with a manifest.

    `mean_images` are the mean training images of the classes.
    """
    figures = draw_figures(run, test_images, mean_images)
    data = DataRecord(
        **vars(run.data),
        duplicates=run.prepared.duplicates,
        statistics=run.prepared.statistics,
        change=run.data_change,
    )
    contents = {
        **figures,
        keys.EVALUATION: to_json(run.evaluation),
        keys.VERDICT: to_json(run.verdict),
        keys.SETTINGS: to_json(run.settings),
        keys.DATA: to_json(data),
        "training.json": to_json(run.training),
        "environment.json": to_json(run.environment),
        keys.TRAINING_DIGESTS: run.prepared.training_digests.read_bytes(),
        "report.md": markdown(run, figure_titles(figures)).encode(),
    }
    if run.against:
        contents[keys.COMPARISON] = to_json(run.against)
    with writing(folder, "set store.work to another folder"):
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        seal_run(folder, run.run_id, datetime.now(UTC), run.fingerprint)


def publish_run(run: Run, folder: Path, judge: Judge) -> Run:
    """Publish a sealed run, and make it the champion if it passes the gate; safe to repeat.

    The run can then be found by its fingerprint.

    Before the champion changes, the model is read back from the store, loaded, and scored on the
    same test images. If the champion has changed since the verdict, or nothing was decided yet, the
    gate decides again; the run that is returned has the verdict that counted.

    Raises:
        RetiredError: the run has been removed from the store.
        StoreError: like a `DamagedError`, names the folder in which the run is kept.
    """
    try:
        stored = upload_run(judge.store, folder)
        if run.verdict.decided and not run.verdict.promoted:
            _remember(run, judge)
            return run
        probabilities = judge.test_set.score(read_file(judge.store, stored, keys.MODEL))
        if digest_of_predictions(probabilities) != run.evaluation.predictions_sha256:
            raise DamagedError(
                f"{run.location}/{keys.MODEL}, read back from the store, predicts other classes "
                "than the model that was judged; nothing is promoted"
            )
        decision = Decision(run.evaluation, run.verdict, run.champion_before, run.against)
        decision, _ = judge.promote(stored, decision, probabilities, by="flows/train.py")
    except RetiredError:
        raise
    except StoreError as error:
        raise type(error)(
            f"{error}; the finished run is kept in {folder} (`fmnist publish` with that folder "
            "finishes it)",
            retryable=error.retryable,
        ) from error
    published = replace(
        run,
        verdict=decision.verdict,
        champion_before=decision.champion_before,
        against=decision.against,
    )
    _remember(published, judge)
    return published


def _remember(run: Run, judge: Judge) -> None:
    accuracy = run.evaluation.accuracy
    remember(judge.store, run.fingerprint, run.run_id, accuracy, judge.gate, run.verdict)
