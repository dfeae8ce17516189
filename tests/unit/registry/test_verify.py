"""Verifying a store: every damage is found, and nothing else is called damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.registry import keys
from fmnist.registry.prune import prune_store
from fmnist.registry.records import LARGEST_RECORD, to_json
from fmnist.registry.runs import record_verdict
from fmnist.registry.usage import record_use
from fmnist.registry.verify import verify_store
from fmnist.store.folder import FolderStore
from tests.support.memory import MemoryStore
from tests.support.registry import (
    FILES,
    LONG_AFTER,
    champion_of,
    load,
    overwrite,
    passed,
    promote,
    put,
    put_runs,
    rollback,
    run_id,
)


def test_a_store_in_order_has_no_faults(store: MemoryStore) -> None:
    """Every run is read, and nothing is wrong or left over after an ordinary life.

    Nor is the copy of the current record, which a publisher leaves that dies before the swap.
    """
    runs = put_runs(store, 5, champions=range(1, 4))
    record_use(store, "ab" * 32, run_id(1))
    record_verdict(store, runs[3], passed(None))
    rollback(store)
    size = sum(map(len, FILES.values())) + len(run_id(1))
    for _ in range(2):
        report = verify_store(store, load, LONG_AFTER)
        assert report.damage == [] and report.leftovers == ()
        assert [run.run_id for run in report.runs] == [run_id(number) for number in range(1, 6)]
        assert {(run.files, run.size) for run in report.runs} == {(4, size)}
        store.put_if_absent(keys.of_generation(4), to_json(champion_of(store)))


@pytest.mark.parametrize(
    ("key", "content", "part"),
    [
        (f"runs/{run_id(1)}/id", b"rEport", "id is not the file"),
        (f"runs/{run_id(1)}/id", None, "id is missing"),
        (f"runs/{run_id(1)}/manifest.json", b"{}", "(its SHA-256 differs)"),
        (f"runs/{run_id(3)}/manifest.json", b"{}", "manifest.json cannot be read"),
        (f"runs/{run_id(2)}/manifest.json", None, "is missing, although the run is the champion"),
        ("champion.json", b"{}", "champion.json cannot be read"),
        ("history/00000001.json", None, "the history has a gap"),
        ("history/00000001.json", b"[]", "00000001.json cannot be read"),
        ("history/00000002.json", b"other", "00000002.json is not an earlier version"),
        ("history/00000007.json", b"later", "00000007.json is not an earlier version"),
        ("history/notes.txt", b"mine", "notes.txt is not an earlier version"),
        (f"test-sets/{'ab' * 32}.json", b"{}", ".json cannot be read"),
        (f"fingerprints/{'ab' * 32}.json", b"{}", ".json cannot be read"),
        (f"verdicts/{run_id(1)}/00000001-abcdef01.json", b"{}", "abcdef01.json cannot be read"),
    ],
)
def test_each_kind_of_damage_is_found(
    key: str, content: bytes | None, part: str, store: MemoryStore
) -> None:
    """Whatever is changed, missing or too much is reported by its place, as one fault."""
    put_runs(store, 3, champions=[1, 2])
    overwrite(store, key, content)
    (fault,) = verify_store(store, load, LONG_AFTER).damage
    assert part in fault and key.rpartition("/")[2] in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    "key",
    ["champion.json", "history/00000001.json", "history/00000002.json"]
    + [f"{folder}/{'ab' * 32}.json" for folder in ("fingerprints", "test-sets")],
)
def test_a_record_of_too_many_bytes_is_not_read(key: str, store: MemoryStore) -> None:
    """It would take as much memory before it could be refused."""
    put_runs(store, 3, champions=[1, 2])
    overwrite(store, key, b" " * (LARGEST_RECORD + 1))
    (fault,) = verify_store(store, load, LONG_AFTER).damage
    assert f"{key.rpartition('/')[2]} has 1,048,577 bytes" in fault and "not read" in fault


def test_a_model_that_holds_no_network_is_a_fault(store: MemoryStore) -> None:
    put(store, 1, files={"model.keras": b"no network"})
    (fault,) = verify_store(store, load, LONG_AFTER).damage
    where = store.location(f"runs/{run_id(1)}/model.keras")
    assert fault == f"{where}: model.keras holds no network of this project: really"


def test_a_run_removed_while_it_is_read_is_no_fault(store: MemoryStore) -> None:
    put_runs(store, 4, champions=[4])

    def prune_now(content: bytes) -> None:
        prune_store(store, 1, LONG_AFTER, by="test")

    assert verify_store(store, prune_now, LONG_AFTER).damage == []


@pytest.mark.parametrize("place", range(8))
def test_a_promotion_while_the_history_is_checked_is_no_fault(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it comes, the champion records that it archives are not taken for strangers."""
    store = MemoryStore()
    fourth = put_runs(store, 4, champions=range(1, 4))[3]
    seen: list[str] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(key: str, *limit: int) -> Any:
            seen.append(key)
            if len(seen) == place + 1:
                promote(store, fourth)
            return real(key, *limit)

        return read

    for verb in ("read", "get", "list_entries"):
        monkeypatch.setattr(store, verb, watched(getattr(store, verb)))
    assert verify_store(store, load, LONG_AFTER).damage == []


def test_a_link_in_a_folder_store_is_named(tmp_path: Path) -> None:
    """A symbolic link ends it with a line that names the link: nobody knows where it leads."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promoted=True)
    link = tmp_path / "store" / "runs" / run_id(1) / "id"
    link.unlink()
    link.symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="id is a symbolic link"):
        verify_store(store, load, LONG_AFTER)
    with pytest.raises(StoreError, match="id is a symbolic link"):
        prune_store(store, 1, LONG_AFTER, by="test")


def test_each_different_model_is_loaded_once(store: MemoryStore) -> None:
    """What is wrong with it is told of every run that has it."""
    put_runs(store, 5)
    loaded = []

    def refuse(content: bytes) -> None:
        loaded.append(content)
        raise DamagedError("no network")

    report = verify_store(store, refuse, LONG_AFTER)
    assert len(loaded) == 1
    assert [len(run.problems) for run in report.runs] == [1] * 5
    assert report.runs[4].problems[0].startswith(f"{store.location('runs')}/{run_id(5)}/")


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_store_that_goes_away_is_no_damage(reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store itself cannot be read (any more), that is the error, not its runs."""
    store = MemoryStore()
    if reads:
        put(store, 1)
    seen: list[str] = []

    def gone(key: str, limit: int | None = None) -> bytes | None:
        seen.append(key)
        if len(seen) > reads:
            raise StoreError("bucket 'b' does not exist")
        return store.objects.get(key)

    monkeypatch.setattr(store, "read", gone)
    monkeypatch.setattr(store, "get", gone)
    with pytest.raises(StoreError, match="does not exist") as caught:
        verify_store(store, load, LONG_AFTER)
    assert caught.value.exit_code == ExitCode.STORE


def test_one_run_is_verified_alone(store: MemoryStore) -> None:
    """Only that run is read, with its strays; another one's damage does not count."""
    put_runs(store, 2, champions=[1])
    overwrite(store, f"runs/{run_id(2)}/id", b"other")
    store.put_if_absent(f"runs/{run_id(1)}/stray", b"1")
    report = verify_store(store, load, LONG_AFTER, run_id(1))
    assert report.damage == [] and len(report.runs) == 1
    assert [found.key for found in report.leftovers] == [f"runs/{run_id(1)}/stray"]
    assert verify_store(store, load, LONG_AFTER, run_id(2)).damage
    overwrite(store, f"runs/{run_id(1)}/manifest.json", b"{}")
    (fault,) = verify_store(store, load, LONG_AFTER, run_id(1)).damage
    assert "not the manifest that was promoted" in fault
    with pytest.raises(StoreError, match="this store has no run"):
        verify_store(store, load, LONG_AFTER, run_id(3))
