"""Storing runs and reading them back: what is written, in which order, and what is refused."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fmnist.errors import DamagedError, ExitCode, StoreError
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, read_champion
from fmnist.registry.records import FORMAT, FileEntry, Manifest, from_json, to_json
from fmnist.registry.runs import (
    find_run,
    find_run_id,
    later_verdicts,
    list_run_ids,
    read_file,
    read_record,
    read_run,
    record_verdict,
    seal_run,
    upload_run,
)
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import files_in
from tests.support.registry import (
    ALL,
    FILES,
    NOW,
    SPOILT,
    edited,
    once,
    overwrite,
    put,
    refused,
    rejected,
    seal,
    spoil,
    without,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Finish a run with another content of one file."""
    (folder / keys.MANIFEST).unlink()
    (folder / name).write_bytes(content)
    seal_run(folder, records.RUN_ID, NOW)


def test_the_manifest_lists_every_file(sealed: Path) -> None:
    """The manifest has size and SHA-256 of every other file, in folders too."""
    manifest = from_json(Manifest, (sealed / keys.MANIFEST).read_bytes(), keys.MANIFEST)
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
def test_a_manifest_is_there_completely_or_not_at_all(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full at that moment, the folder has none, so it is not a finished run."""

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


def test_the_manifest_is_written_last_and_a_repeat_changes_nothing(
    sealed: Path, store: MemoryStore
) -> None:
    run = upload_run(store, sealed)
    assert run.content == (sealed / keys.MANIFEST).read_bytes()
    assert run.sha256 == hashlib.sha256(run.content).hexdigest()
    place = f"runs/{records.RUN_ID}"
    assert {verb for verb, _ in store.writes} == {"put_if_absent"}
    assert store.writes[-1] == ("put_if_absent", f"{place}/{keys.MANIFEST}")
    stored = {f"{place}/{name}": (sealed / name).read_bytes() for name in ALL}
    assert {key for _, key in store.writes} == stored.keys()
    assert store.objects == stored
    assert upload_run(store, sealed) == run
    assert store.objects == stored


def test_another_run_of_the_same_id_is_refused(sealed: Path, store: MemoryStore) -> None:
    upload_run(store, sealed)
    before = dict(store.objects)
    reseal(sealed, "model.keras", b"other")
    with pytest.raises(StoreError, match="other content"):
        upload_run(store, sealed)
    assert store.objects == before


def listing(name: str = keys.MODEL, **changed: object) -> Callable[[bytes], bytes]:
    """Lists a file in a manifest as the model is listed, but for these changes."""

    def change(content: bytes) -> bytes:
        files = json.loads(content)["files"]
        return edited(content, files={**files, name: {**files[keys.MODEL], **changed}})

    return change


LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong size": (listing(size=1), keys.MODEL),
    "wrong digest": (listing(sha256="0" * 64), keys.MODEL),
    "huge size": (listing(size=10**30), keys.MODEL),
    "negative size": (listing(size=-1), "greater than or equal to 0"),
    "fractional size": (listing(size=1.5), "integer"),
    "no size": (listing(size=None), "integer"),
    "digest that is not hex": (listing(sha256="z" * 64), "sha256"),
    "digest cut short": (listing(sha256="0" * 63), "sha256"),
    "digest in upper case": (listing(sha256="A" * 64), "sha256"),
    "a file that is not there": (listing("absent.json"), "absent.json"),
    "a name that climbs out": (listing("../../outside"), "files"),
    "the name of a file outside": (
        listing("../secret", size=6, sha256=hashlib.sha256(b"secret").hexdigest()),
        "files",
    ),
    "a name that climbs inside": (listing("figures/../../x"), "files"),
    "an absolute name": (listing("/etc/passwd"), "files"),
    "a name with a backslash": (listing("..\\x"), "files"),
    "a name with NUL": (listing("a\x00"), "files"),
    "an empty name": (listing(""), "files"),
    "a very long name": (listing("x" * 201), "files"),
    "a name with two slashes": (listing("figures//a.png"), "files"),
    "another format": (lambda old: edited(old, format=3), "format"),
    "the first format": (lambda old: edited(old, format=1), "format"),
    "a format in words": (lambda old: edited(old, format="2"), "format"),
    "a naive time": (lambda old: edited(old, created_at="2026-03-14T09:26:53"), "created_at"),
    "no time": (lambda old: edited(old, created_at="today"), "created_at"),
    "files as a list": (lambda old: edited(old, files=[]), "files"),
    "no run id": (without("run_id"), "run_id"),
    "a run id that climbs out": (lambda old: edited(old, run_id="../../champion"), "run_id"),
    "no files": (without("files"), "files"),
    "not JSON": (lambda _: b"format: 2\n", "JSON"),
    "not text": (lambda _: b"\xff\xfe\x00\x80", "JSON"),
    "empty": (lambda _: b"", "JSON"),
    "truncated": (lambda old: old[:-20], "JSON"),
    "two records": (lambda old: old + old, "JSON"),
    "deeply nested": (lambda _: b"[" * 100_000 + b"]" * 100_000, "cannot be read"),
    "half a MB of JSON": (lambda old: edited(old, created_at="x" * 2**19), "created_at"),
    "50,000 names": (
        lambda old: edited(old, files={f"../{number}": {} for number in range(50_000)}),
        "files",
    ),
}  # fmt: skip


UNFINISHED: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no manifest": (keys.MANIFEST, lambda _: None, keys.MANIFEST),
    "no model": (keys.MODEL, lambda _: None, keys.MODEL),
    "another model": (keys.MODEL, lambda old: b"w" * len(old), keys.MODEL),
} | {name: (keys.MANIFEST, lie, told) for name, (lie, told) in LIES.items()}


@pytest.mark.parametrize(("name", "change", "told"), UNFINISHED.values(), ids=UNFINISHED.keys())
def test_a_folder_that_is_not_a_finished_run_is_not_published(
    name: str, change: Callable[[bytes], bytes | None], told: str, sealed: Path, store: MemoryStore
) -> None:
    """The folder and the fault are named, and not one object is created."""
    (sealed.parent / "secret").write_bytes(b"secret")
    content = change((sealed / name).read_bytes())
    if content is None:
        (sealed / name).unlink()
    else:
        (sealed / name).write_bytes(content)
    refused(lambda: upload_run(store, sealed), ExitCode.DAMAGED, str(sealed), told)
    assert store.writes == []


@pytest.mark.parametrize(("lie", "told"), LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("resealed", [False, True], ids=["swapped", "named by the champion too"])
def test_a_champion_whose_manifest_lies_is_not_read(
    lie: Callable[[bytes], bytes], told: str, resealed: bool, store: MemoryStore
) -> None:
    """Whether or not `champion.json` was changed to match, none of its files is returned."""
    put(store, "one", promoted=True)
    key = f"runs/one/{keys.MANIFEST}"
    store.objects[key] = lie(store.objects[key])
    if resealed:
        digest = hashlib.sha256(store.objects[key]).hexdigest()
        store.objects[keys.CHAMPION] = edited(store.objects[keys.CHAMPION], manifest_sha256=digest)
    told = told if resealed else "SHA-256 differs"
    refused(lambda: read_champion(store), ExitCode.DAMAGED, "runs/one/", told)


@pytest.mark.parametrize("content", [None, b"short"], ids=["removed", "cut short"])
def test_a_file_that_was_lost_while_the_run_was_stored_is_noticed(
    content: bytes | None, sealed: Path, store: MemoryStore
) -> None:
    """A run of which the store does not list every file in its size is not taken for published."""
    model, manifest = (keys.of_run(records.RUN_ID, name) for name in (keys.MODEL, keys.MANIFEST))
    once(store, "before", "put_if_absent", manifest, lambda: overwrite(store, model, content))
    refused(lambda: upload_run(store, sealed), ExitCode.DAMAGED, store.location(model))


# ---- reading ------------------------------------------------------------------------------------


def test_a_run_exists_when_its_manifest_does(sealed: Path, store: MemoryStore) -> None:
    published = upload_run(store, sealed)
    assert find_run(store, records.RUN_ID) == published
    assert read_run(store, records.RUN_ID, published.sha256) == published
    del store.objects[f"runs/{records.RUN_ID}/{keys.MANIFEST}"]
    assert find_run(store, records.RUN_ID) is None
    with pytest.raises(StoreError, match="this store has no run") as caught:
        read_run(store, records.RUN_ID)
    assert caught.value.exit_code == ExitCode.SETTINGS
    with pytest.raises(DamagedError, match="is missing, although the run was promoted"):
        read_run(store, records.RUN_ID, published.sha256)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("20260102", "20260102T000000Z-0000000b"),
        ("c000", "20260103T000000Z-c0000000"),
        ("20260102T000000Z-0000000b", "20260102T000000Z-0000000b"),
        ("odd", "odd"),
    ],
)
def test_a_beginning_or_end_of_an_id_is_enough(text: str, meant: str, store: MemoryStore) -> None:
    for name in ("20260102T000000Z-0000000b", "20260103T000000Z-c0000000", "odd", "odd-1"):
        put(store, name)
    assert find_run_id(store, text) == meant


@pytest.mark.parametrize(("text", "told"), [("2026", "any of 2 runs"), ("00b", "no run 00b")])
def test_an_unclear_or_unknown_run_is_a_wrong_argument(
    text: str, told: str, store: MemoryStore
) -> None:
    """The message names the runs that may be meant."""
    for name in ("20260102T000000Z-0000000b", "20260103T000000Z-0000000c"):
        put(store, name)
    refused(lambda: find_run_id(store, text), ExitCode.SETTINGS, told)


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_date_that_utc_does_not_have_is_damage(date: str, store: MemoryStore) -> None:
    """It could not be shown; in the manifest or in the champion's record."""
    put(store, "one", promoted=True)
    for key, name in (("runs/one/manifest.json", "created_at"), (keys.CHAMPION, "moved_at")):
        store.objects[key] = edited(store.objects[key], **{name: date})
    refused(lambda: read_run(store, "one"), ExitCode.DAMAGED, "created_at")
    refused(lambda: current_champion(store), ExitCode.DAMAGED, "moved_at")


def test_an_object_that_is_too_large_for_a_record_is_not_read(store: MemoryStore) -> None:
    put(store, "one", promoted=True)
    for key in ("runs/one/manifest.json", keys.CHAMPION):
        store.objects[key] = edited(store.objects[key], more="x" * 2**20)
    refused(lambda: read_run(store, "one"), ExitCode.DAMAGED, "no more than 1,048,576")
    refused(lambda: current_champion(store), ExitCode.DAMAGED, "no more than 1,048,576")


def test_runs_are_listed_the_newest_first(store: MemoryStore) -> None:
    """Every run's id is listed once, also of one that was never finished, and nothing else."""
    for run_id in ("20260102T000000Z-a", "20260103T000000Z-b", "20260101T000000Z-c"):
        put(store, run_id)
    store.objects["runs/20260104T000000Z-d/model.keras"] = b"unfinished"
    store.objects["runs/stray"] = b"a file of somebody"
    store.objects[keys.CHAMPION] = b"{}"
    assert [run_id[-1] for run_id in list_run_ids(store)] == ["d", "b", "a", "c"]


def test_the_manifest_of_another_run_is_noticed(store: MemoryStore) -> None:
    put(store, "one")
    other = put(store, "two")
    store.objects[f"runs/one/{keys.MANIFEST}"] = other.content
    for sha256 in (None, other.sha256):
        with pytest.raises(DamagedError, match="runs/one/.* is the manifest of another run"):
            find_run(store, "one", sha256)


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT.keys())
def test_a_file_that_is_not_the_listed_one_is_never_read(
    change: Callable[[bytes], bytes | None], store: MemoryStore
) -> None:
    """Not listed at all, or of another size or digest, it is an error that names it."""
    run = put(store, "one", promoted=True)
    store.objects["runs/one/extra"] = b"extra"
    with pytest.raises(DamagedError, match="runs/one/extra is not listed"):
        read_file(store, run, "extra")
    assert read_file(store, run, "model.keras") == FILES["model.keras"]
    spoil(store, "runs/one/model.keras", change)
    for action in (lambda: read_file(store, run, "model.keras"), lambda: read_champion(store)):
        with pytest.raises(DamagedError, match=r"memory/runs/one/model\.keras is (not|missing)"):
            action()


def test_a_file_of_a_run_is_read_as_a_record(sealed: Path, store: MemoryStore) -> None:
    """A record comes back equal; a file that holds none is named as damaged."""
    reseal(sealed, keys.EVALUATION, to_json(records.evaluation()))
    run = upload_run(store, sealed)
    kind = type(records.evaluation())
    assert read_record(store, run, keys.EVALUATION, kind) == records.evaluation()
    with pytest.raises(DamagedError, match=f"runs/{records.RUN_ID}/id cannot be read"):
        read_record(store, run, "id", kind)


# ---- later verdicts -----------------------------------------------------------------------------


def test_later_verdicts_are_kept_beside_each_other(store: MemoryStore) -> None:
    """Several verdicts of a run come back in the order of what they were passed against."""
    run = put(store, "one")
    verdicts = [replace(rejected(None), generation=number) for number in (11, 2, 2)]
    verdicts[2] = replace(verdicts[2], reason="for another reason")
    for verdict in verdicts:
        for _ in range(2):  # a repeat changes nothing
            record_verdict(store, run, verdict)
    found = later_verdicts(store, "one")
    assert len(found) == 3 and set(found) == set(verdicts)
    assert [verdict.generation for verdict in found] == [2, 2, 11]
