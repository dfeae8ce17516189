"""Leftovers: what belongs to no complete run, and when it may be removed."""

import os
from pathlib import Path

import pytest

from fmnist.registry.champion import read_champion
from fmnist.registry.leftovers import GRACE
from fmnist.registry.prune import plan_prune, prune_store
from fmnist.registry.verify import verify_store
from fmnist.store.folder import FolderStore
from tests.support.memory import MemoryStore
from tests.support.processes import files_in
from tests.support.registry import EVEN_LATER, LONG_AFTER, age, champion_of, load, put, run_id


def test_what_is_no_runs_name_never_reaches_the_head(store: MemoryStore) -> None:
    """A folder with another name stays, since no champion record can list it as retired."""
    put(store, 1, promoted=True)
    for key in ("runs/some notes/a.txt", "runs/!x/manifest.json"):
        store.put_if_absent(key, b"1")
    age(store)
    prune_store(store, 1, EVEN_LATER, by="test")
    assert champion_of(store).retired == ()
    assert store.read("runs/some notes/a.txt") and store.read("runs/!x/manifest.json")
    found = verify_store(store, load, EVEN_LATER).leftovers
    assert {(item.key, item.safe) for item in found} == {
        ("runs/some notes/", False),
        ("runs/!x/", False),
    }


def test_strays_and_verdicts_of_removed_runs_go(store: MemoryStore) -> None:
    """Old objects that no manifest lists, and verdicts about no run, are removed; the run stays."""
    run = put(store, 1, promoted=True)
    store.put_if_absent(f"runs/{run_id(1)}/figures/old.png", b"1234")
    store.put_if_absent(f"verdicts/{run_id(7)}/00000001-abcdef01.json", b"12")
    age(store)
    assert plan_prune(store, 1, LONG_AFTER + GRACE).leftovers == ()
    removed = prune_store(store, 1, EVEN_LATER, by="test")
    assert [(found.key, found.size) for found in removed.leftovers] == [
        (f"runs/{run_id(1)}/figures/old.png", 4),
        (f"verdicts/{run_id(7)}/", 2),
    ]
    assert removed.size == 6
    assert set(store.list_entries("runs/")) == {
        f"runs/{run_id(1)}/{name}" for name in (*run.manifest.files, "manifest.json")
    }
    assert store.list_names("verdicts/") == []


def test_interrupted_writes_in_a_folder_are_leftovers(tmp_path: Path) -> None:
    """What a killed process was writing beside an object is reported, and removed after a day."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promoted=True)
    parts = [
        f"runs/{run_id(1)}/.abc.part",
        f"runs/{run_id(2)}/.abc.part",
        ".champion.part",
        "history/.x.part",
        "fingerprints/.x.part",
        ".probe-0123",
    ]
    for part in parts:
        path = tmp_path / "store" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    age(store)
    found = verify_store(store, load, LONG_AFTER + GRACE).leftovers
    assert {item.key for item in found} == set(parts)
    assert not any(item.safe for item in found)
    prune_store(store, 1, EVEN_LATER, by="test")
    assert not [name for name in files_in(tmp_path / "store") if ".part" in name or "prob" in name]
    assert not (tmp_path / "store" / "runs" / run_id(2)).exists()
    read_champion(store)


def test_a_write_that_ends_while_leftovers_are_listed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its temporary file may be gone when it is looked at."""
    store = FolderStore(str(tmp_path / "store"))
    put(store, 1, promoted=True)
    for name in (".a.part", ".b.part"):
        (tmp_path / "store" / name).write_bytes(b"1")
    lstat = Path.lstat

    def vanish(path: Path) -> os.stat_result:
        if path.name == ".a.part":
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", vanish)
    assert [found.key for found in verify_store(store, load, LONG_AFTER).leftovers] == [".b.part"]
