"""Runs and the champion: what is written, in which order, and what a crash leaves behind."""

import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fmnist import registry
from fmnist.errors import ExitCode, StoreError
from fmnist.registry import CHAMPION, FORMAT, MANIFEST, Champion, FileEntry, Manifest
from fmnist.store import FolderStore
from tests import records
from tests.records import MemoryStore

NOW = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
FILES = {"model.keras": b"weights" * 1000, "figures/a.png": b"\x89PNG", "evaluation.json": b"{}"}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return seal(tmp_path / "run", records.RUN_ID)


def seal(folder: Path, run_id: str) -> Path:
    """Make the folder of a finished run."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    registry.seal(folder, run_id, NOW)
    return folder


# ---- ids and records ----------------------------------------------------------------------------


def test_run_ids_of_one_second_do_not_collide() -> None:
    """A thousand runs that start in the same second have a thousand ids."""
    assert len({registry.new_run_id(NOW) for _ in range(1000)}) == 1000


def test_run_ids_sort_by_time() -> None:
    """Ids in the order of their names are in the order of time, across midnight too."""
    ids = [registry.new_run_id(moment) for moment in records.moments(20)]
    assert ids == sorted(ids)


def test_a_run_id_is_utc_time_and_a_random_part() -> None:
    """An id is the start in UTC, whatever the zone of the clock, and eight random digits."""
    local = NOW.astimezone(timezone(timedelta(hours=-7)))
    for moment in (NOW, local):
        assert re.fullmatch(r"20260314T092653Z-[0-9a-f]{8}", registry.new_run_id(moment))


def test_a_runs_files_lie_below_its_id() -> None:
    """The key of a run is its id below `runs`."""
    assert registry.run_key("x") == "runs/x"


@pytest.mark.parametrize(
    "record",
    [
        records.champion(),
        Champion(FORMAT, "b", "0" * 64, 0.91, LATER, previous="a"),
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
    content = registry.to_json(record)
    assert content.endswith(b"}\n")
    assert registry.from_json(type(record), content, "here") == record


# ---- sealing and publishing ---------------------------------------------------------------------


def test_the_manifest_lists_every_file(sealed: Path) -> None:
    """The manifest has size and SHA-256 of every other file, in folders too."""
    manifest = registry.from_json(Manifest, (sealed / MANIFEST).read_bytes(), MANIFEST)
    assert manifest == Manifest(
        FORMAT,
        records.RUN_ID,
        NOW,
        {name: FileEntry(len(c), hashlib.sha256(c).hexdigest()) for name, c in FILES.items()},
    )


def test_the_manifest_is_written_last(sealed: Path) -> None:
    """Publishing creates every file of the run, and its manifest after all of them."""
    store = MemoryStore()
    registry.publish(store, sealed)
    place = f"runs/{records.RUN_ID}"
    assert {key for _, key in store.writes} == {f"{place}/{name}" for name in (*FILES, MANIFEST)}
    assert {verb for verb, _ in store.writes} == {"create"}
    assert store.writes[-1] == ("create", f"{place}/{MANIFEST}")
    for name in (*FILES, MANIFEST):
        assert store.objects[f"{place}/{name}"] == (sealed / name).read_bytes()


def test_publishing_may_be_repeated(sealed: Path, tmp_path: Path) -> None:
    """Publishing the same run once more changes nothing."""
    store = FolderStore(str(tmp_path / "store"))
    first = registry.publish(store, sealed)
    assert registry.publish(store, sealed) == first


def test_another_run_of_the_same_id_is_refused(sealed: Path) -> None:
    """A run with other files under a published id is refused, and the published one stays."""
    store = MemoryStore()
    registry.publish(store, sealed)
    before = dict(store.objects)
    (sealed / "model.keras").write_bytes(b"other")
    with pytest.raises(StoreError, match="other content"):
        registry.publish(store, sealed)
    assert store.objects == before


def test_a_damaged_manifest_is_not_published(sealed: Path) -> None:
    """A work folder whose manifest is damaged is named, and nothing of it is stored."""
    (sealed / MANIFEST).write_bytes((sealed / MANIFEST).read_bytes()[:40])
    store = MemoryStore()
    with pytest.raises(StoreError, match=re.escape(str(sealed / MANIFEST))):
        registry.publish(store, sealed)
    assert store.writes == []


# ---- the champion -------------------------------------------------------------------------------


def test_there_is_no_champion_before_the_first_promotion(sealed: Path) -> None:
    """A store without promoted runs, empty or not, has no champion."""
    store = MemoryStore()
    assert registry.champion(store) is None
    registry.publish(store, sealed)
    assert registry.champion(store) is None


def test_each_champion_names_the_one_before(tmp_path: Path) -> None:
    """The first champion follows nobody, and the next one follows the first."""
    store = MemoryStore()
    first = registry.publish(store, seal(tmp_path / "1", "run-1"))
    second = registry.publish(store, seal(tmp_path / "2", "run-2"))
    assert registry.promote(store, first, 0.91, NOW).previous is None
    promoted = registry.promote(store, second, 0.92, LATER)
    assert promoted == registry.champion(store)
    assert (promoted.run_id, promoted.previous) == ("run-2", "run-1")
    assert (promoted.accuracy, promoted.promoted_at) == (0.92, LATER)


def test_the_champion_carries_the_digest_of_its_stored_manifest(sealed: Path) -> None:
    """The digest in `champion.json` is that of the manifest's bytes in the store."""
    store = MemoryStore()
    promoted = registry.promote(store, registry.publish(store, sealed), 0.91, NOW)
    stored = store.objects[f"runs/{records.RUN_ID}/{MANIFEST}"]
    assert promoted.manifest_sha256 == hashlib.sha256(stored).hexdigest()


def test_promoting_again_is_harmless(sealed: Path) -> None:
    """Promoting the champion once more keeps its date and whom it followed."""
    store = MemoryStore()
    store.objects[CHAMPION] = registry.to_json(records.champion())
    manifest = registry.publish(store, sealed)
    first = registry.promote(store, manifest, 0.91, NOW)
    assert registry.promote(store, manifest, 0.91, LATER) == first
    assert registry.champion(store) == first
    assert first.previous == records.champion().run_id


def test_nothing_but_the_champion_is_ever_replaced(tmp_path: Path) -> None:
    """Over several runs and promotions `champion.json` is the only object written in place."""
    store = MemoryStore()
    for number in range(3):
        manifest = registry.publish(store, seal(tmp_path / str(number), f"run-{number}"))
        registry.promote(store, manifest, 0.91, NOW)
    assert {key for verb, key in store.writes if verb == "replace"} == {CHAMPION}
    assert [key for verb, key in store.writes if verb == "replace"] == [CHAMPION] * 3
    assert CHAMPION not in {key for verb, key in store.writes if verb == "create"}


WHOLE = registry.to_json(records.champion())
DAMAGES = {
    "cut short": WHOLE[: len(WHOLE) // 2],
    "empty": b"",
    "no JSON": b"champion: me\n",
    "no text": b"\xff\xfe\x00\x80",
    "a list": b"[]",
    "a number": b"1",
    "a field missing": b'{"format": 1, "run_id": "a"}',
    "a wrong type": WHOLE.replace(b"0.9051", b'"very good"'),
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_champion_is_named(content: bytes, sealed: Path, tmp_path: Path) -> None:
    """A `champion.json` that cannot be read is named, and no promotion writes over it."""
    store = FolderStore(str(tmp_path / "store"))
    store.replace(CHAMPION, content)
    manifest = registry.publish(store, sealed)
    for action in (
        lambda: registry.champion(store),
        lambda: registry.promote(store, manifest, 0.91, NOW),
    ):
        with pytest.raises(StoreError) as caught:
            action()
        assert caught.value.exit_code == ExitCode.STORE
        assert not caught.value.temporary
        assert str(tmp_path / "store" / CHAMPION) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert store.read(CHAMPION) == content


# ---- crashes ------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


WRITES = len(FILES) + 2


@pytest.mark.parametrize("place", range(WRITES))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("old", [None, records.champion()], ids=["first", "next"])
def test_a_crash_leaves_the_old_champion_and_can_be_made_good(
    place: int, moment: str, old: Champion | None, sealed: Path
) -> None:
    """Whenever the process ends, the champion is the old one or whole, and a repeat succeeds."""
    store = MemoryStore()
    if old:
        store.objects[CHAMPION] = registry.to_json(old)
    left = place

    def crash(verb: str, key: str) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    def publish_and_promote() -> Champion:
        return registry.promote(store, registry.publish(store, sealed), 0.91, NOW)

    setattr(store, moment, crash)
    with pytest.raises(Crash):
        publish_and_promote()
    setattr(store, moment, lambda verb, key: None)

    promotion_went_through = (place, moment) == (WRITES - 1, "after")
    in_force = registry.champion(store)
    if promotion_went_through:
        assert in_force and in_force.run_id == records.RUN_ID
    else:
        assert in_force == old
    manifest_key = f"runs/{records.RUN_ID}/{MANIFEST}"
    if manifest_key in store.objects:
        assert {f"runs/{records.RUN_ID}/{name}" for name in FILES} <= store.objects.keys()

    champion = publish_and_promote()
    assert champion.run_id == records.RUN_ID
    assert champion.previous == (old.run_id if old else None)
    assert registry.champion(store) == champion
    assert champion.manifest_sha256 == hashlib.sha256(store.objects[manifest_key]).hexdigest()


def test_an_earlier_run_can_be_made_champion_again(tmp_path: Path) -> None:
    """It is in force with its own accuracy, and names the one that it followed."""
    store = MemoryStore()
    for run_id, correct in (("one", 9_142), ("two", 9_000)):
        folder = seal(tmp_path / run_id, run_id)
        (folder / registry.EVALUATION).write_bytes(registry.to_json(records.evaluation(correct)))
        registry.seal(folder, run_id, NOW)
        registry.promote(store, registry.publish(store, folder), correct / 10_000, NOW)
    back = registry.reinstate(store, "one", LATER)
    assert (back.run_id, back.accuracy, back.previous) == ("one", 0.9142, "two")
    assert registry.champion(store) == back


def test_only_a_run_of_the_store_can_be_made_champion(sealed: Path) -> None:
    """The error names what is missing, and the champion stays."""
    store = MemoryStore()
    champion = registry.promote(store, registry.publish(store, sealed), 0.91, NOW)
    with pytest.raises(StoreError, match=r"runs/absent/manifest\.json is not there"):
        registry.reinstate(store, "absent", LATER)
    assert registry.champion(store) == champion
