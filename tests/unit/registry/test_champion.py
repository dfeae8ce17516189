"""Runs and the champion: what is written, in which order, and what a crash leaves behind."""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fmnist.errors import DamagedError, ExitCode, SettingsError, StoreError
from fmnist.evaluation.gate import Verdict, undecided
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    generation_of,
    promote_run,
    read_champion,
    retire,
    roll_back,
)
from fmnist.registry.records import (
    CHAMPION,
    EVALUATION,
    FORMAT,
    MANIFEST,
    ChampionRecord,
    FileEntry,
    Manifest,
    PromotionResult,
    StoredRun,
    TestSetUsage,
    checked_run_id,
    from_json,
    history_key,
    new_run_id,
    run_key,
    to_json,
)
from fmnist.registry.runs import (
    find_run,
    later_verdicts,
    list_run_ids,
    read_file,
    read_record,
    read_run,
    record_verdict,
    seal_run,
    upload_run,
)
from fmnist.registry.usage import _REMEMBERED, record_use
from fmnist.store.base import Conflict, Store
from fmnist.store.folder import FolderStore
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in

NOW = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
FILES = {"model.keras": b"weights" * 1000, "figures/a.png": b"\x89PNG", "evaluation.json": b"{}"}


Put = Callable[[Store, str], StoredRun]
ALL = {*FILES, "id", MANIFEST}
BY = "tests"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals are parted without waiting."""
    monkeypatch.setattr("fmnist.registry.champion._LONGEST_PAUSE", 0)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return seal(tmp_path / "run", records.RUN_ID)


def seal(folder: Path, run_id: str) -> Path:
    """Make the folder of a finished run, whose model is its own."""
    for name, content in (FILES | {"id": run_id.encode()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal_run(folder, run_id, NOW)
    return folder


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Change a file of a finished run as if it had been so from the beginning."""
    (folder / MANIFEST).unlink()
    (folder / name).write_bytes(content)
    seal_run(folder, records.RUN_ID, NOW)


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Publishes a run of this id."""
    return lambda store, run_id: upload_run(store, seal(tmp_path / f"of-{run_id}", run_id))


def passed(head: ChampionRecord | None) -> Verdict:
    """A verdict that promotes, whoever is the champion."""
    return Verdict(True, (), "good enough", generation_of(head))


def rejected(head: ChampionRecord | None) -> Verdict:
    """A verdict that does not promote, whoever is the champion."""
    return Verdict(False, (), "not good enough", generation_of(head))


def never(head: ChampionRecord | None) -> Verdict:
    """Nothing is to be decided again."""
    pytest.fail(f"asked again, about {head}")


def promote(store: Store, run: StoredRun, accuracy: float = 0.91) -> ChampionRecord:
    """Promote a run past the champion in force."""
    verdict = passed(current_champion(store))
    outcome = promote_run(store, run, accuracy, verdict, never, by=BY)
    assert outcome.champion
    return outcome.champion


def rollback(store: Store, run_id: str | None = None) -> ChampionRecord:
    """Go back to the champion before, or to a named one."""
    return roll_back(store, run_id, reason="it was worse", by=BY)


def moves(store: Store) -> list[tuple[int, str, str]]:
    """Every move of the head, the latest first: generation, kind and champion."""
    return [(head.generation, head.move, head.run_id) for head in champion_history(store)]


def once(
    store: MemoryStore, moment: str, verb: str, key: str, action: Callable[[], object]
) -> None:
    """Do something before, or after, the next such write."""

    def act(*write: str) -> None:
        if write == (verb, key):
            setattr(store, moment, lambda verb, key: None)
            action()

    setattr(store, moment, act)


def lose_the_answer(store: MemoryStore, meanwhile: Callable[[], object]) -> None:
    """Let the head's next swap go through, others move on top, and then seem to be refused."""

    def refuse() -> None:
        meanwhile()
        raise Conflict("the retried request was refused")

    once(store, "after", "compare_and_swap", CHAMPION, refuse)


# ---- ids and records ----------------------------------------------------------------------------


def test_run_ids_of_one_second_do_not_collide() -> None:
    """A thousand runs that start in the same second have a thousand ids."""
    assert len({new_run_id(NOW) for _ in range(1000)}) == 1000


def test_run_ids_sort_by_time() -> None:
    """Ids in the order of their names are in the order of time, across midnight too."""
    ids = [new_run_id(moment) for moment in records.moments(20)]
    assert ids == sorted(ids)


def test_a_run_id_is_utc_time_and_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is the start in UTC, whatever the zone of the clock, and eight random digits."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    local = NOW.astimezone(timezone(timedelta(hours=-7)))
    for moment in (NOW, local):
        assert re.fullmatch(r"20260314T092653Z-[0-9a-f]{8}", new_run_id(moment))
    monkeypatch.undo()
    time.tzset()


def test_a_runs_files_lie_below_its_id() -> None:
    """The key of a run is its id below `runs`."""
    assert run_key("x") == "runs/x"


@pytest.mark.parametrize(
    "record",
    [
        records.champion(),
        ChampionRecord(FORMAT, "b", "0" * 64, 0.91, LATER, previous="a"),
        ChampionRecord(
            FORMAT, "b", "0" * 64, 0.91, LATER, "a", 7, "c", "rollback", "it fell", BY, ("d", "e")
        ),
        TestSetUsage(FORMAT, 3, ("a", "b")),
        undecided("the store was away", 3),
        Manifest(FORMAT, "a", NOW, {"model.keras": FileEntry(3, "0" * 64)}),
        records.evaluation(),
        records.training_result(epochs=2, best_epoch=1),
        records.run().verdict,
        records.run().environment,
        records.run().data,
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_survive_being_written_and_read(record: Any) -> None:
    """A record that is written as JSON reads back equal."""
    content = to_json(record)
    assert content.endswith(b"}\n")
    assert from_json(type(record), content, "here") == record


# ---- sealing and publishing ---------------------------------------------------------------------


def test_the_manifest_lists_every_file(sealed: Path) -> None:
    """The manifest has size and SHA-256 of every other file, in folders too."""
    manifest = from_json(Manifest, (sealed / MANIFEST).read_bytes(), MANIFEST)
    assert manifest == Manifest(
        FORMAT,
        records.RUN_ID,
        NOW,
        {
            name: FileEntry(len(content), hashlib.sha256(content).hexdigest())
            for name, content in (FILES | {"id": records.RUN_ID.encode()}).items()
        },
    )


@pytest.mark.parametrize("place", ["write_flushed", "Path.replace"])
def test_a_manifest_is_there_whole_or_not_at_all(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full just then leaves a folder without one, which is no finished run."""

    def fail(path: Path, *_: object) -> None:
        path.write_bytes(b'{"format"')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(f"fmnist.store.durable.{place}", fail)
        with pytest.raises(OSError, match="No space left"):
            seal(tmp_path / "run", records.RUN_ID)
    assert files_in(tmp_path / "run") == {*FILES, "id"}
    seal_run(tmp_path / "run", records.RUN_ID, NOW)
    assert files_in(tmp_path / "run") == ALL


def test_the_manifest_is_written_last(sealed: Path) -> None:
    """Publishing creates every file of the run, and its manifest after all of them."""
    store = MemoryStore()
    upload_run(store, sealed)
    place = f"runs/{records.RUN_ID}"
    assert {key for _, key in store.writes} == {f"{place}/{name}" for name in ALL}
    assert {verb for verb, _ in store.writes} == {"put_if_absent"}
    assert store.writes[-1] == ("put_if_absent", f"{place}/{MANIFEST}")
    for name in ALL:
        assert store.objects[f"{place}/{name}"] == (sealed / name).read_bytes()


def test_publishing_may_be_repeated(sealed: Path, tmp_path: Path) -> None:
    """Publishing the same run once more changes nothing."""
    store = FolderStore(str(tmp_path / "store"))
    first = upload_run(store, sealed)
    assert upload_run(store, sealed) == first
    assert first.content == (sealed / MANIFEST).read_bytes()
    assert first.sha256 == hashlib.sha256(first.content).hexdigest()


def test_another_run_of_the_same_id_is_refused(sealed: Path) -> None:
    """A run with other files under a published id is refused, and the published one stays."""
    store = MemoryStore()
    upload_run(store, sealed)
    before = dict(store.objects)
    reseal(sealed, "model.keras", b"other")
    with pytest.raises(StoreError, match="other content"):
        upload_run(store, sealed)
    assert store.objects == before


def test_a_damaged_manifest_is_not_published(sealed: Path) -> None:
    """A work folder whose manifest is damaged is named, and nothing of it is stored."""
    (sealed / MANIFEST).write_bytes((sealed / MANIFEST).read_bytes()[:40])
    store = MemoryStore()
    with pytest.raises(DamagedError, match=re.escape(str(sealed / MANIFEST))):
        upload_run(store, sealed)
    assert store.writes == []


def lacks_its_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def lacks_a_file(folder: Path) -> None:
    (folder / "model.keras").unlink()


def was_changed(folder: Path) -> None:
    (folder / "model.keras").write_bytes(b"w" * len(FILES["model.keras"]))


def lies_about_a_size(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    content["files"]["model.keras"]["size"] += 1
    (folder / MANIFEST).write_text(json.dumps(content))


def climbs_out(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"secret")
    content = json.loads((folder / MANIFEST).read_bytes())
    entry = FileEntry(6, hashlib.sha256(b"secret").hexdigest())
    content["files"]["../secret"] = vars(entry)
    (folder / MANIFEST).write_text(json.dumps(content))


def has_an_id_that_climbs_out(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(content | {"run_id": "../../champion"}))


@pytest.mark.parametrize(
    "spoil",
    [
        lacks_its_manifest,
        lacks_a_file,
        was_changed,
        lies_about_a_size,
        climbs_out,
        has_an_id_that_climbs_out,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_folder_that_is_no_finished_run_is_not_published(
    spoil: Callable[[Path], None], sealed: Path
) -> None:
    """A kept folder that is not what its manifest says is named, and nothing of it is stored."""
    spoil(sealed)
    store = MemoryStore()
    with pytest.raises(DamagedError, match=re.escape(str(sealed))) as caught:
        upload_run(store, sealed)
    assert caught.value.exit_code == ExitCode.DAMAGED and "\n" not in str(caught.value)
    assert store.writes == []


@pytest.mark.parametrize("content", [None, b"short"], ids=["removed", "cut short"])
def test_a_file_that_was_lost_while_the_run_was_stored_is_noticed(
    content: bytes | None, sealed: Path
) -> None:
    """A run of which the store does not list every file in its size is not taken for published."""
    store = MemoryStore()
    model = f"runs/{records.RUN_ID}/model.keras"

    def lose() -> None:
        del store.objects[model]
        if content is not None:
            store.objects[model] = content

    once(store, "before", "put_if_absent", f"runs/{records.RUN_ID}/{MANIFEST}", lose)
    with pytest.raises(DamagedError, match=re.escape(store.location(model))):
        upload_run(store, sealed)


# ---- reading a run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\nb", "ü", "x" * 101, "a b", "a\\b"]
)
def test_what_is_no_run_id_is_refused(text: str) -> None:
    """An id that might lead out of the runs is an argument at fault, told in one line."""
    with pytest.raises(SettingsError, match="is no run id") as caught:
        checked_run_id(text)
    assert "\n" not in str(caught.value)
    assert checked_run_id(records.RUN_ID) == records.RUN_ID


def test_a_run_exists_when_its_manifest_does(sealed: Path) -> None:
    """Without its manifest a run is not found, whatever else of it is there."""
    store = MemoryStore()
    published = upload_run(store, sealed)
    assert find_run(store, records.RUN_ID) == published
    assert read_run(store, records.RUN_ID, published.sha256) == published
    del store.objects[f"runs/{records.RUN_ID}/{MANIFEST}"]
    assert find_run(store, records.RUN_ID) is None
    with pytest.raises(StoreError, match="no run of this store") as caught:
        read_run(store, records.RUN_ID)
    assert caught.value.exit_code == ExitCode.STORE
    with pytest.raises(DamagedError, match="although the run was promoted"):
        read_run(store, records.RUN_ID, published.sha256)


def test_runs_are_listed_the_newest_first(put: Put) -> None:
    """Every run's id is listed once, also of one that was never finished, and nothing else."""
    store = MemoryStore()
    for run_id in ("20260102T000000Z-a", "20260103T000000Z-b", "20260101T000000Z-c"):
        put(store, run_id)
    store.objects["runs/20260104T000000Z-d/model.keras"] = b"unfinished"
    store.objects["runs/stray"] = b"a file of somebody"
    store.objects[CHAMPION] = b"{}"
    assert [run_id[-1] for run_id in list_run_ids(store)] == ["d", "b", "a", "c"]


def test_a_manifest_that_was_swapped_is_noticed(put: Put) -> None:
    """A manifest of another digest than the promoted one is an error that names it."""
    store = MemoryStore()
    run = put(store, "one")
    key = f"runs/one/{MANIFEST}"
    store.objects[key] = store.objects[key].replace(b"2026", b"2025")
    assert find_run(store, "one")
    with pytest.raises(DamagedError, match=re.escape(f"memory/{key} is not the manifest that was")):
        find_run(store, "one", run.sha256)


def test_the_manifest_of_another_run_is_noticed(put: Put) -> None:
    """A whole manifest at another run's place is an error that names that place."""
    store = MemoryStore()
    put(store, "one")
    other = put(store, "two")
    store.objects[f"runs/one/{MANIFEST}"] = other.content
    for sha256 in (None, other.sha256):
        with pytest.raises(DamagedError, match="runs/one/.* is the manifest of another run"):
            find_run(store, "one", sha256)


def is_missing(store: MemoryStore, key: str) -> None:
    del store.objects[key]


def is_cut_short(store: MemoryStore, key: str) -> None:
    store.objects[key] = store.objects[key][:-1]


def has_a_bit_turned(store: MemoryStore, key: str) -> None:
    store.objects[key] = bytes([store.objects[key][0] ^ 1]) + store.objects[key][1:]


def is_another_runs(store: MemoryStore, key: str) -> None:
    store.objects[key] = b"weight2" * 1000


@pytest.mark.parametrize(
    "spoil",
    [is_missing, is_cut_short, has_a_bit_turned, is_another_runs],
    ids=lambda spoil: spoil.__name__,
)
def test_a_file_that_is_not_the_listed_one_is_never_read(
    spoil: Callable[[MemoryStore, str], None], put: Put
) -> None:
    """A file of another size or digest than its manifest lists is an error that names it."""
    store = MemoryStore()
    run = put(store, "one")
    promote(store, run)
    assert read_file(store, run, "model.keras") == FILES["model.keras"]
    spoil(store, "runs/one/model.keras")
    for action in (
        lambda: read_file(store, run, "model.keras"),
        lambda: read_champion(store),
    ):
        with pytest.raises(DamagedError, match=r"memory/runs/one/model\.keras is not"):
            action()


def test_a_file_that_is_not_listed_is_never_read(put: Put) -> None:
    """A file that was put beside a run is no part of it."""
    store = MemoryStore()
    run = put(store, "one")
    store.objects["runs/one/extra"] = b"extra"
    with pytest.raises(DamagedError, match="runs/one/extra is not listed"):
        read_file(store, run, "extra")


def test_a_file_of_a_run_is_read_as_a_record(sealed: Path) -> None:
    """A record comes back equal; a file that holds none is named as damaged."""
    reseal(sealed, EVALUATION, to_json(records.evaluation()))
    store = MemoryStore()
    run = upload_run(store, sealed)
    kind = type(records.evaluation())
    assert read_record(store, run, EVALUATION, kind) == records.evaluation()
    with pytest.raises(DamagedError, match=f"runs/{records.RUN_ID}/id cannot be read"):
        read_record(store, run, "id", kind)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": ' * 200_000], ids=["list", "object"])
def test_a_record_nested_without_end_is_damaged(content: bytes) -> None:
    """What would exhaust the reader is told in one line as any damage is."""
    with pytest.raises(DamagedError, match="here cannot be read") as caught:
        from_json(Manifest, content, "here")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"not JSON", "its content"),
        (b'{"format": 9}', "format"),
        (b'{"format": 2, "run_id": "a", "created_at": "2026-03-14T00:00:00Z", '
         b'"files": {"a": {"size": -1, "sha256": "ab"}}}', "files.a.size"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_record_is_named_by_its_place(content: bytes, place: str) -> None:
    """A person finds in the message where in the file the fault is."""
    with pytest.raises(DamagedError, match=f"here cannot be read: {place}: "):
        from_json(Manifest, content, "here")


@pytest.mark.parametrize("key", ["runs/a/manifest.json", "history/00000001.json"])
def test_a_damaged_object_is_named(key: str, put: Put) -> None:
    """Whichever is read, the message says which it was."""
    store = MemoryStore()
    for run_id in ("a", "b"):
        promote(store, put(store, run_id))
    store.objects[key] = b"damaged"
    with pytest.raises(DamagedError, match=f"memory/{key} cannot be read"):
        find_run(store, "a")
        list(champion_history(store))


# ---- the champion -------------------------------------------------------------------------------


def test_there_is_no_champion_before_the_first_promotion(sealed: Path) -> None:
    """A store without promoted runs, empty or not, has no champion."""
    store = MemoryStore()
    assert current_champion(store) is None
    upload_run(store, sealed)
    assert current_champion(store) is None
    assert list(champion_history(store)) == []
    with pytest.raises(StoreError, match="no run was promoted yet") as caught:
        read_champion(store)
    assert caught.value.exit_code == ExitCode.STORE


def test_each_champion_names_the_one_before(put: Put) -> None:
    """The first champion follows nobody, and the next one follows the first."""
    store = MemoryStore()
    first, second = put(store, "run-1"), put(store, "run-2")
    started = datetime.now(UTC)
    assert promote(store, first).previous is None
    promoted = promote(store, second, 0.92)
    assert promoted == current_champion(store)
    assert (promoted.run_id, promoted.previous) == ("run-2", "run-1")
    assert promoted.accuracy == 0.92
    assert started <= promoted.moved_at <= datetime.now(UTC)


def test_the_champion_tells_how_it_came_to_be(put: Put) -> None:
    """A head has its generation, its move, the reason and the program that made it."""
    store = MemoryStore()
    promote(store, put(store, "one"))
    promoted = promote(store, put(store, "two"))
    assert (promoted.format, promoted.generation, promoted.rollback_to) == (FORMAT, 2, "one")
    assert (promoted.move, promoted.reason, promoted.by) == ("promotion", "good enough", BY)
    assert promoted.retired == ()


def test_the_champion_carries_the_digest_of_its_stored_manifest(sealed: Path) -> None:
    """The digest in `champion.json` is that of the manifest's bytes in the store."""
    store = MemoryStore()
    promoted = promote(store, upload_run(store, sealed))
    stored = store.objects[f"runs/{records.RUN_ID}/{MANIFEST}"]
    assert promoted.manifest_sha256 == hashlib.sha256(stored).hexdigest()


def test_promoting_again_is_harmless(sealed: Path) -> None:
    """Promoting the champion once more keeps its date and whom it followed."""
    store = MemoryStore()
    store.objects[CHAMPION] = to_json(records.champion())
    run = upload_run(store, sealed)
    first = promote(store, run)
    for verdict in (passed(records.champion()), passed(first)):
        outcome = promote_run(store, run, 0.99, verdict, never, by=BY)
        assert outcome == PromotionResult(verdict, first, first)
    assert current_champion(store) == first
    assert first.previous == records.champion().run_id


def test_nothing_but_the_champion_is_ever_replaced(put: Put) -> None:
    """Over several runs and promotions `champion.json` is the only object written in place."""
    store = MemoryStore()
    for number in range(3):
        promote(store, put(store, f"run-{number}"))
    assert {key for verb, key in store.writes if verb == "compare_and_swap"} == {CHAMPION}
    assert [key for verb, key in store.writes if verb == "compare_and_swap"] == [CHAMPION] * 3
    created = [key for verb, key in store.writes if verb == "put_if_absent"]
    assert CHAMPION not in created
    assert len(created) == len(set(created))


def test_a_head_is_copied_to_the_history_before_it_is_replaced(put: Put) -> None:
    """Each replaced head lies in the history byte for byte, and did so before the swap."""
    store = MemoryStore()
    promote(store, put(store, "one"))
    before = store.objects[CHAMPION]
    place = len(store.writes)
    run = put(store, "two")
    promote(store, run)
    moved = [write for write in store.writes[place:] if "runs/" not in write[1]]
    assert moved == [("put_if_absent", history_key(1)), ("compare_and_swap", CHAMPION)]
    assert store.objects[history_key(1)] == before


def test_the_history_has_every_head_the_latest_first(put: Put) -> None:
    """Promotions, rollbacks and retirements are all there, each of the next generation."""
    store = MemoryStore()
    for run_id in ("a", "b", "c"):
        promote(store, put(store, run_id))
    rollback(store)
    retire(store, ["c"], by=BY)
    assert moves(store) == [
        (5, "retirement", "b"),
        (4, "rollback", "b"),
        (3, "promotion", "c"),
        (2, "promotion", "b"),
        (1, "promotion", "a"),
    ]


def test_the_history_costs_nothing_that_is_not_asked_for(put: Put) -> None:
    """Looking at the latest heads reads no older ones."""
    store = MemoryStore()
    for run_id in ("a", "b", "c"):
        promote(store, put(store, run_id))
    del store.objects[history_key(1)]
    heads = champion_history(store)
    assert [next(heads).run_id, next(heads).run_id] == ["c", "b"]
    with pytest.raises(DamagedError, match="00000001.json is not there: the history has a gap"):
        next(heads)


def test_a_history_out_of_order_is_noticed(put: Put) -> None:
    """A head at another generation's place is an error that names the place."""
    store = MemoryStore()
    for run_id in ("a", "b", "c"):
        promote(store, put(store, run_id))
    store.objects[history_key(1)] = store.objects[history_key(2)]
    with pytest.raises(DamagedError, match="00000001.json is of generation 2"):
        list(champion_history(store))


def test_the_champion_is_read_whole(put: Put) -> None:
    """Asked for nothing, all its files are read and its manifest with them; else those asked for."""
    store = MemoryStore()
    run = put(store, "one")
    promoted = promote(store, run)
    found, files = read_champion(store)
    assert found == promoted
    assert files == FILES | {"id": b"one", MANIFEST: run.content}
    assert read_champion(store, "model.keras") == (
        promoted,
        {"model.keras": FILES["model.keras"]},
    )


def test_a_champion_removed_while_it_was_read_is_read_anew(put: Put) -> None:
    """A reader that was overtaken gets the new champion, not an error about the old one."""

    class Overtaken(MemoryStore):
        """Another champion takes over, and the old run goes, ahead of the first look at it."""

        def read(self, key: str) -> bytes | None:
            if key == f"runs/old/{MANIFEST}" and key in self.objects:
                promote(self, put(self, "new"))
                promote(self, put(self, "newest"))
                self.delete(key)
            return super().read(key)

    store = Overtaken()
    promote(store, put(store, "old"))
    assert read_champion(store, "id")[1] == {"id": b"newest"}


WHOLE = to_json(records.champion())
DAMAGES = {
    "cut short": WHOLE[: len(WHOLE) // 2],
    "empty": b"",
    "no JSON": b"champion: me\n",
    "no text": b"\xff\xfe\x00\x80",
    "a list": b"[]",
    "a number": b"1",
    "a field missing": b'{"format": 1, "run_id": "a"}',
    "a wrong type": WHOLE.replace(b"0.9051", b'"very good"'),
    "another version": WHOLE.replace(b'"format": 2', b'"format": 3'),
    "a run id that climbs out": WHOLE.replace(b"20260301T000000Z-ffffffff", b"../../x"),
    "no digest": WHOLE.replace(b"ab" * 32, b"ab"),
    "generation 0": WHOLE.replace(b'"generation": 1', b'"generation": 0'),
    "nested without end": b"[" * 200_000,
}


def test_every_damage_is_one() -> None:
    """The table of damages spoils what it says it does."""
    assert WHOLE not in DAMAGES.values()


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_champion_is_named(content: bytes, sealed: Path, tmp_path: Path) -> None:
    """A `champion.json` that cannot be read is named, and no move writes over it."""
    store = FolderStore(str(tmp_path / "store"))
    store.put_if_absent(CHAMPION, content)
    run = upload_run(store, sealed)
    for action in (
        lambda: current_champion(store),
        lambda: read_champion(store),
        lambda: promote_run(store, run, 0.91, passed(None), never, by=BY),
        lambda: rollback(store, records.RUN_ID),
        lambda: retire(store, [records.RUN_ID], by=BY),
    ):
        with pytest.raises(DamagedError) as caught:
            action()
        assert caught.value.exit_code == ExitCode.DAMAGED
        assert not caught.value.retryable
        assert str(tmp_path / "store" / CHAMPION) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert store.read(CHAMPION) == content
    assert store.list_names("history/") == []


OLD = b"""{
  "format": 1,
  "run_id": "of-before",
  "manifest_sha256": "%s",
  "accuracy": 0.9051,
  "promoted_at": "2026-03-01T00:02:00Z",
  "previous": "long-ago"
}
"""


def test_a_champion_of_the_first_format_is_followed(put: Put) -> None:
    """It is generation 1: archived byte for byte, replaced by generation 2, and gone back to."""
    store = MemoryStore()
    old = put(store, "of-before")
    content = OLD % old.sha256.encode()
    store.objects[CHAMPION] = content
    found = current_champion(store)
    assert found and (found.generation, found.run_id, found.previous) == (
        1,
        "of-before",
        "long-ago",
    )
    # Nothing tells the digest of the one before, so that nobody can go back to it unseen.
    assert (found.rollback_to, found.move) == (None, "promotion")
    assert found.moved_at == datetime(2026, 3, 1, 0, 2, tzinfo=UTC)

    promoted = promote(store, put(store, "new"))
    assert (promoted.format, promoted.generation, promoted.previous) == (2, 2, "of-before")
    assert store.objects[history_key(1)] == content
    before = datetime.now(UTC)
    back = rollback(store)
    assert (back.run_id, back.format) == ("of-before", FORMAT)
    assert back.moved_at >= before
    with pytest.raises(StoreError, match="no champion before of-before is left"):
        rollback(store)
    assert moves(store) == [
        (3, "rollback", "of-before"),
        (2, "promotion", "new"),
        (1, "promotion", "of-before"),
    ]
    assert read_champion(store, "id")[1] == {"id": b"of-before"}


def test_a_move_is_of_this_format_and_moment_whatever_it_goes_back_to(put: Put) -> None:
    """Rollback and retirement say when they were made and by what, and not when the run was."""
    store = MemoryStore()
    old = put(store, "of-before")
    store.objects[CHAMPION] = OLD % old.sha256.encode()
    put(store, "gone")
    before = datetime.now(UTC)
    retire(store, ["gone"], by="a prune")
    retirement = current_champion(store)
    promote(store, put(store, "new"))
    for head, by in ((retirement, "a prune"), (rollback(store), BY)):
        assert head and (head.format, head.by, head.run_id) == (FORMAT, by, "of-before")
        assert head.moved_at >= before


# ---- verdicts that reject -----------------------------------------------------------------------


def test_a_rejected_run_moves_nothing(put: Put) -> None:
    """The head stays as it is, and the later verdict is kept with the run's id."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run = put(store, "two")
    outcome = promote_run(store, run, 0.8, rejected(first), never, by=BY)
    assert outcome == PromotionResult(rejected(first), first)
    assert current_champion(store) == first
    assert later_verdicts(store, "two") == [rejected(first)]
    assert later_verdicts(store, "one") == []


def test_what_was_not_decided_is_decided_when_it_is_promoted(put: Put) -> None:
    """A verdict that was left open is asked for, even if the champion has not moved since."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run = put(store, "two")
    open_verdict = undecided("the store was away", first.generation)
    outcome = promote_run(store, run, 0.8, open_verdict, rejected, by=BY)
    assert outcome == PromotionResult(rejected(first), first)
    outcome = promote_run(store, run, 0.92, open_verdict, passed, by=BY)
    assert outcome.verdict == passed(first)
    assert outcome.champion and outcome.champion.run_id == "two"


def test_later_verdicts_are_kept_beside_each_other(put: Put) -> None:
    """Several verdicts of a run come back in the order of what they were passed against."""
    store = MemoryStore()
    run = put(store, "one")
    verdicts = [replace(rejected(None), generation=number) for number in (11, 2, 2)]
    verdicts[2] = replace(verdicts[2], reason="for another reason")
    for verdict in verdicts:
        for _ in range(2):  # a repeat changes nothing
            record_verdict(store, run, verdict)
    found = later_verdicts(store, "one")
    assert len(found) == 3 and set(found) == set(verdicts)
    assert [verdict.generation for verdict in found] == [2, 2, 11]


def test_a_damaged_later_verdict_is_named() -> None:
    """A verdict that cannot be read is an error that names its place."""
    store = MemoryStore()
    store.objects["verdicts/one/00000001-abc.json"] = b"{"
    with pytest.raises(DamagedError, match="memory/verdicts/one/00000001-abc.json"):
        later_verdicts(store, "one")


def test_a_forced_promotion_records_its_reason(put: Put) -> None:
    """A person's reason stands in the head and in the history, with the verdict it overrode."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run = put(store, "two")
    outcome = promote_run(
        store, run, 0.8, rejected(first), never, by="fmnist promote", forced="the demo is today"
    )
    assert outcome.champion == current_champion(store)
    promote(store, put(store, "three"))
    forced = list(champion_history(store))[1]
    assert (forced.run_id, forced.move, forced.by) == ("two", "forced promotion", "fmnist promote")
    assert forced.reason == "the demo is today (verdict: not good enough)"


# ---- rivals -------------------------------------------------------------------------------------


def test_a_loser_of_a_race_decides_again_against_the_new_champion(put: Put) -> None:
    """The verdict that counts is the one against the champion that is replaced."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run, rival = put(store, "two"), put(store, "rival")
    asked = []

    def decide(head: ChampionRecord | None) -> Verdict:
        asked.append(head)
        return replace(passed(head), reason="better than the rival too")

    once(store, "before", "compare_and_swap", CHAMPION, lambda: promote(store, rival))
    outcome = promote_run(store, run, 0.92, passed(first), decide, by=BY)
    assert [head.run_id for head in asked] == ["rival"]
    assert outcome.verdict == decide(asked[0])
    assert outcome.champion == current_champion(store)
    assert outcome.champion.reason == "better than the rival too"
    assert outcome.champion.previous == outcome.champion.rollback_to == "rival"
    assert moves(store) == [
        (3, "promotion", "two"),
        (2, "promotion", "rival"),
        (1, "promotion", "one"),
    ]


def test_a_loser_of_a_race_may_be_rejected_by_the_new_champion(put: Put) -> None:
    """The rival stays the champion, and the second verdict is recorded."""
    store = MemoryStore()
    run, rival = put(store, "two"), put(store, "rival")
    once(store, "before", "compare_and_swap", CHAMPION, lambda: promote(store, rival))
    outcome = promote_run(store, run, 0.92, passed(None), rejected, by=BY)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert outcome.verdict == rejected(outcome.champion)
    assert later_verdicts(store, "two") == [outcome.verdict]
    assert moves(store) == [(1, "promotion", "rival")]


def test_a_verdict_against_an_earlier_champion_is_asked_for_again(put: Put) -> None:
    """A head that moved before the promotion began is as much a new champion as one after."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    promote(store, put(store, "rival"))
    outcome = promote_run(store, put(store, "two"), 0.92, passed(first), rejected, by=BY)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert outcome.verdict.generation == 2


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_promotion_that_always_loses_ends(attempts: int, put: Put) -> None:
    """After a bounded number of attempts it is a temporary failure, and nothing of it is left."""
    store = MemoryStore()
    run = put(store, "two")
    rivals = []

    def overtake(*write: str) -> None:
        if write == ("compare_and_swap", CHAMPION):
            store.before = lambda verb, key: None
            rivals.append(f"rival-{len(rivals)}")
            promote(store, put(store, rivals[-1]))
            store.before = overtake

    store.before = overtake
    with pytest.raises(StoreError, match=f"at each of {attempts} attempts") as caught:
        promote_run(store, run, 0.9, passed(None), passed, by=BY, attempts=attempts)
    assert caught.value.retryable
    assert len(rivals) == attempts
    assert [run_id for _, _, run_id in moves(store)] == rivals[::-1]


def test_a_promotion_whose_answer_was_lost_is_not_repeated(put: Put) -> None:
    """It is recognised in the history even when another champion stands on top of it."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run, rival = put(store, "two"), put(store, "rival")
    lose_the_answer(store, lambda: promote(store, rival))
    outcome = promote_run(store, run, 0.92, passed(first), never, by=BY)
    assert outcome.verdict == passed(first)
    assert outcome.champion == current_champion(store)
    assert outcome.made and (outcome.made.run_id, outcome.made.generation) == ("two", 2)
    assert moves(store) == [
        (3, "promotion", "rival"),
        (2, "promotion", "two"),
        (1, "promotion", "one"),
    ]


def test_a_forced_promotion_whose_answer_was_lost_is_not_repeated(put: Put) -> None:
    """It is recognised as any other promotion is."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run, rival = put(store, "two"), put(store, "rival")
    lose_the_answer(store, lambda: promote(store, rival))
    outcome = promote_run(store, run, 0.8, rejected(first), never, by=BY, forced="I want it")
    assert outcome.verdict == rejected(first)
    assert outcome.made and (outcome.made.run_id, outcome.made.generation) == ("two", 2)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert moves(store) == [
        (3, "promotion", "rival"),
        (2, "forced promotion", "two"),
        (1, "promotion", "one"),
    ]


def test_the_last_attempt_may_have_gone_through_too(put: Put) -> None:
    """A lost answer to the last of the attempts is settled as any other is."""
    store = MemoryStore()
    run = put(store, "two")
    lose_the_answer(store, lambda: None)
    outcome = promote_run(store, run, 0.9, passed(None), never, by=BY, attempts=1)
    assert outcome.champion == current_champion(store)
    assert moves(store) == [(1, "promotion", "two")]


@pytest.mark.parametrize(
    "open_one", [rejected(None), undecided("the store was away", 0), undecided("", 1)]
)
def test_a_promotion_tried_anew_has_the_verdict_that_counted(open_one: Verdict, put: Put) -> None:
    """Where the decision that promoted was a later one than the caller's, it is made once more.

    It is asked against the champion that was replaced, whoever is in force now.
    """
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run = put(store, "two")
    promote(store, run)
    promote(store, put(store, "rival"))
    asked = []

    def decide(head: ChampionRecord | None) -> Verdict:
        asked.append(head)
        return passed(head)

    outcome = promote_run(store, run, 0.92, open_one, decide, by=BY)
    assert asked == [first]
    assert outcome.verdict == passed(first)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert len(moves(store)) == 3


def test_a_promotion_that_can_not_be_decided_anew_is_one_still(put: Put) -> None:
    """Where the champion that it met is gone, or a person forced it, the head's reason counts."""
    store = MemoryStore()
    promote(store, put(store, "one"))
    run = put(store, "two")
    made = promote(store, run)
    promote(store, put(store, "rival"))
    outcome = promote_run(store, run, 0.92, undecided("", 1), rejected, by=BY)
    assert outcome == PromotionResult(
        Verdict(True, (), made.reason, 1), current_champion(store), made
    )
    assert later_verdicts(store, "two") == []


def test_a_run_is_not_rejected_by_a_champion_that_was_removed_meanwhile(put: Put) -> None:
    """Who could not ask the champion, since it was replaced and pruned, asks the one in force."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    run = put(store, "two")
    met = []

    def decide(head: ChampionRecord | None) -> Verdict:
        met.append(head.run_id if head else None)
        if head == first:
            promote(store, put(store, "rival"))
            return rejected(head)
        return passed(head)

    outcome = promote_run(store, run, 0.92, undecided("", 0), decide, by=BY)
    assert met == ["one", "rival"]
    assert outcome.champion and outcome.champion.run_id == "two"
    assert later_verdicts(store, "two") == []


def test_a_history_that_holds_another_head_stops_every_move(put: Put) -> None:
    """Nothing is moved where the copy of the head in force is another's."""
    store = MemoryStore()
    champion = promote(store, put(store, "one"))
    run = put(store, "two")
    store.objects[history_key(1)] = b"another"
    with pytest.raises(DamagedError, match="00000001.json is another head") as caught:
        promote_run(store, run, 0.92, passed(champion), never, by=BY)
    assert not caught.value.retryable
    assert current_champion(store) == champion


def test_a_promotion_tried_anew_after_a_failure_is_not_repeated(put: Put) -> None:
    """A later call with the same verdict finds that its move has been made, and was followed."""
    store = MemoryStore()
    run = put(store, "two")
    promote(store, run)
    promote(store, put(store, "rival"))
    outcome = promote_run(store, run, 0.92, passed(None), never, by=BY)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert len(moves(store)) == 2


def test_a_rollback_to_a_run_is_not_its_promotion(put: Put) -> None:
    """A run that somebody went back to since the verdict, and left again, is still promoted."""
    store = MemoryStore()
    one = put(store, "one")
    promote(store, one)
    second = promote(store, put(store, "two"))
    rollback(store, "one")
    promote(store, put(store, "three"))
    outcome = promote_run(store, one, 0.91, passed(second), passed, by=BY)
    assert outcome.champion and outcome.champion.run_id == "one"
    assert moves(store)[0] == (5, "promotion", "one")


# ---- going back ---------------------------------------------------------------------------------


def test_an_earlier_run_can_be_made_champion_again(put: Put) -> None:
    """It is in force with its own accuracy, and names the one that it followed."""
    store = MemoryStore()
    first = promote(store, put(store, "one"), 0.9142)
    promote(store, put(store, "two"), 0.9)
    back = rollback(store, "one")
    assert (back.run_id, back.accuracy, back.previous) == ("one", 0.9142, "two")
    assert back.manifest_sha256 == first.manifest_sha256
    assert (back.generation, back.move) == (3, "rollback")
    assert (back.reason, back.by) == ("it was worse", BY)
    assert current_champion(store) == back


def test_only_a_champion_of_before_can_be_gone_back_to(put: Put) -> None:
    """The error names the run and the command that asks the gate, and the champion stays."""
    store = MemoryStore()
    champion = promote(store, put(store, "one"))
    put(store, "two")
    for run_id in ("absent", "two"):
        with pytest.raises(StoreError, match=f"history has no champion {run_id}") as caught:
            rollback(store, run_id)
        assert f"fmnist promote {run_id}" in str(caught.value)
    assert current_champion(store) == champion


def test_rollbacks_go_back_step_by_step(put: Put) -> None:
    """After A, B and C they lead to B, then to A, and then there is nothing to go back to."""
    store = MemoryStore()
    with pytest.raises(StoreError, match="no champion to replace"):
        rollback(store)
    for run_id in "ABC":
        promote(store, put(store, run_id))
    assert [rollback(store).run_id, rollback(store).run_id] == ["B", "A"]
    with pytest.raises(StoreError, match="no champion before A is left"):
        rollback(store)
    assert [run_id for _, _, run_id in moves(store)] == list("ABCBA")
    promote(store, put(store, "D"))
    assert rollback(store).run_id == "A"


@pytest.mark.parametrize("gone", ["being removed", "removed", "removed and forgotten"])
def test_a_rollback_leaves_no_way_back_to_a_run_that_is_gone(gone: str, put: Put) -> None:
    """After A, B and C, without A, it leads to B, from where nothing is left to go back to."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    retire(store, ["A"], by=BY)
    if gone != "being removed":
        for name in ALL:
            store.delete(f"runs/A/{name}")
    if gone == "removed and forgotten":
        put(store, "D")
        retire(store, ["D"], by=BY)
    back = rollback(store)
    assert (back.run_id, back.rollback_to) == ("B", None)
    with pytest.raises(StoreError, match="no champion before B is left") as caught:
        rollback(store)
    assert caught.value.exit_code == ExitCode.STORE
    assert current_champion(store) == back


@pytest.mark.parametrize("name", [*FILES, "id", MANIFEST])
@pytest.mark.parametrize(
    "spoil", [is_missing, is_cut_short, has_a_bit_turned], ids=lambda spoil: spoil.__name__
)
def test_a_damaged_run_is_not_gone_back_to(
    name: str, spoil: Callable[[MemoryStore, str], None], put: Put
) -> None:
    """Every file of the earlier champion is checked first; the head does not move otherwise."""
    store = MemoryStore()
    promote(store, put(store, "one"))
    champion = promote(store, put(store, "two"))
    spoil(store, f"runs/one/{name}")
    for run_id in (None, "one"):
        with pytest.raises(DamagedError, match=re.escape(f"memory/runs/one/{name}")):
            rollback(store, run_id)
    assert current_champion(store) == champion


def test_two_rollbacks_at_a_time_are_one(put: Put) -> None:
    """Who loses the race to go back finds that it has been done."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    once(store, "before", "compare_and_swap", CHAMPION, lambda: rollback(store))
    assert rollback(store) == current_champion(store)
    assert [run_id for _, _, run_id in moves(store)] == list("BCBA")


def test_a_rollback_whose_answer_was_lost_is_not_repeated(put: Put) -> None:
    """It is recognised in the history even when another champion stands on top of it."""
    store = MemoryStore()
    for run_id in "AB":
        promote(store, put(store, run_id))
    rival = put(store, "rival")
    lose_the_answer(store, lambda: promote(store, rival))
    assert rollback(store).run_id == "rival"
    assert [run_id for _, _, run_id in moves(store)] == ["rival", "A", "B", "A"]


def test_a_rollback_that_failed_says_how_to_try_again(put: Put) -> None:
    """Without a name a second try might go back one champion further."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))

    def lose_every_answer(verb: str, key: str) -> None:
        raise StoreError("no answer", retryable=True)

    store.after = lose_every_answer
    with pytest.raises(StoreError, match="name the run: `fmnist rollback B`") as caught:
        rollback(store)
    assert caught.value.retryable
    store.after = lambda verb, key: None
    assert rollback(store, "B").run_id == "B"
    assert moves(store)[0] == (4, "rollback", "B")


def test_a_rollback_that_met_a_promotion_still_goes_back(put: Put) -> None:
    """Who asked to go back gets there, past a champion that came in between."""
    store = MemoryStore()
    for run_id in "AB":
        promote(store, put(store, run_id))
    rival = put(store, "rival")
    once(store, "before", "compare_and_swap", CHAMPION, lambda: promote(store, rival))
    back = rollback(store)
    assert (back.run_id, back.previous, back.generation) == ("A", "rival", 4)


def test_a_promotion_of_the_goal_is_not_the_rollback(put: Put) -> None:
    """Who asked to go back gets there also past a champion that replaced the goal once more."""
    store = MemoryStore()
    goal = put(store, "A")
    for run in (goal, put(store, "B")):
        promote(store, run)
    rival = put(store, "rival")

    def promote_both() -> None:
        promote(store, goal)
        promote(store, rival)

    once(store, "before", "compare_and_swap", CHAMPION, promote_both)
    assert rollback(store) == current_champion(store)
    assert moves(store)[:3] == [
        (5, "rollback", "A"),
        (4, "promotion", "rival"),
        (3, "promotion", "A"),
    ]


def test_going_back_to_the_champion_itself_changes_nothing(put: Put) -> None:
    """A rollback to the run that is in force is harmless."""
    store = MemoryStore()
    promote(store, put(store, "A"))
    champion = promote(store, put(store, "B"))
    assert rollback(store, "B") == champion == current_champion(store)


# ---- taking runs out of service -----------------------------------------------------------------


def test_a_retired_run_never_becomes_the_champion(put: Put) -> None:
    """Neither a promotion, forced or not, nor a rollback makes a run champion that is to go."""
    store = MemoryStore()
    one = put(store, "one")
    for run in (one, put(store, "two"), put(store, "three")):
        promote(store, run)
    assert retire(store, ["one"], by=BY) == ("one",)
    head = current_champion(store)
    assert head and head.retired == ("one",)
    for verdict in (passed(None), passed(head)):
        for reason in (None, "I want it"):
            with pytest.raises(StoreError, match="one was taken out"):
                promote_run(store, one, 0.91, verdict, passed, by=BY, forced=reason)
    with pytest.raises(StoreError, match="one was taken out"):
        rollback(store, "one")
    assert current_champion(store) == head
    promote(store, put(store, "four"))
    with pytest.raises(StoreError, match="one was taken out"):
        rollback(store, "one")


@pytest.mark.parametrize("move", ["promotion", "rollback"])
def test_a_run_retired_just_before_the_swap_does_not_become_the_champion(
    move: str, put: Put
) -> None:
    """Removing and promoting cannot cross: the swap is refused, and then so is the run."""
    store = MemoryStore()
    one = put(store, "one")
    promote(store, one)
    promote(store, put(store, "two"))
    third = promote(store, put(store, "three"))
    once(store, "before", "compare_and_swap", CHAMPION, lambda: retire(store, ["one"], by=BY))
    with pytest.raises(StoreError, match="one was taken out"):
        if move == "promotion":
            promote_run(store, one, 0.91, passed(third), passed, by=BY)
        else:
            rollback(store, "one")
    assert moves(store)[0] == (4, "retirement", "three")


def test_a_run_that_was_retired_and_forgotten_is_not_promoted_by_an_old_verdict(put: Put) -> None:
    """A head between the verdict and now that retired the run is heeded, whatever came after."""
    store = MemoryStore()
    first = promote(store, put(store, "one"))
    gone = put(store, "gone")
    retire(store, ["gone"], by=BY)
    for name in store.list_names("runs/gone/"):
        store.delete(f"runs/gone/{name}")
    for key in list(store.list_entries("runs/gone/")):
        store.delete(key)
    put(store, "other")
    retire(store, ["other"], by=BY)
    head = current_champion(store)
    assert head and head.retired == ("other",)
    with pytest.raises(StoreError, match="gone was taken out"):
        promote_run(store, gone, 0.91, passed(first), passed, by=BY)
    assert current_champion(store) == head


def test_what_is_no_run_id_is_not_retired(put: Put) -> None:
    """A name that no head could keep is refused, and the champion stays readable."""
    store = MemoryStore()
    promoted = promote(store, put(store, "one"))
    with pytest.raises(SettingsError, match="is no run id"):
        retire(store, ["../one"], by=BY)
    assert current_champion(store) == promoted


def test_the_champion_and_the_way_back_are_never_retired(put: Put) -> None:
    """Of the runs that were named, those two are left out."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    assert retire(store, ["A", "B", "C"], by=BY) == ("A",)
    head = current_champion(store)
    assert head and (head.run_id, head.rollback_to, head.retired) == ("C", "B", ("A",))
    assert rollback(store).run_id == "B"


def test_a_run_that_was_promoted_just_before_it_was_retired_stays(put: Put) -> None:
    """A retirement that lost the race to a promotion leaves the new champion out."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    late = put(store, "late")
    once(store, "before", "compare_and_swap", CHAMPION, lambda: promote(store, late))
    assert retire(store, ["late", "A"], by=BY) == ("A",)
    head = current_champion(store)
    assert head and (head.run_id, head.retired) == ("late", ("A",))


def test_a_retirement_is_in_the_history_and_changes_no_champion(put: Put) -> None:
    """It is a move of its own: same run, same way back, the runs that go, and by whom."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    before = current_champion(store)
    retire(store, ["A"], by="fmnist prune")
    head = current_champion(store)
    assert before and head
    assert head == replace(
        before,
        moved_at=head.moved_at,
        previous="C",
        generation=4,
        move="retirement",
        reason="1 runs removed",
        by="fmnist prune",
        retired=("A",),
    )
    assert read_champion(store, "id")[1] == {"id": b"C"}


def test_retiring_again_is_harmless(put: Put) -> None:
    """The same runs retired once more make no move, also when the first answer was lost."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    rival = put(store, "rival")
    lose_the_answer(store, lambda: promote(store, rival))
    assert retire(store, ["A"], by=BY) == ("A",)
    assert retire(store, ["A"], by=BY) == ("A",)
    assert [move for _, move, _ in moves(store)] == ["promotion", "retirement", *["promotion"] * 3]


def test_a_retirement_whose_answer_was_lost_is_not_repeated(put: Put) -> None:
    """It is recognised in the history even when the run is gone and forgotten by now."""
    store = MemoryStore()
    for run_id in "ABCD":
        promote(store, put(store, run_id))

    def finish_it_and_go_on() -> None:
        for key in list(store.list_entries("runs/A/")):
            store.delete(key)
        retire(store, ["B"], by="a rival")

    lose_the_answer(store, finish_it_and_go_on)
    assert retire(store, ["A"], by=BY) == ()
    head = current_champion(store)
    assert head and (head.generation, head.by, head.retired) == (6, "a rival", ("B",))


def test_a_retirement_that_met_another_still_retires(put: Put) -> None:
    """Another's retirement of other runs, in between, is not taken for one's own."""
    store = MemoryStore()
    for run_id in "ABCD":
        promote(store, put(store, run_id))
    once(store, "before", "compare_and_swap", CHAMPION, lambda: retire(store, ["B"], by="a rival"))
    assert retire(store, ["A"], by=BY) == ("A",)
    head = current_champion(store)
    assert head and set(head.retired) == {"A", "B"}


def test_retired_runs_are_remembered_until_they_are_gone(put: Put) -> None:
    """A later retirement keeps those of which something is left, and forgets the others."""
    store = MemoryStore()
    for run_id in "ABCDE":
        promote(store, put(store, run_id))
    retire(store, ["A", "B"], by=BY)
    for key in list(store.list_entries("runs/A/")):
        store.delete(key)
    store.delete(f"runs/B/{MANIFEST}")
    retire(store, ["C"], by=BY)
    head = current_champion(store)
    assert head and head.retired == ("B", "C")
    rollback(store)
    promote(store, put(store, "F"))
    head = current_champion(store)
    assert head and head.retired == ("B", "C")


def test_nothing_is_retired_before_the_first_promotion(put: Put) -> None:
    """Without a champion there is no record that could keep a run from being promoted."""
    store = MemoryStore()
    put(store, "one")
    with pytest.raises(StoreError, match="before its first promotion"):
        retire(store, ["one"], by=BY)
    assert current_champion(store) is None


# ---- the count of what a test set has judged ----------------------------------------------------


def test_each_run_is_counted_once() -> None:
    """A repeat changes nothing, and test sets are counted apart."""
    store = MemoryStore()
    assert [record_use(store, "ab", run_id) for run_id in "aabbca"] == [1, 1, 2, 2, 3, 3]
    assert record_use(store, "cd", "a") == 1
    uses = from_json(TestSetUsage, store.objects["test-sets/ab.json"], "here")
    assert uses == TestSetUsage(FORMAT, 3, ("a", "b", "c"))


def test_the_count_grows_beyond_the_runs_that_it_remembers() -> None:
    """The number stays right after the ids of the first runs were dropped."""
    store = MemoryStore()
    for number in range(_REMEMBERED + 5):
        assert record_use(store, "ab", f"run-{number}") == number + 1
    assert len(from_json(TestSetUsage, store.objects["test-sets/ab.json"], "here").latest) == 100


def test_two_counters_at_a_time_are_both_counted() -> None:
    """Who is overtaken counts on from the new number; a lost answer is not counted twice."""
    store = MemoryStore()
    key = "test-sets/ab.json"
    once(store, "before", "compare_and_swap", key, lambda: record_use(store, "ab", "rival"))
    assert record_use(store, "ab", "mine") == 2

    def refuse() -> None:
        record_use(store, "ab", "another")
        raise Conflict("the retried request was refused")

    once(store, "after", "compare_and_swap", key, refuse)
    assert record_use(store, "ab", "next") == 4
    uses = from_json(TestSetUsage, store.objects[key], "here")
    assert uses == TestSetUsage(FORMAT, 4, ("rival", "mine", "next", "another"))


def test_a_counter_that_always_loses_ends() -> None:
    """After a bounded number of attempts it is a temporary failure."""
    store = MemoryStore()

    def overtake(*write: str) -> None:
        store.before = lambda verb, key: None
        record_use(store, "ab", f"rival-{len(store.writes)}")
        store.before = overtake

    store.before = overtake
    with pytest.raises(StoreError, match="at each of 50 attempts") as caught:
        record_use(store, "ab", "mine")
    assert caught.value.retryable


def test_a_damaged_count_is_named() -> None:
    """A count that cannot be read is an error that names it, and stays as it is."""
    store = MemoryStore()
    store.objects["test-sets/ab.json"] = b'{"format": 2, "models": -1, "latest": []}'
    with pytest.raises(DamagedError, match="memory/test-sets/ab.json"):
        record_use(store, "ab", "one")
    assert store.writes == []


# ---- crashes ------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


def nobody(store: MemoryStore, put: Put) -> None:
    """No champion yet."""


def one_of_before(store: MemoryStore, put: Put) -> None:
    """A champion of the first format."""
    store.objects[CHAMPION] = OLD % put(store, "of-before").sha256.encode()


def one_with_a_past(store: MemoryStore, put: Put) -> None:
    """A champion with promotions, a rollback and a retirement behind it."""
    for run_id in "ABC":
        promote(store, put(store, run_id))
    rollback(store)
    retire(store, ["C"], by=BY)


def heads_in(store: MemoryStore) -> dict[int, bytes]:
    """The bytes of every head, the one in force and those of the past, by generation."""
    kept = {
        int(name[:8]): store.objects[f"history/{name}"] for name in store.list_names("history/")
    }
    if head := current_champion(store):
        assert kept.get(head.generation, store.objects[CHAMPION]) == store.objects[CHAMPION]
        kept[head.generation] = store.objects[CHAMPION]
    return kept


# Every file of the run and its manifest, then the head: swapped, once it was copied if there is one.
STEPS = [
    (scene, place)
    for scene, writes in (
        (nobody, len(ALL) + 1),
        (one_of_before, len(ALL) + 2),
        (one_with_a_past, len(ALL) + 2),
    )
    for place in range(writes)
]


@pytest.mark.parametrize(
    ("scene", "place"), STEPS, ids=[f"{scene.__name__}-{place}" for scene, place in STEPS]
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_leaves_the_old_champion_and_can_be_made_good(
    scene: Callable[[MemoryStore, Put], None], place: int, moment: str, sealed: Path, put: Put
) -> None:
    """Whenever the process ends, the champion is the old one or whole, and a repeat succeeds."""
    store = MemoryStore()
    scene(store, put)
    old, past = current_champion(store), heads_in(store)
    verdict = passed(old)
    left = place

    def crash(verb: str, key: str) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    def publish_and_promote() -> ChampionRecord | None:
        run = upload_run(store, sealed)
        return promote_run(store, run, 0.91, verdict, never, by=BY).champion

    setattr(store, moment, crash)
    with pytest.raises(Crash):
        publish_and_promote()
    setattr(store, moment, lambda verb, key: None)

    last = max(step for known, step in STEPS if known is scene)
    promotion_went_through = (place, moment) == (last, "after")
    in_force = current_champion(store)
    if promotion_went_through:
        assert in_force and in_force.run_id == records.RUN_ID
    else:
        assert in_force == old
    if in_force:
        read_champion(store)
    manifest_key = f"runs/{records.RUN_ID}/{MANIFEST}"
    if manifest_key in store.objects:
        assert {f"runs/{records.RUN_ID}/{name}" for name in FILES} <= store.objects.keys()
    assert past.items() <= heads_in(store).items()

    champion = publish_and_promote()
    assert champion and champion.run_id == records.RUN_ID
    assert champion.previous == (old.run_id if old else None)
    assert champion.generation == generation_of(old) + 1
    assert current_champion(store) == champion
    assert champion.manifest_sha256 == hashlib.sha256(store.objects[manifest_key]).hexdigest()
    assert read_champion(store, *FILES)[1] == FILES
    # The past is whole, each head once, and byte for byte what was in force.
    assert past.items() <= heads_in(store).items()
    generations = [head.generation for head in champion_history(store)]
    assert generations == list(range(champion.generation, 0, -1))


@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("move", ["rollback", "retirement"])
def test_a_crash_while_going_back_or_tidying_leaves_the_head_whole(
    move: str, moment: str, place: int, put: Put
) -> None:
    """Whenever the process ends, the head is the old one or the new, and a repeat succeeds."""
    store = MemoryStore()
    for run_id in "ABC":
        promote(store, put(store, run_id))
    old, past = current_champion(store), heads_in(store)
    left = place

    def crash(verb: str, key: str) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    def act() -> None:
        if move == "rollback":
            rollback(store, "B")
        else:
            retire(store, ["A"], by=BY)

    setattr(store, moment, crash)
    with pytest.raises(Crash):
        act()
    setattr(store, moment, lambda verb, key: None)

    in_force = current_champion(store)
    moved = (place, moment) == (1, "after")
    assert (in_force == old) is not moved
    read_champion(store)
    assert past.items() <= heads_in(store).items()
    act()
    assert [generation for generation, _, _ in moves(store)] == [4, 3, 2, 1]
    assert moves(store)[0][1] == move
    assert past.items() <= heads_in(store).items()
