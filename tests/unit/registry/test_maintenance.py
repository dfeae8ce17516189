"""Verifying, pruning and pulling: what is removed in which order, and what never is."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fmnist.errors import DamagedError, ExitCode, SettingsError, StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    generation_of,
    promote_run,
    read_champion,
    roll_back,
)
from fmnist.registry.leftovers import GRACE
from fmnist.registry.prune import Removal, plan_prune, prune_store
from fmnist.registry.pull import pull_champion
from fmnist.registry.records import (
    VERDICT,
    ChampionRecord,
    FileEntry,
    Manifest,
    StoredRun,
    digest_of,
    history_key,
    to_json,
)
from fmnist.registry.runs import find_run, list_run_ids, read_run, record_verdict
from fmnist.registry.usage import record_use
from fmnist.registry.verify import verify_store
from fmnist.store.base import Store
from fmnist.store.folder import FolderStore
from tests.support.memory import MemoryStore, WatchedFolder
from tests.support.processes import files_in, no_file_larger_than

PASSED = Verdict(True, (), "it is good enough")
FILES = {"model.keras": b"model", "figures/a.png": b"figure", "report.md": b"report"}
# By then all that a test stores is old enough.
NOW = datetime.now(UTC) + 2 * GRACE
LATER = NOW + GRACE + timedelta(minutes=1)


def run_id(number: int) -> str:
    """The ids of runs in the order of time."""
    return f"20260301T{number:06d}Z-0a1b2c3d"


def load(content: bytes) -> None:
    """Take everything but one text for a network."""
    if content == b"no network":
        raise DamagedError("model.keras holds no network of this project: really")


def put(
    store: Store,
    number: int,
    *,
    promote: bool = False,
    model: bytes = b"model",
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> StoredRun:
    """Store a run of three small files and more, and promote it if asked to."""
    contents = {**FILES, "model.keras": model, **more}
    for name, content in contents.items():
        store.put_if_absent(f"runs/{run_id(number)}/{name}", content)
    files = {name: FileEntry(len(c), digest_of(c)) for name, c in contents.items()}
    content = to_json(Manifest(2, run_id(number), NOW, files))
    store.put_if_absent(f"runs/{run_id(number)}/manifest.json", content)
    run = read_run(store, run_id(number))
    if promote:
        advance(store, run)
    return run


def advance(store: Store, run: StoredRun) -> None:
    """Make a stored run the champion."""
    verdict = replace(PASSED, generation=generation_of(current_champion(store)))
    promote_run(store, run, 0.91, verdict, lambda _: verdict, by="test")


def age(store: MemoryStore | FolderStore, moment: datetime = NOW) -> None:
    """Make everything that is stored as old as that."""
    if isinstance(store, MemoryStore):
        store.modified = dict.fromkeys(store.modified, moment)
        return
    for path in Path(store.location("")).rglob("*"):
        os.utime(path, (moment.timestamp(), moment.timestamp()))


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | WatchedFolder:
    """A store in memory or in a folder, both with hooks around their writes."""
    return MemoryStore() if request.param == "memory" else WatchedFolder(str(tmp_path / "store"))


def champion(store: Store) -> ChampionRecord:
    """The champion in force."""
    found = current_champion(store)
    assert found
    return found


# ---- what is kept -------------------------------------------------------------------------------


def test_the_newest_and_the_champions_are_kept(store: MemoryStore) -> None:
    """Kept are the newest runs, the champion, and as many champions before it."""
    for number in range(1, 11):
        put(store, number, promote=number in (1, 2, 3, 4))
    assert plan_prune(store, 2, NOW).runs == tuple(run_id(n) for n in (1, 5, 6, 7, 8))
    assert plan_prune(store, 1, NOW).runs == tuple(run_id(n) for n in (1, 2, 5, 6, 7, 8, 9))
    assert plan_prune(store, 3, NOW).runs == tuple(run_id(n) for n in (5, 6, 7))
    assert plan_prune(store, 10, NOW).runs == ()


def test_the_runs_that_rollbacks_lead_to_are_kept(store: MemoryStore) -> None:
    """After a rollback the one to go back to next may be far back in the history; it is kept."""
    for number in range(1, 11):
        put(store, number, promote=number <= 4)
    for _ in range(2):
        roll_back(store, None, reason="", by="test")
    assert (champion(store).run_id, champion(store).rollback_to) == (run_id(2), run_id(1))
    assert run_id(1) not in plan_prune(store, 1, NOW).runs
    prune_store(store, 1, NOW, by="test")
    assert roll_back(store, None, reason="", by="test").run_id == run_id(1)


def test_champions_that_no_rollback_leads_to_any_more_are_kept(store: MemoryStore) -> None:
    """After a rollback to the first champion the later ones still count as champions before it."""
    for number in range(1, 9):
        put(store, number, promote=number < 4)
    roll_back(store, run_id(1), reason="", by="test")
    assert champion(store).rollback_to is None
    assert plan_prune(store, 1, NOW).runs == tuple(run_id(n) for n in (2, 4, 5, 6, 7))
    assert plan_prune(store, 2, NOW).runs == tuple(run_id(n) for n in (4, 5, 6))


def test_a_damaged_run_is_none_of_those_to_keep(store: MemoryStore) -> None:
    """Only runs whose manifest can be read count; a newer damaged one is left to be looked at."""
    for number in range(1, 6):
        put(store, number, promote=number == 1)
    overwrite(store, f"runs/{run_id(5)}/manifest.json", b"{}")
    assert plan_prune(store, 2, NOW).runs == (run_id(2),)


def overwrite(store: Store, key: str, content: bytes) -> None:
    """Put other bytes into an object, as no publisher would."""
    store.delete(key)
    store.put_if_absent(key, content)


def test_an_old_run_without_manifest_is_removed(store: MemoryStore) -> None:
    """What has had no manifest for more than a day is no run that is being published."""
    put(store, 1, promote=True)
    store.put_if_absent(f"runs/{run_id(2)}/model.keras", b"model")
    age(store)
    removed = prune_store(store, 1, LATER, by="test")
    assert [found.key for found in removed.leftovers] == [f"runs/{run_id(2)}/"]
    assert list_run_ids(store) == [run_id(1)]
    assert run_id(2) in champion(store).retired


def test_a_young_run_without_manifest_stays(store: MemoryStore) -> None:
    """Within a day of its newest object nothing of it is removed."""
    put(store, 1, promote=True)
    store.put_if_absent(f"runs/{run_id(2)}/model.keras", b"model")
    age(store)
    assert prune_store(store, 1, NOW + GRACE, by="test").leftovers == ()
    assert run_id(2) in list_run_ids(store)


def test_what_is_no_runs_name_never_reaches_the_head(store: MemoryStore) -> None:
    """A folder with another name is left alone, since the head could not be read with it inside."""
    put(store, 1, promote=True)
    for key in ("runs/some notes/a.txt", "runs/!x/manifest.json"):
        store.put_if_absent(key, b"1")
    age(store)
    prune_store(store, 1, LATER, by="test")
    assert champion(store).retired == ()
    assert store.read("runs/some notes/a.txt") and store.read("runs/!x/manifest.json")
    found = verify_store(store, load, LATER).leftovers
    assert {(item.key, item.safe) for item in found} == {
        ("runs/some notes/", False),
        ("runs/!x/", False),
    }


def test_nothing_is_planned_before_the_first_promotion(store: MemoryStore) -> None:
    """Without a head nothing can be retired, so nothing is removed."""
    put(store, 1)
    store.put_if_absent(f"runs/{run_id(2)}/model.keras", b"model")
    age(store)
    assert plan_prune(store, 1, LATER) == Removal((), (), 0)


def test_a_gap_in_the_history_stops_a_prune(store: MemoryStore) -> None:
    """Where nobody knows which champions there were, nothing is removed."""
    for number in range(1, 6):
        put(store, number, promote=number < 4)
    store.delete(history_key(2))
    with pytest.raises(DamagedError, match="the history has a gap"):
        prune_store(store, 1, NOW, by="test")
    assert len(list_run_ids(store)) == 5


# ---- how it is removed --------------------------------------------------------------------------


def test_runs_are_retired_before_anything_is_removed(store: MemoryStore) -> None:
    """The head names a run as retired first; its manifest goes before its other files."""
    for number in range(1, 5):
        run = put(store, number, promote=number == 3)
    record_verdict(store, read_run(store, run_id(1)), PASSED)
    deleted: list[str] = []

    def watch(verb: str, key: str) -> None:
        if verb == "delete":
            deleted.append(key)
            assert key.split("/")[1] in champion(store).retired

    store.before = watch
    removed = prune_store(store, 1, NOW, by="fmnist prune")
    assert removed.runs == (run_id(1), run_id(2))
    assert deleted[0] == f"runs/{run_id(1)}/manifest.json"
    below = [key for key in deleted if run_id(2) in key]
    assert below[0].endswith("manifest.json")
    assert store.list_names("verdicts/") == []
    assert list_run_ids(store) == [run_id(4), run_id(3)]
    head = champion(store)
    assert (head.move, head.by, head.run_id) == ("retirement", "fmnist prune", run_id(3))
    assert removed.size == 2 * (sum(map(len, FILES.values())) + len(run.content))


def test_many_runs_are_retired_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head names a hundred runs at a time, and no longer those that are gone."""
    store = MemoryStore()
    for number in range(1, 253):
        put(store, number, promote=number == 252)
    removed = prune_store(store, 1, NOW, by="test")
    assert len(removed.runs) == 251
    assert champion(store).generation == 1 + 3
    assert max(len(head.retired) for head in champion_history(store)) <= 200
    assert len(champion(store).retired) <= 100 + 51
    assert list_run_ids(store) == [run_id(252)]


def test_a_prune_that_was_cut_short_is_finished(store: MemoryStore) -> None:
    """Whatever was deleted when it died, the next one removes the rest, young or not."""

    class Killed(Exception):
        pass

    for stop in range(1, 12):
        for number in range(1, 4):
            with contextlib.suppress(StoreError):
                put(store, 10 * stop + number, promote=number == 3)
        count = 0

        def kill(verb: str, key: str, stop: int = stop) -> None:
            nonlocal count
            count += verb == "delete"
            if count == stop:
                raise Killed

        store.before = kill
        with contextlib.suppress(Killed):
            prune_store(store, 1, NOW, by="test")
        store.before = lambda verb, key: None
        prune_store(store, 1, NOW, by="test")
        for run in list_run_ids(store):
            assert find_run(store, run)
        assert len(list_run_ids(store)) <= 3
        assert verify_store(store, load, NOW).damage == []


def test_a_run_that_another_prune_removed_and_somebody_published_again_stays(
    store: MemoryStore,
) -> None:
    """A slow prune removes nothing on the strength of a retirement that is over."""
    runs = [put(store, number, promote=True) for number in range(1, 6)]

    def meanwhile(verb: str, key: str) -> None:
        if (verb, key) != ("delete", f"runs/{run_id(1)}/manifest.json"):
            return
        store.before = lambda verb, key: None
        prune_store(store, 2, NOW, by="another")
        for number in (6, 7):
            put(store, number, promote=True)
        prune_store(store, 1, NOW, by="another")
        advance(store, put(store, 2))

    store.before = meanwhile
    assert runs[1].run_id not in prune_store(store, 2, NOW, by="test").runs
    champion, files = read_champion(store)
    assert champion.run_id == run_id(2) and len(files) == len(FILES) + 1


@pytest.mark.parametrize("word", ["promoted", "undecided", "rejected", "damaged"])
def test_a_run_that_may_be_promoted_yet_is_kept_for_a_day(word: str, store: MemoryStore) -> None:
    """Between its manifest and its promotion a run is whole and nobody's; one rejected is not."""
    content = b"damaged"
    if word != "damaged":
        verdict = replace(PASSED, promoted=word == "promoted", decided=word != "undecided")
        content = to_json(verdict)
    put(store, 1, more={VERDICT: content})
    for number in (2, 3):
        put(store, number, promote=True)
    going = plan_prune(store, 1, datetime.now(UTC)).runs
    assert going == ((run_id(1),) if word == "rejected" else ())
    assert plan_prune(store, 1, NOW).runs == (run_id(1),)


def test_a_run_promoted_at_the_same_time_is_not_removed(store: MemoryStore) -> None:
    """A run that becomes the champion between plan and retirement stays whole."""
    runs = [put(store, number, promote=number == 4) for number in range(1, 6)]
    done: list[bool] = []

    def promote_first(verb: str, key: str) -> None:
        if key == "champion.json" and not done:
            done.append(True)
            advance(store, runs[0])

    store.before = promote_first
    removed = prune_store(store, 1, NOW, by="test")
    assert run_id(1) not in removed.runs and run_id(2) in removed.runs
    assert champion(store).run_id == run_id(1)
    read_champion(store)


def test_a_retired_run_cannot_be_promoted(store: MemoryStore) -> None:
    """From its retirement on no promotion brings a run back, though its files are still there."""
    runs = [put(store, number, promote=number == 2) for number in range(1, 5)]

    def promote_retired(verb: str, key: str) -> None:
        if verb == "delete":
            store.before = lambda verb, key: None
            with pytest.raises(StoreError, match="was taken out"):
                advance(store, runs[0])

    store.before = promote_retired
    assert run_id(1) in prune_store(store, 1, NOW, by="test").runs
    assert champion(store).run_id == run_id(2)


def test_strays_and_verdicts_of_removed_runs_go(store: MemoryStore) -> None:
    """Old objects that no manifest lists, and verdicts about no run, are removed; the run stays."""
    run = put(store, 1, promote=True)
    store.put_if_absent(f"runs/{run_id(1)}/figures/old.png", b"1234")
    store.put_if_absent(f"verdicts/{run_id(7)}/00000001-abcdef01.json", b"12")
    age(store)
    assert plan_prune(store, 1, NOW + GRACE).leftovers == ()
    removed = prune_store(store, 1, LATER, by="test")
    assert [(found.key, found.size) for found in removed.leftovers] == [
        (f"runs/{run_id(1)}/figures/old.png", 4),
        (f"verdicts/{run_id(7)}/", 2),
    ]
    assert removed.size == 6
    assert set(store.list_entries("runs/")) == {
        f"runs/{run_id(1)}/{name}" for name in (*run.manifest.files, "manifest.json")
    }
    assert store.list_names("verdicts/") == []


def test_cut_off_writes_in_a_folder_are_leftovers(tmp_path: Path) -> None:
    """What a killed process was writing beside an object is told, and removed after a day."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promote=True)
    parts = [
        f"runs/{run_id(1)}/.abc.part",
        f"runs/{run_id(2)}/.abc.part",
        ".champion.part",
        "history/.x.part",
        ".probe-0123",
    ]
    for part in parts:
        path = tmp_path / "store" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    age(store)
    found = verify_store(store, load, NOW + GRACE).leftovers
    assert {item.key for item in found} == set(parts)
    assert not any(item.safe for item in found)
    prune_store(store, 1, LATER, by="test")
    assert not [name for name in files_in(tmp_path / "store") if ".part" in name or "prob" in name]
    assert not (tmp_path / "store" / "runs" / run_id(2)).exists()
    read_champion(store)


# ---- verify -------------------------------------------------------------------------------------


def test_a_store_in_order_has_no_faults(store: MemoryStore) -> None:
    """Every run is read, and nothing is wrong or left over after an ordinary life."""
    for number in range(1, 6):
        put(store, number, promote=number < 4)
    record_use(store, "ab" * 32, run_id(1))
    record_verdict(store, read_run(store, run_id(4)), PASSED)
    roll_back(store, None, reason="", by="test")
    report = verify_store(store, load, NOW)
    assert report.damage == [] and report.leftovers == ()
    assert [run.run_id for run in report.runs] == [run_id(number) for number in range(1, 6)]
    assert {(run.files, run.size) for run in report.runs} == {(3, sum(map(len, FILES.values())))}


@pytest.mark.parametrize(
    ("key", "content", "part"),
    [
        (f"runs/{run_id(1)}/report.md", b"rEport", "report.md is not the file"),
        (f"runs/{run_id(1)}/report.md", None, "report.md is not there"),
        (f"runs/{run_id(1)}/manifest.json", b"{}", "(its SHA-256 differs)"),
        (f"runs/{run_id(3)}/manifest.json", b"{}", "manifest.json cannot be read"),
        (f"runs/{run_id(2)}/manifest.json", None, "although the run is the champion"),
        ("champion.json", b"{}", "champion.json cannot be read"),
        ("history/00000001.json", None, "the history has a gap"),
        ("history/00000001.json", b"[]", "00000001.json cannot be read"),
        ("history/00000002.json", b"other", "00000002.json is no earlier head"),
        ("history/00000007.json", b"later", "00000007.json is no earlier head"),
        ("history/notes.txt", b"mine", "notes.txt is no earlier head"),
        (f"test-sets/{'ab' * 32}.json", b"{}", ".json cannot be read"),
        (f"verdicts/{run_id(1)}/00000001-abcdef01.json", b"{}", "abcdef01.json cannot be read"),
    ],
)
def test_each_kind_of_damage_is_found(
    key: str, content: bytes | None, part: str, store: MemoryStore
) -> None:
    """Whatever is changed, missing or too much is told by its place, as one fault."""
    for number in (1, 2, 3):
        put(store, number, promote=number < 3)
    store.delete(key)
    if content is not None:
        store.put_if_absent(key, content)
    (fault,) = verify_store(store, load, NOW).damage
    assert part in fault and key.rpartition("/")[2] in fault
    assert "\n" not in fault


def test_a_model_that_holds_no_network_is_a_fault(store: MemoryStore) -> None:
    """A model whose digest is right but that cannot be loaded is told with its place."""
    put(store, 1, model=b"no network")
    (fault,) = verify_store(store, load, NOW).damage
    where = store.location(f"runs/{run_id(1)}/model.keras")
    assert fault == f"{where}: model.keras holds no network of this project: really"


def test_the_copy_that_a_cut_off_move_left_is_no_fault(store: MemoryStore) -> None:
    """The head's own copy in the history is what a publisher leaves that dies before the swap."""
    put(store, 1, promote=True)
    content = store.read("champion.json")
    assert content
    store.put_if_absent(history_key(1), content)
    assert verify_store(store, load, NOW).damage == []


def test_a_run_removed_while_it_is_read_is_no_fault(store: MemoryStore) -> None:
    """A prune at the same time does not look like damage."""
    for number in range(1, 5):
        put(store, number, promote=number == 4)

    def prune_now(content: bytes) -> None:
        prune_store(store, 1, NOW, by="test")

    report = verify_store(store, prune_now, NOW)
    assert report.damage == []


@pytest.mark.parametrize("place", range(8))
def test_a_promotion_while_the_history_is_checked_is_no_fault(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it comes, the heads that it archives are not taken for strangers."""
    store = MemoryStore()
    for number in range(1, 4):
        put(store, number, promote=True)
    fourth = put(store, 4)
    seen: list[str] = []

    def watched(real: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(key: str) -> Any:
            seen.append(key)
            if len(seen) == place + 1:
                advance(store, fourth)
            return real(key)

        return read

    for verb in ("read", "get", "list_entries"):
        monkeypatch.setattr(store, verb, watched(getattr(store, verb)))
    assert verify_store(store, load, NOW).damage == []


def test_a_write_that_ends_while_leftovers_are_listed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its temporary file may be gone when it is looked at."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promote=True)
    for name in (".a.part", ".b.part"):
        (tmp_path / "store" / name).write_bytes(b"1")
    lstat = Path.lstat

    def vanish(path: Path) -> os.stat_result:
        if path.name == ".a.part":
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", vanish)
    assert [found.key for found in verify_store(store, load, NOW).leftovers] == [".b.part"]


def test_a_link_in_a_folder_store_is_named(tmp_path: Path) -> None:
    """A symbolic link ends it with a line that names the link: nobody knows where it leads."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promote=True)
    link = tmp_path / "store" / "runs" / run_id(1) / "report.md"
    link.unlink()
    link.symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="report.md is a symbolic link"):
        verify_store(store, load, NOW)
    with pytest.raises(StoreError, match="report.md is a symbolic link"):
        prune_store(store, 1, NOW, by="test")


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_store_that_goes_away_is_no_damage(reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store itself cannot be read (any more), that is the error, not its runs."""
    store = MemoryStore()
    if reads:
        put(store, 1)
    seen: list[str] = []

    def gone(key: str) -> bytes | None:
        seen.append(key)
        if len(seen) > reads:
            raise StoreError("bucket 'b' does not exist")
        return store.objects.get(key)

    monkeypatch.setattr(store, "read", gone)
    monkeypatch.setattr(store, "get", gone)
    with pytest.raises(StoreError, match="does not exist") as caught:
        verify_store(store, load, NOW)
    assert caught.value.exit_code == ExitCode.STORE


def test_one_run_is_verified_alone(store: MemoryStore) -> None:
    """Only that run is read, with its strays; another one's damage does not count."""
    for number in (1, 2):
        put(store, number, promote=number == 1)
    overwrite(store, f"runs/{run_id(2)}/report.md", b"other")
    store.put_if_absent(f"runs/{run_id(1)}/stray", b"1")
    report = verify_store(store, load, NOW, run_id(1))
    assert report.damage == [] and len(report.runs) == 1
    assert [found.key for found in report.leftovers] == [f"runs/{run_id(1)}/stray"]
    assert verify_store(store, load, NOW, run_id(2)).damage
    overwrite(store, f"runs/{run_id(1)}/manifest.json", b"{}")
    (fault,) = verify_store(store, load, NOW, run_id(1)).damage
    assert "not the manifest that was promoted" in fault
    with pytest.raises(StoreError, match="is no run of this store"):
        verify_store(store, load, NOW, run_id(3))


# ---- pull ---------------------------------------------------------------------------------------


def test_a_pulled_champion_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up in the middle, neither the folder nor anything beside it is left."""
    store = MemoryStore()
    put(store, 1, promote=True, model=b"m" * 100_000)
    (tmp_path / "here").mkdir()
    with no_file_larger_than(50_000), pytest.raises(StoreError, match="cannot be written"):
        pull_champion(store, tmp_path / "here" / "champion")
    assert list((tmp_path / "here").iterdir()) == []
    pulled = pull_champion(store, tmp_path / "here" / "champion")
    assert pulled.new and files_in(pulled.folder) == set(pulled.files) == {*FILES, "manifest.json"}


def test_a_folder_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that make the same folder at once, the second ends with an error."""
    store = MemoryStore()
    put(store, 1, promote=True)
    folder = tmp_path / "here" / "champion"
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        folder.mkdir()
        (folder / "mine").write_text("mine")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(StoreError, match="cannot be written"):
        pull_champion(store, folder)
    assert files_in(tmp_path / "here") == {"champion/mine"}


def test_a_link_in_the_folders_place_is_left(tmp_path: Path) -> None:
    """A symbolic link, even one that leads nowhere, is something else in the folder's place."""
    store = MemoryStore()
    put(store, 1, promote=True)
    (tmp_path / "champion").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="is there already"):
        pull_champion(store, tmp_path / "champion")
    assert (tmp_path / "champion").is_symlink()
