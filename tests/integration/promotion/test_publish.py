"""Putting a run together, publishing it, and what is left on this machine after a failure."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fmnist.data.records import DataOrigin, DataRecord
from fmnist.environment import describe_environment
from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.evaluation.gate import Verdict, undecided
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Comparison, ComparisonFailed, Evaluation
from fmnist.promotion.judge import Judge, Probabilities, TestSet
from fmnist.promotion.publish import publish_run, write_run
from fmnist.promotion.workspace import LeftFolder, finished_folder, left_folders, workspace
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, promote_run, retire
from fmnist.registry.records import ChampionRecord, Manifest, RetiredError, from_json, to_json
from fmnist.registry.runs import (
    later_verdicts,
    read_record,
    read_run,
    record_verdict,
    seal_run,
    upload_run,
)
from fmnist.report.figures import FIGURES
from fmnist.report.run import Run
from fmnist.settings import GateSettings, Settings, StoreSettings
from fmnist.store.base import Conflict
from fmnist.training.records import TrainingResult
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in
from tests.support.registry import champion_of, once, overtaken_by, refused

DOCUMENTED = records.FILES | {keys.MANIFEST}
DIGESTS = np.arange(records.TEST_IMAGES, dtype=np.uint64)
LABELS = np.resize(np.arange(10, dtype=np.uint8), records.TEST_IMAGES)
# A made-up model says how many of the test images it classifies right.
FAIR, GOOD, POOR, BETTER = b"9050", b"9142", b"8790", b"9300"
COMPARED = "figures/champion_and_challenger.png"
TEST_SET = records.run().data.test_set
AWAY = undecided("the store was away", 0)


def score(model: bytes) -> Probabilities:
    """The probabilities that a made-up model gives: the first so many images are right."""
    if not model.isdigit():
        raise DamagedError("model.keras holds no network of this project")
    predicted = LABELS.copy()
    predicted[int(model) :] = (predicted[int(model) :] + 1) % 10
    probabilities: Probabilities = np.eye(10, dtype=np.float32)[predicted]
    return probabilities


def judge_of(
    store: MemoryStore,
    run_id: str = records.RUN_ID,
    gate: GateSettings | None = None,
    score: Callable[[bytes], Probabilities] = score,
) -> Judge:
    """The judge of a run, who scores made-up models."""
    test_set = TestSet(LABELS, records.CLASS_NAMES, TEST_SET, score, DIGESTS)
    return Judge(store, test_set, gate or GateSettings(), run_id, conditional_writes=True)


class Trouble(Exception):
    """Whatever may go wrong inside the block."""


def finish(folder: Path) -> None:
    """Leave the files that the stages of a run would, and a folder that none of them does."""
    for name in ("train/images.npy", "test/images.npy", "scratch/leftover"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"arrays")
    finished = finished_folder(folder)
    (finished / "figures").mkdir()
    (finished / "figures" / "a.png").write_bytes(b"figure")
    (finished / keys.MODEL).write_bytes(GOOD)
    seal_run(finished, records.RUN_ID, records.moments(1)[0])


# ---- the work folder ----------------------------------------------------------------------------


def test_a_success_leaves_nothing_on_this_machine_and_disturbs_no_other_run(tmp_path: Path) -> None:
    settings = StoreSettings(work=tmp_path / "work")
    with workspace(settings, "id") as folder:
        assert folder == tmp_path / "work" / "id"
        with workspace(settings, "other") as other:
            assert finished_folder(other).is_dir()
        assert not other.exists()
        assert finished_folder(folder).is_dir()
        finish(folder)
    assert files_in(tmp_path) == set()
    assert not folder.exists()


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("finished", [False, True])
def test_a_failure_keeps_a_finished_run_and_nothing_else(
    finished: bool, error: type[BaseException], tmp_path: Path
) -> None:
    """Of an unfinished one not even the folder stays."""
    with pytest.raises(error), workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        (folder / "images.npy").write_bytes(b"arrays")
        (finished_folder(folder) / "model.keras").write_bytes(b"model")
        if finished:
            finish(folder)
        raise error
    assert folder.exists() is finished
    if finished:
        assert files_in(folder) == {"run/model.keras", "run/figures/a.png", "run/manifest.json"}
        assert [path.name for path in folder.iterdir()] == ["run"]


@pytest.mark.parametrize(("work", "parent"), [(None, "."), (Path("~/work"), "home/work")])
def test_the_work_folder_is_in_the_users_cache_or_where_the_setting_says(
    work: Path | None, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading `~` is the user's home, as it is for the store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with workspace(StoreSettings(work=work), "id") as folder:
        assert folder.is_relative_to(tmp_path / parent)
        assert folder.name == "id"


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    work = tmp_path / "taken"
    work.write_text("a file")

    def begin() -> None:
        with workspace(StoreSettings(work=work), "id"):
            pytest.fail("the block must not begin")

    refused(begin, ExitCode.STORE, str(work / "id"), "store.work")


KILLED = """
import os, sys
from pathlib import Path
from fmnist.promotion.workspace import LeftFolder, finished_folder, left_folders, workspace
from fmnist.settings import StoreSettings
import tempfile
with workspace(StoreSettings(work=Path("work")), sys.argv[1]) as folder:
    (folder / "images.npy").write_bytes(b"arrays")
    tempfile.mkstemp(prefix="temporary-")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_left_goes_with_the_next_but_not_what_a_living_one_has(
    tmp_path: Path,
) -> None:
    """Its work and temporary files are removed by whoever comes next, once its process is gone."""
    settings = StoreSettings(work=tmp_path / "work")
    run_id = "20260301T092653Z-0a1b2c3d"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        with workspace(settings, "second"):
            assert list(left_folders(settings)) == []
            assert (tmp_path / "work" / run_id / "images.npy").exists()
    finally:
        process.kill()
        process.wait()
    assert list(temporary.iterdir()) == []
    (tmp_path / "work" / "of a user" / "run").mkdir(parents=True)
    assert list(left_folders(settings)) == [LeftFolder(tmp_path / "work" / run_id, "")]
    with workspace(settings, "third"):
        assert {path.name for path in (tmp_path / "work").iterdir()} == {"of a user", "third"}


def test_a_folder_without_a_lock_is_removed_after_a_week(tmp_path: Path) -> None:
    """It may be of a run of an earlier version, which locked none."""
    settings = StoreSettings(work=tmp_path)
    old, recent = "20260301T092653Z-0a1b2c3d", "20260308T092653Z-0a1b2c3d"
    for name, days in ((old, 8), (recent, 1)):
        (tmp_path / name / "run").mkdir(parents=True)
        past = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (past, past))
    with workspace(settings, "new"):
        assert {path.name for path in tmp_path.iterdir()} == {recent, "new"}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("not stored", "the store does not have it; `fmnist publish"),
        ("another of its name", "the store does not have it; `fmnist publish"),
        ("a file is missing", "model.keras is not there"),
        ("not decided", "it is not decided yet; `fmnist publish"),
        ("promoted", ""),
        ("rejected at first", ""),
        ("rejected later", ""),
    ],
)
def test_a_finished_run_is_kept_until_the_store_has_it_decided(
    case: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its manifest and its end, a run is removed by the next, or kept with why.

    What it needed only to train is removed in either case.
    """
    store = MemoryStore()
    monkeypatch.setattr("fmnist.promotion.workspace.open_store", lambda *_, **__: store)
    settings = StoreSettings(work=tmp_path)
    folder = tmp_path / records.RUN_ID
    finished = finished_folder(folder)
    finished.mkdir(parents=True)
    (finished / keys.MODEL).write_bytes(GOOD)
    (folder / "images.npy").write_bytes(b"images")
    (folder / "tmp").mkdir()
    rejected = replace(records.run().verdict, promoted=False, decided=True)
    verdict = rejected if case == "rejected at first" else records.run().verdict
    (finished / keys.VERDICT).write_bytes(to_json(verdict))
    seal_run(finished, records.RUN_ID, records.moments(1)[0])
    if case != "not stored":
        run = upload_run(store, finished)
    if case == "another of its name":
        seal_run(finished, records.RUN_ID, records.moments(2)[1])
    if case == "a file is missing":
        store.delete(keys.of_run(records.RUN_ID, keys.MODEL))
    if case == "promoted":
        promote_run(store, run, 0.91, verdict, lambda _: verdict, by="test")
    if case == "rejected later":
        record_verdict(store, run, rejected)
    (found,) = left_folders(settings)
    assert reason in found.reason and bool(reason) == bool(found.reason)
    with workspace(settings, "next"):
        assert folder.exists() is bool(reason)
        assert not reason or list(folder.iterdir()) == [finished]


# ---- putting together ---------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder at the default place, with a model in it."""
    monkeypatch.setattr(
        "platformdirs.user_cache_path", lambda *_, **__: tmp_path / "the-users-cache"
    )
    folder = tmp_path / "the-users-cache" / "work" / records.RUN_ID
    finished_folder(folder).mkdir(parents=True)
    (finished_folder(folder) / keys.MODEL).write_bytes(b"weights" * 1000)
    return folder


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that cost no time, for tests that look at something else."""
    for figure in FIGURES.values():
        monkeypatch.setattr(f"fmnist.report.figures.{Path(figure.file).stem}", lambda *_: "drawn")
    monkeypatch.setattr("fmnist.report.figures.png", lambda _: b"a figure")


@pytest.mark.parametrize("promoted", [True, False])
@pytest.mark.parametrize(
    ("against", "more"),
    [
        (None, set()),
        (ComparisonFailed("a", "it is damaged"), {keys.COMPARISON}),
        (records.comparison(), {keys.COMPARISON, COMPARED}),
    ],
    ids=["alone", "beside a champion that cannot be scored", "beside a champion"],
)
def test_a_run_is_put_together_whole(
    promoted: bool, against: Comparison | ComparisonFailed | None, more: set[str], work: Path
) -> None:
    """All documented files are there, records read back, the report shows the figures beside it."""
    run = records.run(promoted, folder=work, champion_before=records.champion(), against=against)
    folder = finished_folder(work)
    write_run(run, records.drawn_images(), records.mean_images(), folder)

    assert files_in(folder) == DOCUMENTED | more
    prepared = run.prepared
    whole_data = DataRecord(
        **vars(run.data), duplicates=prepared.duplicates, statistics=prepared.statistics
    )
    for name, record, kind in (
        ("evaluation.json", run.evaluation, Evaluation),
        ("verdict.json", run.verdict, Verdict),
        ("training.json", run.training, TrainingResult),
        ("settings.json", run.settings, Settings),
        (keys.DATA, run.data, DataOrigin),
        (keys.DATA, whole_data, DataRecord),
        *([(keys.COMPARISON, against, type(against))] if against else []),
    ):
        assert from_json(kind, (folder / name).read_bytes(), name) == record
    report = (folder / "report.md").read_text()
    for title, (name, _) in FIGURES.items():
        drawn = name != COMPARED or name in more
        assert (f"![{title}]({name})" in report) is drawn
        assert not drawn or (folder / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    manifest = from_json(Manifest, (folder / keys.MANIFEST).read_bytes(), keys.MANIFEST)
    assert manifest.run_id == run.run_id
    assert manifest.files.keys() == (DOCUMENTED | more) - {keys.MANIFEST}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_no_local_path_or_secret_is_published(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEUSERSKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TheUsersSecret")
    monkeypatch.setenv("HOME", str(tmp_path / "the-users-home"))
    folder = finished_folder(work)
    run = replace(records.run(folder=work), environment=describe_environment())
    write_run(run, records.drawn_images(), records.mean_images(), folder)
    for name in DOCUMENTED:
        content = (folder / name).read_bytes()
        for private in (work, tmp_path, "the-users", "THEUSERSKEY", "TheUsersSecret", "npy"):
            assert str(private).encode() not in content, name


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "right to write")],
    ids=["ENOSPC", "EROFS"],
)
def test_a_disk_that_cannot_take_the_files_is_told(
    code: int, advice: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    run, images, folder = records.run(folder=work), records.drawn_images(), finished_folder(work)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    told = (str(folder), advice, "store.work")
    refused(lambda: write_run(run, images, records.mean_images(), folder), ExitCode.STORE, *told)
    assert not (folder / keys.MANIFEST).exists()


# ---- publishing ---------------------------------------------------------------------------------


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


Make = Callable[..., tuple[Run, Path]]


@pytest.fixture
def make(store: MemoryStore, tmp_path: Path, quick_figures: None) -> Make:
    """Trains, judges and puts together, so to speak: a finished run and its folder."""

    def finish(
        model: bytes, run_id: str = records.RUN_ID, gate: GateSettings | None = None
    ) -> tuple[Run, Path]:
        folder = finished_folder(tmp_path / "work" / run_id)
        folder.mkdir(parents=True)
        (folder / keys.MODEL).write_bytes(model)
        found = judge_of(store, run_id, gate).judge(model, seen_generation=0)
        run = records.run(
            run_id=run_id,
            judged=found.evaluation,
            champion_before=found.champion_before,
            against=found.against,
            folder=tmp_path / "work",
        )
        location = store.location(keys.of_run(run_id))
        run = replace(run, verdict=found.verdict, location=location)
        write_run(run, records.drawn_images(1), records.mean_images(), folder)
        return run, folder

    return finish


def promote(store: MemoryStore, made: tuple[Run, Path]) -> ChampionRecord:
    """Publish a run that becomes the champion."""
    run, folder = made
    publish_run(run, folder, judge_of(store, run.run_id))
    assert champion_of(store).run_id == run.run_id
    return champion_of(store)


@pytest.mark.parametrize("before", [None, records.champion()], ids=["first", "next"])
@pytest.mark.parametrize("model", [GOOD, POOR], ids=["promoted", "rejected"])
def test_only_a_promoted_run_becomes_the_champion(
    model: bytes, before: ChampionRecord | None, make: Make, store: MemoryStore
) -> None:
    """Both kinds of runs are stored completely, but only one that passed the gate moves the champion."""
    if before:
        store.put_if_absent(keys.CHAMPION, to_json(before))
    run, folder = make(model)
    promoted = model == GOOD
    documented = DOCUMENTED | ({keys.COMPARISON} if before else set())
    for _ in range(2):  # a repeat changes nothing
        assert publish_run(run, folder, judge_of(store)) == run
        assert run.verdict.promoted is promoted
        prefix = f"{keys.of_run(run.run_id)}/"
        assert {key.removeprefix(prefix) for key in store.list_entries(prefix)} == documented
        champion = current_champion(store)
        assert (champion.run_id if champion else None) == run.champion_after
        if promoted:
            assert champion and (champion.run_id, champion.by) == (run.run_id, "flows/train.py")
            assert champion.accuracy == run.evaluation.accuracy
            assert champion.previous == (before.run_id if before else None)
        else:
            assert champion == before


@pytest.mark.parametrize("temporary", [True, False])
@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("put_if_absent", StoreError),
        ("put_if_absent", DamagedError),
        ("put_if_absent", Conflict),
        ("compare_and_swap", StoreError),
        ("compare_and_swap", DamagedError),
    ],
)
def test_a_failed_publication_names_the_folder_that_is_kept(
    verb: str, kind: type[StoreError], temporary: bool, store: MemoryStore, tmp_path: Path
) -> None:
    """If the store fails, the message has the reason and the folder in which the run is kept.

    The kind of failure, by which a program tells what to do, stays what it was.
    """

    def refuse(write: str, key: str) -> None:
        if write == verb:
            raise kind("the store is on fire", retryable=temporary)

    store.before = refuse
    run = records.run(judged=evaluate(score(GOOD), LABELS, records.CLASS_NAMES))
    with (
        pytest.raises(StoreError) as caught,
        workspace(StoreSettings(work=tmp_path / "work"), records.RUN_ID) as folder,
    ):
        finish(folder)
        publish_run(run, finished_folder(folder), judge_of(store))
    kept = tmp_path / "work" / records.RUN_ID / "run"
    assert str(caught.value) == (
        f"the store is on fire; the finished run is kept in {kept} (`fmnist publish` with that "
        "folder finishes it)"
    )
    assert type(caught.value) is kind
    assert caught.value.exit_code == kind.exit_code
    assert caught.value.retryable is temporary
    assert files_in(kept) == {"model.keras", "figures/a.png", "manifest.json"}
    assert current_champion(store) is None

    store.before = lambda verb, key: None
    promote(store, (run, kept))


def test_a_damaged_champion_does_not_lose_the_run(make: Make, store: MemoryStore) -> None:
    run, folder = make(GOOD)
    store.objects[keys.CHAMPION] = b"damaged"
    refused(lambda: publish_run(run, folder, judge_of(store)), ExitCode.DAMAGED, keys.CHAMPION)
    assert keys.of_run(run.run_id, keys.MANIFEST) in store.objects
    assert store.objects[keys.CHAMPION] == b"damaged"


# ---- read back before it is promoted ------------------------------------------------------------

STORED_MODEL = keys.of_run(records.RUN_ID, keys.MODEL)
NOT_THE_FILE = f"{STORED_MODEL} is not the file"
# Of each: what the store gives, the model that it is loaded as, and what the message says.
LIES: dict[str, tuple[bytes | None, bytes, str]] = {
    "another model": (POOR, BETTER, NOT_THE_FILE),
    "a byte changed": (b"9301", BETTER, NOT_THE_FILE),
    "cut short": (b"930", BETTER, NOT_THE_FILE),
    "longer": (b"9300\0", BETTER, NOT_THE_FILE),
    "nothing": (b"", BETTER, NOT_THE_FILE),
    "missing": (None, BETTER, f"{STORED_MODEL} is missing"),
    "other predictions": (BETTER, POOR, "predicts other classes than the model that was judged"),
    "cannot be loaded": (BETTER, b"none", "holds no network of this project"),
}


@pytest.mark.parametrize(("content", "loaded", "told"), LIES.values(), ids=LIES.keys())
def test_a_model_that_does_not_read_back_as_it_was_judged_is_not_promoted(
    content: bytes | None,
    loaded: bytes,
    told: str,
    make: Make,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither other bytes nor the right ones that, loaded, predict other classes.

    The message says where the run is kept, and the champion stays; a retry succeeds.
    """
    old = promote(store, make(GOOD, "old"))
    run, folder = make(BETTER)
    objects, kept = store.objects, f"the finished run is kept in {folder}"
    with monkeypatch.context() as patched:
        patched.setattr(
            store, "read", lambda key, *_: content if key == STORED_MODEL else objects.get(key)
        )
        judge = judge_of(store, score=lambda _: score(loaded))
        with pytest.raises(DamagedError) as caught:
            publish_run(run, folder, judge)
    message = str(caught.value)
    assert told in message and kept in message and "\n" not in message
    assert caught.value.exit_code == ExitCode.DAMAGED and not caught.value.retryable
    assert current_champion(store) == old
    assert publish_run(run, folder, judge_of(store)).verdict.promoted
    assert champion_of(store).run_id == run.run_id


@pytest.mark.parametrize("model", [GOOD, POOR], ids=["promoted", "rejected"])
def test_only_a_model_to_be_promoted_is_read_back(
    model: bytes, make: Make, store: MemoryStore
) -> None:
    """It is scored again as it comes from the store, after all of the run was stored."""
    run, folder = make(model)
    seen = []

    def watch(model: bytes) -> Probabilities:
        seen.append((model, keys.of_run(run.run_id, keys.MANIFEST) in store.objects))
        (folder / keys.MODEL).write_bytes(POOR)
        return score(model)

    assert publish_run(run, folder, judge_of(store, score=watch)) == run
    assert seen == ([(GOOD, True)] if model == GOOD else [])


# ---- a champion that moved meanwhile ------------------------------------------------------------


BETTER_ONLY = GateSettings(champion="better")


@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_a_run_that_was_overtaken_is_judged_again(
    promoted: bool, make: Make, store: MemoryStore
) -> None:
    """The run that is returned has the later verdict, champion and comparison.

    A later rejection is recorded in the store, where the run itself stays as it was.
    """
    first = promote(store, make(FAIR, "first"))
    run, folder = make(BETTER if promoted else GOOD, gate=BETTER_ONLY)
    rival = promote(store, make(GOOD if promoted else BETTER, "rival"))
    assert run.champion_before == first and run.verdict.promoted

    published = publish_run(run, folder, judge_of(store, gate=BETTER_ONLY))
    verdict, against = published.verdict, published.against
    assert (verdict.promoted, verdict.generation) == (promoted, 2)
    assert isinstance(against, Comparison) and against.champion == "rival"
    assert (against.gained, against.lost) == ((158, 0) if promoted else (0, 158))
    assert published == replace(run, verdict=verdict, champion_before=rival, against=against)
    champion = champion_of(store)
    assert champion.run_id == published.champion_after
    if promoted:
        assert (champion.run_id, champion.previous) == (run.run_id, "rival")
        assert champion.reason == verdict.reason
    else:
        assert champion == rival
    assert later_verdicts(store, run.run_id) == ([] if promoted else [verdict])
    stored = read_run(store, run.run_id)
    assert read_record(store, stored, keys.VERDICT, Verdict) == run.verdict


def test_a_champion_that_moves_at_the_very_end_is_heeded(make: Make, store: MemoryStore) -> None:
    """A rival that comes between reading back and the swap is judged against as well."""
    run, folder = make(GOOD, gate=BETTER_ONLY)
    better = make(BETTER, "rival")
    overtaken_by(store, lambda: promote(store, better))
    published = publish_run(run, folder, judge_of(store, gate=BETTER_ONLY))
    assert champion_of(store).run_id == "rival"
    assert published.champion_before == champion_of(store)
    assert later_verdicts(store, run.run_id) == [published.verdict]


@pytest.mark.parametrize("model", [GOOD, POOR])
def test_a_run_that_was_not_decided_is_decided_when_it_is_published(
    model: bytes, make: Make, store: MemoryStore
) -> None:
    """A verdict left open is decided then: promoted, or rejected and recorded."""
    run, folder = make(model)
    published = publish_run(replace(run, verdict=AWAY), folder, judge_of(store))
    assert published.verdict.decided
    assert published.verdict.promoted is (model == GOOD)
    champion = current_champion(store)
    assert (champion.run_id if champion else None) == published.champion_after
    kept = later_verdicts(store, run.run_id)
    assert kept == ([] if model == GOOD else [published.verdict])


@pytest.mark.parametrize("overtaken", [True, False], ids=["overtaken", "not decided"])
def test_a_publication_repeated_has_the_verdict_that_counted(
    overtaken: bool, make: Make, store: MemoryStore
) -> None:
    """If every answer to the promotion was lost, the retry returns what was decided before it."""
    promote(store, make(FAIR, "first"))
    run, folder = make(BETTER, gate=BETTER_ONLY)
    if overtaken:
        promote(store, make(GOOD, "rival"))
    else:
        run = replace(run, verdict=AWAY)
    before, judge = champion_of(store), judge_of(store, gate=BETTER_ONLY)

    def lose_the_answer() -> None:
        raise StoreError("no answer", retryable=True)

    once(store, "after", "compare_and_swap", keys.CHAMPION, lose_the_answer)
    refused(lambda: publish_run(run, folder, judge), ExitCode.STORE, "no answer")
    published = publish_run(run, folder, judge)
    assert (published.verdict.word, published.verdict.generation) == ("promoted", before.generation)
    assert (published.champion_before, published.champion_after) == (before, run.run_id)
    assert isinstance(published.against, Comparison)
    assert published.against.champion == before.run_id
    champion = champion_of(store)
    assert champion.reason == published.verdict.reason
    assert champion.generation == before.generation + 1


def test_a_run_that_a_person_promoted_meanwhile_is_reported_as_promoted(
    make: Make, store: MemoryStore
) -> None:
    """Though the gate would have rejected it: the reason is the person's."""
    promote(store, make(BETTER, "first"))
    run, folder = make(POOR)
    verdict = undecided("the store was away", 1)
    stored = upload_run(store, folder)
    promote_run(store, stored, 0.879, verdict, lambda _: verdict, by="a person", forced="I want it")
    published = publish_run(replace(run, verdict=verdict), folder, judge_of(store))
    assert (published.verdict.word, published.champion_after) == ("promoted", run.run_id)
    assert published.verdict.reason.startswith("I want it")


def test_a_run_that_was_pruned_is_not_said_to_be_published_yet(
    make: Make, store: MemoryStore
) -> None:
    promote(store, make(GOOD, "first"))
    run, folder = make(BETTER)
    retire(store, [run.run_id], by="fmnist prune")
    with pytest.raises(RetiredError, match="can no longer become the champion") as caught:
        publish_run(run, folder, judge_of(store))
    assert "fmnist publish" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE
