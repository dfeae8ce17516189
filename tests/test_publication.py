"""Putting a run together, publishing it, and what is left on this machine after a failure."""

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from fmnist import publication, registry
from fmnist.config import Settings, StoreSettings
from fmnist.environment import describe
from fmnist.errors import ExitCode, StoreError
from fmnist.evaluation import Evaluation
from fmnist.gate import Verdict
from fmnist.history import TrainingResult
from fmnist.registry import CHAMPION, MANIFEST, Manifest
from fmnist.store import FolderStore
from tests import records
from tests.conftest import files_in
from tests.records import MemoryStore

DOCUMENTED = records.FILES | {"manifest.json"}


class Trouble(Exception):
    """Whatever may go wrong inside the block."""


def finish(folder: Path) -> None:
    """Leave the files that the stages of a run would."""
    for name in ("train.npz", "validation.npz", "test.npz"):
        (folder / name).write_bytes(b"arrays")
    finished = publication.finished(folder)
    (finished / "figures").mkdir()
    (finished / "figures" / "a.png").write_bytes(b"figure")
    (finished / "model.keras").write_bytes(b"model")
    registry.seal(finished, records.RUN_ID, records.moments(1)[0])


# ---- the work folder ----------------------------------------------------------------------------


def test_a_success_leaves_nothing_on_this_machine(tmp_path: Path) -> None:
    """After a block that succeeds the run's work folder is gone with all that was in it."""
    with publication.workspace(StoreSettings(work=tmp_path / "work"), "id") as folder:
        assert publication.finished(folder).is_dir()
        assert folder == tmp_path / "work" / "id"
        finish(folder)
    assert files_in(tmp_path) == set()
    assert not folder.exists()


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
def test_a_failure_before_the_end_leaves_nothing(
    error: type[BaseException], tmp_path: Path
) -> None:
    """An error before the run was finished removes its work folder, and comes through."""
    with (
        pytest.raises(error),
        publication.workspace(StoreSettings(work=tmp_path / "work"), "id") as folder,
    ):
        (folder / "train.npz").write_bytes(b"arrays")
        (publication.finished(folder) / "model.keras").write_bytes(b"model")
        raise error
    assert not folder.exists()


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
def test_a_failure_after_the_end_keeps_the_finished_run(
    error: type[BaseException], tmp_path: Path
) -> None:
    """An error after the run was finished keeps exactly the files that make up the run."""
    with (
        pytest.raises(error),
        publication.workspace(StoreSettings(work=tmp_path / "work"), "id") as folder,
    ):
        finish(folder)
        raise error
    assert files_in(folder) == {"run/model.keras", "run/figures/a.png", "run/manifest.json"}


def test_a_folder_beside_the_finished_run_does_not_hide_the_error(tmp_path: Path) -> None:
    """Tidying up after an error removes folders too, and lets that error through."""
    with (
        pytest.raises(Trouble),
        publication.workspace(StoreSettings(work=tmp_path / "work"), "id") as folder,
    ):
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
    with publication.workspace(StoreSettings(), "id") as folder:
        assert folder.is_relative_to(tmp_path)
        assert folder.name == "id"


def test_a_work_folder_may_be_written_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading `~` is the user's home, as it is for the store."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with publication.workspace(StoreSettings(work=Path("~/work")), "id") as folder:
        assert folder == tmp_path / "home" / "work" / "id"


def test_two_runs_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The end of one run leaves the work folder of another alone."""
    settings = StoreSettings(work=tmp_path / "work")
    with publication.workspace(settings, "one") as one:
        with publication.workspace(settings, "two"):
            pass
        assert publication.finished(one).is_dir()


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A work folder that cannot be made is named in one line, with the setting to change."""
    (tmp_path / "taken").write_text("a file")
    with (
        pytest.raises(StoreError) as caught,
        publication.workspace(StoreSettings(work=tmp_path / "taken"), "id"),
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
    publication.finished(folder).mkdir(parents=True)
    (publication.finished(folder) / publication.MODEL).write_bytes(b"weights" * 1000)
    return folder


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that cost no time, for tests that look at something else."""
    for name in ("learning_curves", "confusion_matrix", "confident_mistakes"):
        monkeypatch.setattr(f"fmnist.figures.{name}", lambda *_: None)
    monkeypatch.setattr("fmnist.figures.png", lambda _: b"a figure")


@pytest.mark.parametrize("promoted", [True, False])
def test_a_run_is_put_together_whole(promoted: bool, work: Path) -> None:
    """All documented files are there, each record reads back, and the manifest lists them all."""
    run = records.run(promoted, folder=work, champion_before=records.champion())
    folder = publication.finished(work)
    publication.assemble(run, records.drawn_images(), folder)

    assert files_in(folder) == DOCUMENTED
    for name, record, kind in (
        ("evaluation.json", run.evaluation, Evaluation),
        ("verdict.json", run.verdict, Verdict),
        ("training.json", run.training, TrainingResult),
        ("settings.json", run.settings, Settings),
    ):
        assert registry.from_json(kind, (folder / name).read_bytes(), name) == record
    for figure in publication.FIGURES.values():
        assert (folder / figure).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    manifest = registry.from_json(Manifest, (folder / MANIFEST).read_bytes(), MANIFEST)
    assert manifest.run_id == run.run_id
    assert manifest.files.keys() == DOCUMENTED - {MANIFEST}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("quick_figures")
def test_the_report_shows_the_figures_beside_it(work: Path) -> None:
    """The addresses of the figures in the report are those of the files beside it."""
    folder = publication.finished(work)
    publication.assemble(records.run(folder=work), records.drawn_images(), folder)
    report = (folder / "report.md").read_text()
    for title, name in publication.FIGURES.items():
        assert f"![{title}]({name})" in report
        assert (folder / name).is_file()


def test_no_local_path_or_secret_is_published(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of a run tells the work folder, the home folder, or a key of this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEUSERSKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TheUsersSecret")
    monkeypatch.setenv("HOME", str(tmp_path / "the-users-home"))
    folder = publication.finished(work)
    run = records.run(folder=work)
    run = type(run)(**{**vars(run), "environment": describe()})
    publication.assemble(run, records.drawn_images(), folder)
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
    """A full or read-only disk is told in one line, with the folder and what to do."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    folder = publication.finished(work)
    with pytest.raises(StoreError) as caught:
        publication.assemble(records.run(folder=work), records.drawn_images(), folder)
    message = str(caught.value)
    assert str(folder) in message and advice in message and "store.work" in message
    assert "\n" not in message
    assert not (folder / MANIFEST).exists()


# ---- publishing ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("before", [None, records.champion()], ids=["first", "next"])
@pytest.mark.parametrize("promoted", [True, False], ids=["promoted", "rejected"])
def test_only_a_promoted_run_becomes_the_champion(
    promoted: bool, before: registry.Champion | None, work: Path, tmp_path: Path
) -> None:
    """Both kinds of runs are stored whole, but only one that passed the gate moves the champion."""
    store = FolderStore(str(tmp_path / "store"))
    if before:
        store.replace(CHAMPION, registry.to_json(before))
    run = records.run(promoted, folder=work, champion_before=before)
    folder = publication.finished(work)
    publication.assemble(run, records.drawn_images(), folder)
    for _ in range(2):  # a repeat changes nothing
        publication.publish(run, folder, store)
        assert files_in(tmp_path / "store" / "runs" / run.run_id) == DOCUMENTED
        champion = registry.champion(store)
        assert (champion.run_id if champion else None) == run.champion_after
        if promoted:
            assert champion
            assert champion.run_id == run.run_id
            assert champion.accuracy == run.evaluation.accuracy
            assert champion.previous == (before.run_id if before else None)
        else:
            assert champion == before


@pytest.mark.parametrize("temporary", [True, False])
@pytest.mark.parametrize("refused", ["create", "replace"])
def test_a_failed_publication_names_the_folder_that_is_kept(
    refused: str, temporary: bool, tmp_path: Path
) -> None:
    """If the store fails, the message has the reason and the folder in which the run is kept."""
    store = MemoryStore()

    def refuse(verb: str, key: str) -> None:
        if verb == refused:
            raise StoreError("the store is on fire", temporary=temporary)

    store.before = refuse
    with (
        pytest.raises(StoreError) as caught,
        publication.workspace(StoreSettings(work=tmp_path / "work"), records.RUN_ID) as folder,
    ):
        finish(folder)
        publication.publish(records.run(), publication.finished(folder), store)
    kept = tmp_path / "work" / records.RUN_ID / "run"
    assert str(caught.value) == f"the store is on fire; the finished run is kept in {kept}"
    assert caught.value.temporary is temporary
    assert files_in(kept) == {"model.keras", "figures/a.png", "manifest.json"}
    assert registry.champion(store) is None

    store.before = lambda verb, key: None
    publication.publish(records.run(), kept, store)
    champion = registry.champion(store)
    assert champion and champion.run_id == records.RUN_ID


def test_a_damaged_champion_does_not_lose_the_run(tmp_path: Path) -> None:
    """A champion that cannot be read fails the publication, but the run's files are stored."""
    store = MemoryStore()
    store.objects[CHAMPION] = b"damaged"
    folder = tmp_path / "work"
    publication.finished(folder).mkdir(parents=True)
    finish(folder)
    with pytest.raises(StoreError, match=CHAMPION):
        publication.publish(records.run(), publication.finished(folder), store)
    assert f"runs/{records.RUN_ID}/{MANIFEST}" in store.objects
    assert store.objects[CHAMPION] == b"damaged"


def test_what_killed_runs_left_is_removed_after_a_week_but_no_finished_run(tmp_path: Path) -> None:
    """Unfinished folders of old runs go; a recent one, and one that can be published, stay."""
    for name, age, is_finished in (("old", 8, False), ("recent", 1, False), ("kept", 8, True)):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        if is_finished:
            (run / "manifest.json").write_text("{}")
        past = time.time() - age * 24 * 3600
        os.utime(tmp_path / name, (past, past))
    with publication.workspace(StoreSettings(work=tmp_path), "new"):
        assert {path.name for path in tmp_path.iterdir()} == {"recent", "kept", "new"}
