"""Putting a run together, publishing it, and what is left on this machine after a failure."""

import errno
import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fmnist.environment import describe_environment
from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.evaluation.comparison import Comparison, ComparisonFailed, compare
from fmnist.evaluation.gate import Verdict, undecided
from fmnist.evaluation.metrics import Evaluation, evaluate
from fmnist.promotion.judge import Judge, TestSet
from fmnist.promotion.publish import publish_run, write_run
from fmnist.promotion.workspace import finished_folder, workspace
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, promote_run, retire
from fmnist.registry.records import ChampionRecord, Manifest, RetiredError, from_json, to_json
from fmnist.registry.runs import later_verdicts, read_record, read_run, seal_run, upload_run
from fmnist.report.figures import FIGURES
from fmnist.report.run import Run
from fmnist.settings import GateSettings, Settings, StoreSettings
from fmnist.store.base import Conflict, Store
from fmnist.store.folder import FolderStore
from fmnist.training.records import TrainingResult
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in

DOCUMENTED = records.FILES | {"manifest.json"}
LABELS = np.resize(np.arange(10, dtype=np.uint8), records.TEST_IMAGES)
# A made-up model says how many of the test images it classifies right.
GOOD, POOR, BETTER = b"9142", b"8790", b"9300"
COMPARED = "figures/champion_and_challenger.png"
TEST_SET = records.run().data.test_set


def score(model: bytes) -> npt.NDArray[np.float32]:
    """The probabilities that a made-up model gives: the first so many images are right."""
    if not model.isdigit():
        raise DamagedError("model.keras holds no network of this project")
    predicted = LABELS.copy()
    predicted[int(model) :] = (predicted[int(model) :] + 1) % 10
    probabilities: npt.NDArray[np.float32] = np.eye(10, dtype=np.float32)[predicted]
    return probabilities


@functools.cache
def judged(model: bytes) -> Evaluation:
    """The figures of a made-up model."""
    return evaluate(score(model), LABELS, records.CLASS_NAMES)


def judge_of(
    store: Store,
    run_id: str = records.RUN_ID,
    gate: GateSettings | None = None,
    score: Callable[[bytes], npt.NDArray[np.float32]] = score,
) -> Judge:
    """The judge of a run, who scores made-up models."""
    test_set = TestSet(LABELS, records.CLASS_NAMES, TEST_SET, score)
    return Judge(store, test_set, gate or GateSettings(), run_id, conditional_writes=True)


class Trouble(Exception):
    """Whatever may go wrong inside the block."""


def finish(folder: Path) -> None:
    """Leave the files that the stages of a run would."""
    for name in ("train.npz", "validation.npz", "test.npz"):
        (folder / name).write_bytes(b"arrays")
    finished = finished_folder(folder)
    (finished / "figures").mkdir()
    (finished / "figures" / "a.png").write_bytes(b"figure")
    (finished / keys.MODEL).write_bytes(GOOD)
    seal_run(finished, records.RUN_ID, records.moments(1)[0])


# ---- the work folder ----------------------------------------------------------------------------


def test_a_success_leaves_nothing_on_this_machine(tmp_path: Path) -> None:
    """After a block that succeeds the run's work folder is gone with all that was in it."""
    with workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        assert finished_folder(folder).is_dir()
        assert folder == tmp_path / "work" / "id"
        finish(folder)
    assert files_in(tmp_path) == set()
    assert not folder.exists()


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
def test_a_failure_before_the_end_leaves_nothing(
    error: type[BaseException], tmp_path: Path
) -> None:
    """An error before the run was finished removes its work folder, and comes through."""
    with pytest.raises(error), workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        (folder / "train.npz").write_bytes(b"arrays")
        (finished_folder(folder) / "model.keras").write_bytes(b"model")
        raise error
    assert not folder.exists()


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
def test_a_failure_after_the_end_keeps_the_finished_run(
    error: type[BaseException], tmp_path: Path
) -> None:
    """An error after the run was finished keeps exactly the files that make up the run."""
    with pytest.raises(error), workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        finish(folder)
        raise error
    assert files_in(folder) == {"run/model.keras", "run/figures/a.png", "run/manifest.json"}


def test_a_folder_beside_the_finished_run_does_not_hide_the_error(tmp_path: Path) -> None:
    """Tidying up after an error removes folders too, and lets that error through."""
    with pytest.raises(Trouble), workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        finish(folder)
        (folder / "scratch").mkdir()
        (folder / "scratch" / "leftover").write_bytes(b"1")
        raise Trouble
    assert not (folder / "scratch").exists()


def test_the_work_folder_is_in_the_users_cache_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a setting a run is put together below the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with workspace(StoreSettings(), "id") as folder:
        assert folder.is_relative_to(tmp_path)
        assert folder.name == "id"


def test_a_work_folder_may_be_written_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading `~` is the user's home, as it is for the store."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with workspace(StoreSettings(work=Path("~/work")), "id") as folder:
        assert folder == tmp_path / "home" / "work" / "id"


def test_two_runs_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The end of one run leaves the work folder of another alone."""
    settings = StoreSettings(work=tmp_path / "work")
    with workspace(settings, "one") as one:
        with workspace(settings, "two"):
            pass
        assert finished_folder(one).is_dir()


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A work folder that cannot be made is named in one line, with the setting to change."""
    (tmp_path / "taken").write_text("a file")
    with (
        pytest.raises(StoreError) as caught,
        workspace(StoreSettings(work=tmp_path / "taken"), "id"),
    ):
        pytest.fail("the block must not begin")
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE
    assert str(tmp_path / "taken" / "id") in message
    assert "store.work" in message and "\n" not in message


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
    for name in (
        "learning_curves",
        "confusion_matrix",
        "confident_mistakes",
        "champion_and_challenger",
    ):
        monkeypatch.setattr(f"fmnist.report.figures.{name}", lambda *_: "a drawing")
    monkeypatch.setattr("fmnist.report.figures.png", lambda _: b"a figure")


AGAINST = compare(
    "20260301T000000Z-ffffffff",
    score(POOR),
    score(GOOD),
    LABELS,
    records.CLASS_NAMES,
    same_test_set=True,
)


@pytest.mark.parametrize("promoted", [True, False])
@pytest.mark.parametrize(
    ("against", "more"),
    [
        (None, set()),
        (ComparisonFailed("a", "it is damaged"), {keys.COMPARISON}),
        (AGAINST, {keys.COMPARISON, COMPARED}),
    ],
    ids=["alone", "beside a champion that cannot be scored", "beside a champion"],
)
def test_a_run_is_put_together_whole(
    promoted: bool, against: Comparison | ComparisonFailed | None, more: set[str], work: Path
) -> None:
    """All documented files are there, each record reads back, and the manifest lists them all."""
    run = records.run(promoted, folder=work, champion_before=records.champion(), against=against)
    folder = finished_folder(work)
    write_run(run, records.drawn_images(), folder)

    assert files_in(folder) == DOCUMENTED | more
    for name, record, kind in (
        ("evaluation.json", run.evaluation, Evaluation),
        ("verdict.json", run.verdict, Verdict),
        ("training.json", run.training, TrainingResult),
        ("settings.json", run.settings, Settings),
    ):
        assert from_json(kind, (folder / name).read_bytes(), name) == record
    for figure in {*FIGURES.values()} - {COMPARED} | more - {keys.COMPARISON}:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    manifest = from_json(Manifest, (folder / keys.MANIFEST).read_bytes(), keys.MANIFEST)
    assert manifest.run_id == run.run_id
    assert manifest.files.keys() == (DOCUMENTED | more) - {keys.MANIFEST}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("against", [None, AGAINST], ids=["alone", "beside a champion"])
def test_the_report_shows_the_figures_beside_it(against: Comparison | None, work: Path) -> None:
    """The addresses of the figures in the report are those of the files beside it."""
    folder = finished_folder(work)
    run = records.run(folder=work, champion_before=records.champion(), against=against)
    write_run(run, records.drawn_images(), folder)
    report = (folder / "report.md").read_text()
    for title, name in FIGURES.items():
        drawn = name != COMPARED or against is not None
        assert (f"![{title}]({name})" in report) is drawn
        assert (folder / name).is_file() is drawn


def test_no_local_path_or_secret_is_published(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of a run tells the work folder, the home folder, or a key of this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEUSERSKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TheUsersSecret")
    monkeypatch.setenv("HOME", str(tmp_path / "the-users-home"))
    folder = finished_folder(work)
    run = records.run(folder=work)
    run = type(run)(**{**vars(run), "environment": describe_environment()})
    write_run(run, records.drawn_images(), folder)
    for name in DOCUMENTED:
        content = (folder / name).read_bytes()
        for private in (work, tmp_path, "the-users", "THEUSERSKEY", "TheUsersSecret", "npz"):
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
    """A full or read-only disk is reported in one line, with the folder and what to do."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    folder = finished_folder(work)
    with pytest.raises(StoreError) as caught:
        write_run(records.run(folder=work), records.drawn_images(), folder)
    message = str(caught.value)
    assert str(folder) in message and advice in message and "store.work" in message
    assert "\n" not in message
    assert not (folder / keys.MANIFEST).exists()


# ---- publishing ---------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: Path, quick_figures: None) -> Callable[..., tuple[Run, Path]]:
    """Trains, judges and puts together, so to speak: a finished run and its folder."""

    def finish(
        store: Store, model: bytes, run_id: str = records.RUN_ID, gate: GateSettings | None = None
    ) -> tuple[Run, Path]:
        folder = finished_folder(tmp_path / "work" / run_id)
        folder.mkdir(parents=True)
        (folder / keys.MODEL).write_bytes(model)
        found = judge_of(store, run_id, gate).judge(model, seen_generation=0)
        run = records.run(
            run_id=run_id,
            judged=found.evaluation,
            champion_before=found.champion,
            against=found.against,
            folder=tmp_path / "work",
        )
        location = store.location(keys.of_run(run_id))
        run = replace(run, verdict=found.verdict, location=location)
        write_run(run, records.drawn_images(1), folder)
        return run, folder

    return finish


Make = Callable[..., tuple[Run, Path]]


def promote(store: Store, made: tuple[Run, Path]) -> ChampionRecord:
    """Publish a run that becomes the champion."""
    run, folder = made
    publish_run(run, folder, judge_of(store, run.run_id))
    champion = current_champion(store)
    assert champion and champion.run_id == run.run_id
    return champion


@pytest.mark.parametrize("before", [None, records.champion()], ids=["first", "next"])
@pytest.mark.parametrize("model", [GOOD, POOR], ids=["promoted", "rejected"])
def test_only_a_promoted_run_becomes_the_champion(
    model: bytes, before: ChampionRecord | None, make: Make, tmp_path: Path
) -> None:
    """Both kinds of runs are stored completely, but only one that passed the gate moves the champion."""
    store = FolderStore(str(tmp_path / "store"))
    if before:
        store.put_if_absent(keys.CHAMPION, to_json(before))
    run, folder = make(store, model)
    promoted = model == GOOD
    documented = DOCUMENTED | ({keys.COMPARISON} if before else set())
    for _ in range(2):  # a repeat changes nothing
        assert publish_run(run, folder, judge_of(store)) == run
        assert run.verdict.promoted is promoted
        assert files_in(tmp_path / "store" / "runs" / run.run_id) == documented
        champion = current_champion(store)
        assert (champion.run_id if champion else None) == run.champion_after
        if promoted:
            assert champion
            assert champion.run_id == run.run_id
            assert champion.accuracy == run.evaluation.accuracy
            assert champion.previous == (before.run_id if before else None)
            assert champion.by == "flows/train.py"
        else:
            assert champion == before


@pytest.mark.parametrize("temporary", [True, False])
@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        ("put_if_absent", StoreError),
        ("put_if_absent", DamagedError),
        ("put_if_absent", Conflict),
        ("compare_and_swap", StoreError),
        ("compare_and_swap", DamagedError),
    ],
)
def test_a_failed_publication_names_the_folder_that_is_kept(
    refused: str, kind: type[StoreError], temporary: bool, tmp_path: Path
) -> None:
    """If the store fails, the message has the reason and the folder in which the run is kept.

    The kind of failure, by which a program tells what to do, stays what it was.
    """
    store = MemoryStore()

    def refuse(verb: str, key: str) -> None:
        if verb == refused:
            raise kind("the store is on fire", retryable=temporary)

    store.before = refuse
    run = records.run(judged=judged(GOOD))
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
    publish_run(run, kept, judge_of(store))
    champion = current_champion(store)
    assert champion and champion.run_id == records.RUN_ID


def test_a_damaged_champion_does_not_lose_the_run(tmp_path: Path) -> None:
    """A champion that cannot be read fails the publication, but the run's files are stored."""
    store = MemoryStore()
    store.objects[keys.CHAMPION] = b"damaged"
    folder = tmp_path / "work"
    finished_folder(folder).mkdir(parents=True)
    finish(folder)
    run = records.run(judged=judged(GOOD))
    with pytest.raises(DamagedError, match=keys.CHAMPION) as caught:
        publish_run(run, finished_folder(folder), judge_of(store))
    assert caught.value.exit_code == ExitCode.DAMAGED
    assert f"runs/{records.RUN_ID}/{keys.MANIFEST}" in store.objects
    assert store.objects[keys.CHAMPION] == b"damaged"


# ---- read back before it is promoted ------------------------------------------------------------


LIES: dict[str, tuple[bytes | None, str]] = {
    "another model": (POOR, "is not the file"),
    "a byte changed": (b"9301", "is not the file"),
    "cut short": (b"930", "is not the file"),
    "longer": (b"9300\0", "is not the file"),
    "nothing": (b"", "is not the file"),
    "missing": (None, "is missing"),
}


@pytest.mark.parametrize(("content", "told"), LIES.values(), ids=LIES.keys())
def test_a_model_that_reads_back_other_bytes_is_not_promoted(
    content: bytes | None, told: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is named and where the run is kept, and the champion stays; a retry succeeds."""
    store = MemoryStore()
    old = promote(store, make(store, GOOD, "old"))
    run, folder = make(store, BETTER)
    model = f"runs/{run.run_id}/{keys.MODEL}"
    with monkeypatch.context() as patched:
        patched.setattr(
            store, "read", lambda key: content if key == model else store.objects.get(key)
        )
        with pytest.raises(DamagedError, match=f"{model} {told}") as caught:
            publish_run(run, folder, judge_of(store))
    assert f"the finished run is kept in {folder}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.DAMAGED
    assert current_champion(store) == old
    assert publish_run(run, folder, judge_of(store)).verdict.promoted
    champion = current_champion(store)
    assert champion and champion.run_id == run.run_id


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda model: score(POOR), "predicts other classes than the model that was judged"),
        (lambda model: score(b"not a model"), "holds no network of this project"),
    ],
    ids=["other predictions", "cannot be loaded"],
)
def test_a_model_that_answers_otherwise_when_read_back_is_not_promoted(
    answer: Callable[[bytes], npt.NDArray[np.float32]], told: str, make: Make
) -> None:
    """The right bytes are not enough: loaded from the store, it must predict the same classes."""
    store = MemoryStore()
    old = promote(store, make(store, GOOD, "old"))
    run, folder = make(store, BETTER)
    with pytest.raises(DamagedError, match=told) as caught:
        publish_run(run, folder, judge_of(store, score=answer))
    assert f"the finished run is kept in {folder}" in str(caught.value)
    assert caught.value.exit_code == ExitCode.DAMAGED and not caught.value.retryable
    assert current_champion(store) == old
    publish_run(run, folder, judge_of(store))
    champion = current_champion(store)
    assert champion and champion.run_id == run.run_id


def test_what_is_read_back_is_what_the_store_holds(make: Make) -> None:
    """The model that is scored again comes from the store, after all of the run was stored."""
    store = MemoryStore()
    run, folder = make(store, GOOD)
    seen = []

    def watch(model: bytes) -> npt.NDArray[np.float32]:
        seen.append((model, f"runs/{run.run_id}/{keys.MANIFEST}" in store.objects))
        (folder / keys.MODEL).write_bytes(POOR)
        return score(model)

    publish_run(run, folder, judge_of(store, score=watch))
    assert seen == [(GOOD, True)]


def test_a_rejected_model_costs_no_second_look(make: Make) -> None:
    """A run that moves nothing is stored without being read back."""
    store = MemoryStore()
    run, folder = make(store, POOR)

    def refuse(model: bytes) -> npt.NDArray[np.float32]:
        pytest.fail("scored for nothing")

    assert publish_run(run, folder, judge_of(store, score=refuse)) == run


# ---- a champion that moved meanwhile ------------------------------------------------------------


BETTER_ONLY = GateSettings(champion="better")


def test_a_run_that_was_overtaken_is_judged_again_and_promoted(make: Make) -> None:
    """The run that is returned has the later verdict, champion and comparison."""
    store = MemoryStore()
    first = promote(store, make(store, b"9050", "first"))
    run, folder = make(store, BETTER, gate=BETTER_ONLY)
    rival = promote(store, make(store, GOOD, "rival"))
    assert run.champion_before == first and run.verdict.promoted

    published = publish_run(run, folder, judge_of(store, gate=BETTER_ONLY))
    assert published.champion_before == rival
    assert isinstance(published.against, Comparison)
    assert (published.against.champion, published.against.gained) == ("rival", 9300 - 9142)
    assert (published.verdict.promoted, published.verdict.generation) == (True, 2)
    assert published == replace(
        run, verdict=published.verdict, champion_before=rival, against=published.against
    )
    champion = current_champion(store)
    assert champion and (champion.run_id, champion.previous) == (run.run_id, "rival")
    assert champion.reason == published.verdict.reason
    assert later_verdicts(store, run.run_id) == []


def test_a_run_that_was_overtaken_may_be_rejected(make: Make) -> None:
    """The rival stays the champion; the later verdict is returned, and recorded in the store."""
    store = MemoryStore()
    promote(store, make(store, b"9050", "first"))
    run, folder = make(store, GOOD, gate=BETTER_ONLY)
    rival = promote(store, make(store, BETTER, "rival"))
    assert run.verdict.promoted

    published = publish_run(run, folder, judge_of(store, gate=BETTER_ONLY))
    assert not published.verdict.promoted
    assert published.champion_before == rival
    assert published.champion_after == "rival"
    assert isinstance(published.against, Comparison)
    assert (published.against.champion, published.against.lost) == ("rival", 9300 - 9142)
    assert current_champion(store) == rival
    assert later_verdicts(store, run.run_id) == [published.verdict]
    # What was stored of the run itself stays as it was.
    stored = read_run(store, run.run_id)
    assert read_record(store, stored, keys.VERDICT, Verdict) == run.verdict


def test_a_champion_that_moves_at_the_very_end_is_heeded(make: Make) -> None:
    """A rival that comes between reading back and the swap is judged against as well."""
    store = MemoryStore()
    run, folder = make(store, GOOD, gate=BETTER_ONLY)
    better = make(store, BETTER, "rival")

    def overtake(verb: str, key: str) -> None:
        if (verb, key) == ("compare_and_swap", keys.CHAMPION):
            store.before = lambda verb, key: None
            promote(store, better)

    store.before = overtake
    published = publish_run(run, folder, judge_of(store, gate=BETTER_ONLY))
    champion = current_champion(store)
    assert champion and champion.run_id == "rival"
    assert published.champion_before == champion
    assert later_verdicts(store, run.run_id) == [published.verdict]


@pytest.mark.parametrize("model", [GOOD, POOR])
def test_a_run_that_was_not_decided_is_decided_when_it_is_published(
    model: bytes, make: Make
) -> None:
    """A verdict left open is decided then: promoted, or rejected and recorded."""
    store = MemoryStore()
    run, folder = make(store, model)
    run = replace(run, verdict=undecided("the store was away", 0))
    published = publish_run(run, folder, judge_of(store))
    assert published.verdict.decided
    assert published.verdict.promoted is (model == GOOD)
    champion = current_champion(store)
    assert (champion.run_id if champion else None) == published.champion_after
    kept = later_verdicts(store, run.run_id)
    assert kept == ([] if model == GOOD else [published.verdict])


@pytest.mark.parametrize("overtaken", [True, False], ids=["overtaken", "not decided"])
def test_a_publication_repeated_has_the_verdict_that_counted(overtaken: bool, make: Make) -> None:
    """If every answer to the promotion was lost, the retry returns what was decided before it."""
    store = MemoryStore()
    promote(store, make(store, b"9050", "first"))
    run, folder = make(store, BETTER, gate=BETTER_ONLY)
    if overtaken:
        promote(store, make(store, GOOD, "rival"))
    else:
        run = replace(run, verdict=undecided("the store was away", 0))
    before = current_champion(store)
    assert before

    def lose_answers(verb: str, key: str) -> None:
        if (verb, key) == ("compare_and_swap", keys.CHAMPION):
            store.after = lambda verb, key: None
            raise StoreError("no answer", retryable=True)

    store.after = lose_answers
    judge = judge_of(store, gate=BETTER_ONLY)
    with pytest.raises(StoreError, match="no answer"):
        publish_run(run, folder, judge)
    published = publish_run(run, folder, judge)
    assert (published.verdict.word, published.verdict.generation) == ("promoted", before.generation)
    assert (published.champion_before, published.champion_after) == (before, run.run_id)
    assert isinstance(published.against, Comparison)
    assert published.against.champion == before.run_id
    champion = current_champion(store)
    assert champion and champion.reason == published.verdict.reason
    assert champion.generation == before.generation + 1


def test_a_run_that_a_person_promoted_meanwhile_is_reported_as_promoted(make: Make) -> None:
    """Though the gate would have rejected it: the reason is the person's."""
    store = MemoryStore()
    promote(store, make(store, BETTER, "first"))
    run, folder = make(store, POOR)
    run = replace(run, verdict=undecided("the store was away", 1))
    stored = upload_run(store, folder)
    promote_run(
        store, stored, 0.879, run.verdict, lambda _: run.verdict, by="a person", forced="I want it"
    )
    published = publish_run(run, folder, judge_of(store))
    assert (published.verdict.word, published.champion_after) == ("promoted", run.run_id)
    assert published.verdict.reason.startswith("I want it")


def test_a_run_that_was_pruned_is_not_said_to_be_published_yet(make: Make) -> None:
    """The message gives no advice that would not help."""
    store = MemoryStore()
    promote(store, make(store, GOOD, "first"))
    run, folder = make(store, BETTER)
    retire(store, [run.run_id], by="fmnist prune")
    with pytest.raises(RetiredError, match="can no longer become the champion") as caught:
        publish_run(run, folder, judge_of(store))
    assert "fmnist publish" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE


def test_a_comparison_is_stored_with_the_run(make: Make) -> None:
    """With a champion there is `comparison.json`, which reads back equal; without there is none."""
    store = MemoryStore()
    first = make(store, GOOD, "first")
    promote(store, first)
    assert first[0].against is None
    run, folder = make(store, BETTER)
    publish_run(run, folder, judge_of(store))
    assert not (first[1] / keys.COMPARISON).exists()
    stored = read_run(store, run.run_id)
    assert isinstance(run.against, Comparison)
    found = read_record(store, stored, keys.COMPARISON, Comparison)
    assert found == run.against
    assert found.champion == "first"

    del store.objects[f"runs/{run.run_id}/{keys.MODEL}"]
    third, folder = make(store, BETTER, "third")
    publish_run(third, folder, judge_of(store, "third"))
    assert isinstance(third.against, ComparisonFailed)
    stored = read_run(store, "third")
    found_none = read_record(store, stored, keys.COMPARISON, ComparisonFailed)
    assert found_none == third.against


def test_what_killed_runs_left_is_removed_after_a_week_but_no_finished_run(tmp_path: Path) -> None:
    """Unfinished folders of old runs go; a recent one, and one that can be published, stay."""
    for name, age, is_finished in (("old", 8, False), ("recent", 1, False), ("kept", 8, True)):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        if is_finished:
            (run / "manifest.json").write_text("{}")
        past = time.time() - age * 24 * 3600
        os.utime(tmp_path / name, (past, past))
    with workspace(StoreSettings(work=tmp_path), "new"):
        assert {path.name for path in tmp_path.iterdir()} == {"recent", "kept", "new"}
