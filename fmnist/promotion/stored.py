"""Decide about runs that are in the store, or wait in a folder to be published."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fmnist.data.fetch import fetch_files
from fmnist.data.idx import read_labelled_images
from fmnist.data.records import DataOrigin, LabelledImages
from fmnist.errors import DamagedError, DataError, SettingsError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.metrics import evaluate
from fmnist.promotion.judge import Decision, Judge, make_test_set
from fmnist.promotion.workspace import finished_folder, work_folder
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, promotion_since
from fmnist.registry.fingerprints import record_fingerprint
from fmnist.registry.recorded_settings import recorded_section
from fmnist.registry.records import (
    FORMAT,
    ChampionRecord,
    FingerprintedRun,
    RecordedFigures,
    StoredRun,
    digest_of,
    to_json,
)
from fmnist.registry.runs import read_file, read_record, read_run, read_training_digests, upload_run
from fmnist.settings import DataSettings, GateSettings, Settings
from fmnist.store.base import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """How the promotion of a stored run ended.

    Attributes:
        run_id: the run.
        champion: the current champion.
        promoted_by: the record that made the run the champion; `None` if it was rejected.
        verdict: the gate's; `None` if it did not have to decide.
        decision: the figures and the comparison behind the verdict; `None` if it is an older one.
        reason: why the run is the champion, or why not.
    """

    run_id: str
    champion: ChampionRecord | None
    promoted_by: ChampionRecord | None
    verdict: Verdict | None
    decision: Decision | None
    reason: str


@dataclass(frozen=True)
class GateRequest:
    """How to judge a stored run.

    Attributes:
        settings: where the data are; the gate's settings come from the run.
        gate_overrides: settings of the gate that replace the run's.
        by: the program that asks, for the history.
        forced: a person's reason to promote the run whatever the gate says.
    """

    settings: Settings
    gate_overrides: Mapping[str, object]
    by: str
    forced: str | None = None


def promote_stored_run(store: Store, run_id: str, request: GateRequest) -> Promotion:
    """Judge a stored run again, and make it the champion if it passes.

    Raises:
        DataError: the run was made with other data than the settings name.
    """
    # Before the check, which would create the store's folder.
    read_run(store, run_id)
    conditional_writes = store.check()
    # Read before the run: if the run is removed after this, the champion record has changed too.
    champion = current_champion(store)
    return _judge_stored_run(store, read_run(store, run_id), champion, conditional_writes, request)


def publish_kept_run(store: Store, folder: Path, request: GateRequest) -> Promotion:
    """Publish a finished run from the folder in which it was kept; safe to repeat.

    The run can then be found by its fingerprint.

    Raises:
        SettingsError: the folder is not a finished run.
        DataError: as `promote_stored_run`.
    """
    if not (folder / keys.MANIFEST).is_file():
        raise SettingsError(
            f"{folder} is not a finished run, since it has no {keys.MANIFEST}; the message of the run "
            "that failed names the folder"
        )
    conditional_writes = store.check()
    champion = current_champion(store)
    run = upload_run(store, folder)
    verdict = read_record(store, run, keys.VERDICT, Verdict)
    if verdict.decided and not verdict.promoted:
        promotion = Promotion(run.run_id, champion, None, verdict, None, verdict.reason)
    elif promoted_by := promotion_since(store, run.run_id, verdict.generation):
        promotion = Promotion(run.run_id, champion, promoted_by, None, None, "was promoted already")
    else:
        promotion = _judge_stored_run(store, run, champion, conditional_writes, request)
    if fingerprint := run.manifest.fingerprint:
        accuracy = read_record(store, run, keys.EVALUATION, RecordedFigures).accuracy
        gate = _gate_of(store, run, request)
        decided = promotion.verdict or Verdict(True, reason=promotion.reason)
        remember(store, fingerprint, run.run_id, accuracy, gate, decided)
    return promotion


def _judge_stored_run(
    store: Store,
    run: StoredRun,
    champion: ChampionRecord | None,
    conditional_writes: bool,
    request: GateRequest,
) -> Promotion:
    """Judge a stored run against the champion that was read before it."""
    if champion and champion.run_id == run.run_id:
        return Promotion(run.run_id, champion, champion, None, None, "is the champion already")
    contents = {name: read_file(store, run, name) for name in run.manifest.files}
    if keys.MODEL not in contents:
        raise DamagedError(f"{store.location(keys.of_run(run.run_id))} has no model")
    class_names = recorded_section(store, run, "data", DataSettings).class_names
    origin = read_record(store, run, keys.DATA, DataOrigin)
    data, test = fetch_test_data(request.settings.data)
    if origin.test_set != data.test_set and request.forced is None:
        raise DataError(
            f"{run.run_id} was made with other data than {data.source}, so it may have been "
            f"trained on these test images; set data.source to its own ({origin.source}), or "
            "promote it with --force"
        )
    test_set = make_test_set(test, class_names, data)
    gate = _gate_of(store, run, request)
    trained_on = read_training_digests(store, run)
    judge = Judge(store, test_set, gate, run.run_id, conditional_writes, trained_on)
    probabilities = test_set.score(contents[keys.MODEL])
    evaluation = evaluate(probabilities, test.labels, class_names)
    decision, result = judge.promote(
        run,
        judge.decide(evaluation, probabilities, champion),
        probabilities,
        by=request.by,
        forced=request.forced,
    )
    reason = decision.verdict.reason
    if result.made and result.made.forced:
        reason = f"forced: {request.forced}"
    return Promotion(run.run_id, result.champion, result.made, decision.verdict, decision, reason)


def _gate_of(store: Store, run: StoredRun, request: GateRequest) -> GateSettings:
    recorded = recorded_section(store, run, "gate", GateSettings)
    return recorded.model_copy(update=dict(request.gate_overrides))


def remember(
    store: Store,
    fingerprint: str,
    run_id: str,
    accuracy: float,
    gate: GateSettings,
    verdict: Verdict,
) -> None:
    """Let later runs find this one by its fingerprint; without it, one more will train."""
    run = FingerprintedRun(FORMAT, run_id, accuracy, digest_of_gate(gate), verdict)
    try:
        record_fingerprint(store, fingerprint, run)
    except StoreError as error:
        logger.warning("the fingerprint was not recorded, so the next run will train: %s", error)


def digest_of_gate(gate: GateSettings) -> str:
    """A SHA-256 of the gate's settings, to notice that they have changed."""
    return digest_of(to_json(gate))


def remove_kept_folder(folder: Path, run_id: str, settings: Settings) -> bool:
    """Remove the folder in which a job kept its run, now that the run is in the store.

    A folder anywhere else belongs to the user and stays. Returns whether it is gone.
    """
    work = work_folder(settings.store) / run_id
    if folder.resolve() != finished_folder(work).resolve():
        return False
    shutil.rmtree(work, ignore_errors=True)
    return not work.exists()


def fetch_test_data(settings: DataSettings) -> tuple[DataOrigin, LabelledImages]:
    """Fetch the test images that the settings name, verified and checked."""
    fetched = fetch_files(settings)
    classes = len(settings.class_names)
    return fetched.origin, read_labelled_images(fetched.test_images, fetched.test_labels, classes)
