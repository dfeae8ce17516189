"""Bad input of every kind: its exit code, one clear line, and not a byte of the store changed.

A kind is one id of a parametrisation below, or one test that has none.
"""

import contextlib
import functools
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.loaders
import keras
import numpy as np
import pytest

from fmnist.configure import load_named_settings
from fmnist.errors import ExitCode, JobError
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.metrics import evaluate
from fmnist.promotion.judge import Judge, TestSet
from fmnist.promotion.publish import publish_run
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
    MANIFEST,
    MODEL,
    ChampionRecord,
    StoredRun,
    checked_run_id,
    history_key,
    new_run_id,
)
from fmnist.registry.runs import list_run_ids, read_run, record_verdict, seal_run, upload_run
from fmnist.registry.usage import record_use
from fmnist.settings import GateSettings, ModelSettings
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from fmnist.training.model_file import load_model_bytes, scorer
from fmnist.training.network import build
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import ROOT, S3Server, run_program
from tests.support.tiny_s3 import TinyS3, tiny_s3

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
FIRST, SECOND = "20260301T000000Z-00000001", "20260302T000000Z-00000002"
NEW = records.RUN_ID
BY = "tests"

real = pytest.mark.minio

# ---- what every kind must keep ------------------------------------------------------------------


def refused(action: Callable[[], object], code: ExitCode, *parts: str) -> str:
    """The message of the failure that an action must end with: one line that names the thing."""
    with pytest.raises(JobError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == code, message
    assert "\n" not in message and 20 < len(message) < 900, message
    for part in parts:
        assert part in message, message
    return message


def snapshot(store: Store) -> dict[str, bytes]:
    """Everything that a store holds, byte for byte, and where its symbolic links point."""
    if isinstance(store, MemoryStore):
        return dict(store.objects)
    if isinstance(store, FolderStore):
        return of_folder(Path(store.url))
    return {
        key: store.read(key) or b"" for key in store.list_entries("") if not key.startswith(".")
    }


def of_folder(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every symbolic link."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or (path.is_file() and path.name != ".lock")
    }


@contextlib.contextmanager
def unchanged(store: Store, but: str | None = None) -> Iterator[None]:
    """Nothing in the store may change, unless below the key `but`."""
    before = snapshot(store)
    yield
    after = snapshot(store)
    if but:
        after = {key: content for key, content in after.items() if not key.startswith(but)}
    assert after == before


def make_run(folder: Path, run_id: str, weights: bytes = b"weights of ") -> Path:
    """The folder of a finished run with a few files, all its own."""
    for name, content in {
        MODEL: weights + run_id.encode(),
        "evaluation.json": b"{}",
        "figures/a.png": b"\x89PNG" + run_id.encode(),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal_run(folder, run_id, NOW)
    return folder


def passed(head: ChampionRecord | None) -> Verdict:
    """A verdict that promotes, whoever is the champion."""
    return Verdict(True, (), "good enough", generation_of(head))


def promote(store: Store, run: StoredRun) -> ChampionRecord:
    """Promote a run past the champion in force."""
    outcome = promote_run(store, run, 0.91, passed(current_champion(store)), passed, by=BY)
    assert outcome.champion
    return outcome.champion


def with_two_champions(store: Store, tmp_path: Path) -> Store:
    """A store in which one run was promoted after another."""
    for run_id in (FIRST, SECOND):
        promote(store, upload_run(store, make_run(tmp_path / run_id, run_id)))
    return store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, of which the second is the champion and the first was."""
    folder = tmp_path_factory.mktemp("original")
    with_two_champions(FolderStore(str(folder / "store")), folder)
    return folder / "store"


@pytest.fixture
def store(tmp_path: Path, original: Path) -> FolderStore:
    """A copy of it of the test's own."""
    return FolderStore(str(shutil.copytree(original, tmp_path / "store")))


one_loader = functools.cache(botocore.loaders.create_loader)


@pytest.fixture(autouse=True)
def quick_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 reads its descriptions of services only once, and tries again without its pauses."""
    monkeypatch.setattr("botocore.session.create_loader", one_loader)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished run that is not published yet."""
    return make_run(tmp_path / "finished", NEW)


def overwrite(store: FolderStore, key: str, content: bytes) -> None:
    """Change an object behind the store's back."""
    (Path(store.url) / key).write_bytes(content)


def edited(content: bytes, **fields: object) -> bytes:
    """A JSON record with other values for some of its fields."""
    return json.dumps({**json.loads(content), **fields}).encode()


# ---- store URLs ---------------------------------------------------------------------------------

URLS: dict[str, tuple[str, str]] = {
    "credentials": ("s3://AKIAKEY:hush/hush@bucket/x", "must not contain credentials"),
    "a user": ("s3://me@bucket/x", "must not contain credentials"),
    "an unknown scheme": ("gs://bucket/x", "unknown scheme 'gs://'"),
    "a file URL": ("file:///models", "unknown scheme 'file://'"),
    "http": ("http://127.0.0.1:9000/bucket", "AWS_ENDPOINT_URL_S3"),
    "https": ("https://s3.example.org/bucket", "AWS_ENDPOINT_URL_S3"),
    "upper case": ("S3://bucket/x", "unknown scheme 'S3://'"),
    "climbing out": ("s3://bucket/../other", "must not contain '..'"),
    "climbing out at the end": ("s3://bucket/a/..", "must not contain '..'"),
    "empty": ("", "must not be empty"),
    "blank": ("  \t ", "must not be empty"),
    "a line break": ("s3://bucket/a\nb", "control characters"),
    "NUL": ("store\x00", "control characters"),
    "DEL": ("store\x7f", "control characters"),
    "a query": ("s3://bucket/x?versionId=1", "'?' or '#'"),
    "a fragment": ("s3://bucket/x#1", "'?' or '#'"),
    "one slash too few": ("s3:/bucket/x", "one slash too few"),
    "no bucket": ("s3:///x", "names no bucket"),
    "nothing but a scheme": ("s3://", "names no bucket"),
    "nobody's home": ("~nobody-of-this-name/store", "unknown user"),
    "very long": ("s3://bucket/" + "x" * 1500, "store.url"),
    "a very long folder": ("x" * 1500, "store.url"),
}


@pytest.mark.parametrize(("url", "told"), URLS.values(), ids=URLS.keys())
def test_a_store_url_that_cannot_be_meant_is_a_wrong_setting(
    url: str, told: str, store: FolderStore
) -> None:
    """It is refused before anything is contacted, with the setting named and no secret shown."""
    with unchanged(store):
        message = refused(
            lambda: load_named_settings({"store.url": url}), ExitCode.SETTINGS, "store.url:", told
        )
    assert "hush" not in message and len(message) < 300


BUCKETS = {
    "upper case and signs": "UPPER_case!",
    "a blank": "a b",
    "unicode": "b\u00fccket",
    "too short": "x",
    "too long": "x" * 200,
    "an ARN": "arn:aws:s3:::bucket",
}


@real
@pytest.mark.usefixtures("minio")
@pytest.mark.parametrize("name", BUCKETS.values(), ids=BUCKETS.keys())
@pytest.mark.parametrize("prefix", ["", "/team"])
def test_a_bucket_that_can_be_none_is_a_store_that_cannot_be_used(name: str, prefix: str) -> None:
    """A name that no bucket has is refused by the check before training, and named."""
    url = load_named_settings({"store.url": f"s3://{name}{prefix}"}).store.url
    refused(lambda: open_store(url).check(), ExitCode.STORE, name[:60])


@real
def test_a_prefix_of_any_letters_is_a_store(bucket: str, tmp_path: Path) -> None:
    """A prefix in unicode, with blanks and signs, is good: what is published there reads back."""
    url = load_named_settings(
        {"store.url": f"s3://{bucket}/m\u00f6d\u00e8les \u6a21\u578b/a+b&c=%20"}
    ).store.url
    store = open_store(url)
    assert store.check()
    with_two_champions(store, tmp_path)
    found, files = read_champion(store)
    assert found.run_id == SECOND
    assert files[MODEL] == (tmp_path / SECOND / MODEL).read_bytes()
    assert list_run_ids(store) == [SECOND, FIRST]


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_in_place_of_the_store_is_told(below: str, tmp_path: Path, finished: Path) -> None:
    """A file where the folder should be is named by the check and by every publication."""
    (tmp_path / "taken").write_text("a file")
    store = FolderStore(f"{tmp_path / 'taken'}{below}")
    for action in (store.check, lambda: upload_run(store, finished)):
        refused(action, ExitCode.STORE, str(tmp_path / "taken"), "set store.url")
    assert (tmp_path / "taken").read_text() == "a file"


def test_the_job_itself_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    """The process refuses a bad store URL with code 2, one line and no traceback."""
    ended = run_program(str(ROOT / "flows" / "train.py"), "--store.url", "s3://me:hush@bucket/x")
    assert ended.returncode == ExitCode.SETTINGS
    assert len(ended.stdout.splitlines()) == 1 and "store.url" in ended.stdout
    assert "Traceback" not in ended.stderr and "hush" not in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


# ---- run ids ------------------------------------------------------------------------------------

RUN_IDS = {
    "parent": "../x",
    "only the parent": "..",
    "this folder": ".",
    "absolute": "/etc/passwd",
    "with a slash": "a/b",
    "with a slash at the end": "a/",
    "with a backslash": "..\\x",
    "with a drive": "C:x",
    "with NUL": "a\x00b",
    "with a line break": "a\n",
    "empty": "",
    "blank": " ",
    "very long": "a" * 101,
    "with a leading dot": ".hidden",
    "with a leading dash": "--help",
    "unicode": "r\u00fcn",
    "unicode digits": "\u0661\u0662",
    "a look-alike slash": "a\u2044b",
    "escaped": "%2e%2e%2fx",
}
bad_run_ids = pytest.mark.parametrize("run_id", RUN_IDS.values(), ids=RUN_IDS.keys())


@bad_run_ids
def test_a_run_id_that_somebody_gives_cannot_climb_out(run_id: str) -> None:
    """What is no run id is refused as a wrong argument, whatever store is meant."""
    refused(lambda: checked_run_id(run_id), ExitCode.SETTINGS, "is no run id", "`fmnist runs`")


@bad_run_ids
def test_a_champion_that_names_such_a_run_is_damaged(
    run_id: str, store: FolderStore, finished: Path
) -> None:
    """In whatever field: no reader follows it, and no publisher or rollback goes past it."""
    run = upload_run(store, finished)
    head = store.read(CHAMPION) or b""
    for field in ("run_id", "previous", "rollback_to", "retired"):
        value = [run_id] if field == "retired" else run_id
        overwrite(store, CHAMPION, edited(head, **{field: value}))
        with unchanged(store):
            for action in actions_on_the_head(store, run):
                refused(action, ExitCode.DAMAGED, CHAMPION, field, "cannot be read")


@bad_run_ids
def test_a_manifest_of_such_a_run_is_damaged(
    run_id: str, store: FolderStore, finished: Path
) -> None:
    """A finished folder under such an id is not published, nor is a stored one read."""
    content = edited((finished / MANIFEST).read_bytes(), run_id=run_id)
    (finished / MANIFEST).write_bytes(content)
    overwrite(store, f"runs/{SECOND}/{MANIFEST}", content)
    with unchanged(store):
        refused(lambda: upload_run(store, finished), ExitCode.DAMAGED, MANIFEST, "run_id")
        refused(lambda: read_run(store, SECOND), ExitCode.DAMAGED, SECOND, "run_id")


@pytest.mark.parametrize("key", ["../outside", "runs/../../outside", "a\x00b"])
def test_no_key_of_a_folder_store_leads_out(key: str, tmp_path: Path, store: FolderStore) -> None:
    """Whoever asks for such a key, nothing outside is read, written or deleted."""
    (tmp_path / "outside").write_bytes(b"precious")
    before = of_folder(tmp_path)
    for action in (
        lambda: store.read(key),
        lambda: store.put_if_absent(key, b"1"),
        lambda: store.compare_and_swap(key, None, b"1"),
        lambda: store.delete(key),
        lambda: store.list_names(f"{key}/"),
        lambda: store.list_entries(f"{key}/"),
    ):
        refused(action, ExitCode.STORE, "no key of the store")
    assert of_folder(tmp_path) == before


# ---- manifests that lie -------------------------------------------------------------------------


def listing(**changed: object) -> Callable[[bytes], bytes]:
    """Changes the model's entry in a manifest."""

    def change(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["files"][MODEL] |= changed
        return json.dumps(manifest).encode()

    return change


def naming(name: str) -> Callable[[bytes], bytes]:
    """Lists one more file in a manifest, with the digest of the model."""

    def change(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["files"][name] = manifest["files"][MODEL]
        return json.dumps(manifest).encode()

    return change


def without(field: str) -> Callable[[bytes], bytes]:
    """Leaves a field of a record out."""

    def change(content: bytes) -> bytes:
        record = json.loads(content)
        del record[field]
        return json.dumps(record).encode()

    return change


# How a manifest's bytes are changed, and what the message says.
LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong size": (listing(size=1), MODEL),
    "wrong digest": (listing(sha256="0" * 64), MODEL),
    "huge size": (listing(size=10**30), MODEL),
    "negative size": (listing(size=-1), "greater than or equal to 0"),
    "fractional size": (listing(size=1.5), "integer"),
    "no size": (listing(size=None), "integer"),
    "digest that is not hex": (listing(sha256="z" * 64), "sha256"),
    "digest cut short": (listing(sha256="0" * 63), "sha256"),
    "digest in upper case": (listing(sha256="A" * 64), "sha256"),
    "a file that is not there": (naming("absent.json"), "absent.json"),
    "a name that climbs out": (naming("../../outside"), "files"),
    "a name that climbs inside": (naming("figures/../../x"), "files"),
    "an absolute name": (naming("/etc/passwd"), "files"),
    "a name with a backslash": (naming("..\\x"), "files"),
    "a name with NUL": (naming("a\x00"), "files"),
    "an empty name": (naming(""), "files"),
    "a very long name": (naming("x" * 201), "files"),
    "a name with two slashes": (naming("figures//a.png"), "files"),
    "another format": (lambda old: edited(old, format=3), "format"),
    "a format in words": (lambda old: edited(old, format="2"), "format"),
    "a naive time": (lambda old: edited(old, created_at="2026-03-14T09:26:53"), "created_at"),
    "no time": (lambda old: edited(old, created_at="today"), "created_at"),
    "files as a list": (lambda old: edited(old, files=[]), "files"),
    "no run id": (without("run_id"), "run_id"),
    "no files": (without("files"), "files"),
    "not JSON": (lambda _: b"format: 2\n", "JSON"),
    "not text": (lambda _: b"\xff\xfe\x00\x80", "JSON"),
    "empty": (lambda _: b"", "JSON"),
    "truncated": (lambda old: old[:-20], "JSON"),
    "two records": (lambda old: old + old, "JSON"),
    "deeply nested": (lambda _: b"[" * 100_000 + b"]" * 100_000, "cannot be read"),
    "10 MB of JSON": (lambda old: edited(old, created_at="x" * 10 * 2**20), "created_at"),
    "50,000 names": (
        lambda old: edited(old, files={f"../{number}": {} for number in range(50_000)}),
        "files",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "told"), LIES.values(), ids=LIES.keys())
def test_a_folder_whose_manifest_lies_is_not_published(
    lie: Callable[[bytes], bytes], told: str, store: FolderStore, finished: Path
) -> None:
    """The folder and the fault are named, and not one object is created."""
    (finished / MANIFEST).write_bytes(lie((finished / MANIFEST).read_bytes()))
    with unchanged(store):
        refused(lambda: upload_run(store, finished), ExitCode.DAMAGED, str(finished), told)


@pytest.mark.parametrize(("lie", "told"), LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("resealed", [False, True], ids=["swapped", "named by the champion too"])
def test_a_champion_whose_manifest_lies_is_not_read(
    lie: Callable[[bytes], bytes], told: str, resealed: bool, store: FolderStore
) -> None:
    """Whether or not `champion.json` was made to fit, no file of it is given out."""
    key = f"runs/{SECOND}/{MANIFEST}"
    content = lie(store.read(key) or b"")
    overwrite(store, key, content)
    if resealed:
        digest = hashlib.sha256(content).hexdigest()
        overwrite(store, CHAMPION, edited(store.read(CHAMPION) or b"", manifest_sha256=digest))
    with unchanged(store):
        refused(
            lambda: read_champion(store), ExitCode.DAMAGED, f"runs/{SECOND}/",
            told if resealed else "SHA-256 differs",
        )  # fmt: skip


def test_the_manifest_of_another_run_is_not_read(store: FolderStore) -> None:
    """A manifest that was copied from another run is no manifest of this one."""
    overwrite(store, f"runs/{SECOND}/{MANIFEST}", store.read(f"runs/{FIRST}/{MANIFEST}") or b"")
    with unchanged(store):
        refused(lambda: read_run(store, SECOND), ExitCode.DAMAGED, SECOND, "another run")
        refused(lambda: read_champion(store), ExitCode.DAMAGED, SECOND, "SHA-256 differs")


# ---- swapped files ------------------------------------------------------------------------------


def exchange(store: FolderStore, one: str, other: str) -> None:
    """Put each of two objects in the place of the other."""
    first, second = store.read(one) or b"", store.read(other) or b""
    overwrite(store, one, second)
    overwrite(store, other, first)


SWAPS = {
    "two files of a run": (f"runs/{SECOND}/{MODEL}", f"runs/{SECOND}/evaluation.json"),
    "the models of two runs": (f"runs/{SECOND}/{MODEL}", f"runs/{FIRST}/{MODEL}"),
    "a figure of another run": (f"runs/{SECOND}/figures/a.png", f"runs/{FIRST}/figures/a.png"),
}


@pytest.mark.parametrize(("one", "other"), SWAPS.values(), ids=SWAPS.keys())
def test_exchanged_files_are_told_from_each_other(
    one: str, other: str, store: FolderStore, finished: Path
) -> None:
    """No swapped file is given out or gone back to, and a new run can still be promoted."""
    exchange(store, one, other)
    with unchanged(store):
        refused(
            lambda: read_champion(store), ExitCode.DAMAGED, f"runs/{SECOND}/", MANIFEST,
            "SHA-256 differs",
        )  # fmt: skip
        if FIRST in other:
            refused(lambda: rollback(store), ExitCode.DAMAGED, other, "SHA-256 differs")
    assert promote(store, upload_run(store, finished)).run_id == NEW
    assert read_champion(store)[0].run_id == NEW


def rollback(store: Store, run_id: str | None = None) -> ChampionRecord:
    """Go back to the champion before."""
    return roll_back(store, run_id, reason="it was worse", by=BY)


# ---- champion.json ------------------------------------------------------------------------------


def actions_on_the_head(store: Store, run: StoredRun) -> list[Callable[[], object]]:
    """Everything that reads `champion.json`, or would write it."""
    return [
        lambda: current_champion(store),
        lambda: read_champion(store),
        lambda: list(champion_history(store)),
        lambda: promote_run(store, run, 0.91, passed(None), passed, by=BY),
        lambda: promote_run(store, run, 0.91, passed(None), passed, by=BY, forced="must"),
        lambda: rollback(store),
        lambda: retire(store, [FIRST], by=BY),
    ]


HEADS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a later version": (lambda old: edited(old, format=3), "format"),
    "no version": (without("format"), "format"),
    "generation 0": (lambda old: edited(old, generation=0), "generation"),
    "a negative generation": (lambda old: edited(old, generation=-7), "generation"),
    "a fractional generation": (lambda old: edited(old, generation=1.5), "generation"),
    "a generation in words": (lambda old: edited(old, generation="last"), "generation"),
    "no digest": (without("manifest_sha256"), "manifest_sha256"),
    "a digest that is none": (lambda old: edited(old, manifest_sha256="0x"), "manifest_sha256"),
    "a naive time": (lambda old: edited(old, moved_at="2026-03-14T09:26:53"), "moved_at"),
    "an unknown move": (lambda old: edited(old, move="coup"), "move"),
    "an accuracy in words": (lambda old: edited(old, accuracy="very good"), "accuracy"),
    "truncated": (lambda old: old[: len(old) // 2], "JSON"),
    "empty": (lambda _: b"", "JSON"),
    "not text": (lambda _: b"\x00\xff" * 100, "JSON"),
    "a list": (lambda old: b"[" + old + b"]", "its content"),
    "deeply nested": (lambda _: b'{"a":' * 50_000, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), HEADS.values(), ids=HEADS.keys())
def test_a_champion_file_that_cannot_be_read_stops_everything(
    change: Callable[[bytes], bytes], told: str, store: FolderStore, finished: Path
) -> None:
    """Neither a reader nor a publisher takes it for no champion, or writes over it."""
    overwrite(store, CHAMPION, change(store.read(CHAMPION) or b""))
    run = upload_run(store, finished)
    with unchanged(store):
        for action in actions_on_the_head(store, run):
            refused(action, ExitCode.DAMAGED, CHAMPION, told, "another version")


STRAY_HEADS: dict[str, tuple[dict[str, object], str]] = {
    "a run that is not there": ({"run_id": "20260101T000000Z-deadbeef"}, "is not there"),
    "another digest": ({"manifest_sha256": "0" * 64}, "SHA-256 differs"),
    "another run's digest": ({"run_id": FIRST}, "SHA-256 differs"),
}


@pytest.mark.parametrize(("fields", "told"), STRAY_HEADS.values(), ids=STRAY_HEADS.keys())
def test_a_champion_that_leads_to_no_run_is_not_read(
    fields: dict[str, object], told: str, store: FolderStore, finished: Path
) -> None:
    """The reader names what is missing or other, and the next promotion makes it good."""
    overwrite(store, CHAMPION, edited(store.read(CHAMPION) or b"", **fields))
    with unchanged(store):
        refused(lambda: read_champion(store), ExitCode.DAMAGED, MANIFEST, told)
    assert promote(store, upload_run(store, finished)).generation == 3
    assert read_champion(store)[0].run_id == NEW


# ---- history ------------------------------------------------------------------------------------

HISTORIES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a gap": (lambda _: None, "the history has a gap"),
    "a later generation": (lambda old: edited(old, generation=5), "out of order"),
    "the same generation": (lambda old: edited(old, generation=2), "out of order"),
    "generation 0": (lambda old: edited(old, generation=0), "generation"),
    "damaged": (lambda old: old[:-9], "cannot be read"),
    "another version": (lambda old: edited(old, format=9), "format"),
    "a run that climbs out": (lambda old: edited(old, run_id="../x"), "run_id"),
}


@pytest.mark.parametrize(("change", "told"), HISTORIES.values(), ids=HISTORIES.keys())
def test_a_damaged_history_is_told_and_goes_on_from_there(
    change: Callable[[bytes], bytes | None], told: str, store: FolderStore, finished: Path
) -> None:
    """Nobody reads or goes back past the damage; the champion is read and replaced all the same."""
    key = history_key(1)
    content = change(store.read(key) or b"")
    (Path(store.url) / key).unlink()
    if content is not None:
        overwrite(store, key, content)
    with unchanged(store):
        refused(lambda: list(champion_history(store)), ExitCode.DAMAGED, key, told)
        refused(lambda: rollback(store), ExitCode.DAMAGED, key, told)
        assert read_champion(store)[0].run_id == SECOND
    assert promote(store, upload_run(store, finished)).generation == 3


# ---- clocks -------------------------------------------------------------------------------------

CLOCKS = {
    "the epoch": datetime(1970, 1, 1, tzinfo=UTC),
    "yesterday": NOW - timedelta(days=1),
    "next year": NOW + timedelta(days=365),
    "the end of time": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
def test_a_wrong_clock_hinders_no_run(
    clock: datetime, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of any time gets a good id, is promoted, and can be gone back from."""
    run_id = checked_run_id(new_run_id(clock))
    monkeypatch.setattr(
        "fmnist.registry.champion.datetime", type("Clock", (), {"now": lambda _zone: clock})
    )
    run = upload_run(store, make_run(tmp_path / "odd", run_id))
    assert promote(store, run).moved_at == clock
    monkeypatch.undo()
    assert rollback(store).run_id == SECOND
    assert [head.generation for head in champion_history(store)] == [4, 3, 2, 1]


@pytest.mark.parametrize("moved_at", ["9998-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_the_time_of_the_last_move_decides_nothing(
    moved_at: str, store: FolderStore, finished: Path
) -> None:
    """A head that says it was moved in the future, or long ago, is followed by the next."""
    overwrite(store, CHAMPION, edited(store.read(CHAMPION) or b"", moved_at=moved_at))
    champion = promote(store, upload_run(store, finished))
    assert (champion.run_id, champion.generation) == (NEW, 3)
    assert abs(champion.moved_at - datetime.now(UTC)) < timedelta(minutes=1)


# ---- servers that refuse ------------------------------------------------------------------------


def drop(bucket: str) -> None:
    """Delete a bucket with all that is in it."""
    found = boto3.session.Session().resource("s3").Bucket(bucket)
    found.objects.all().delete()
    found.delete()


@real
@pytest.mark.parametrize("moment", ["put_if_absent", "compare_and_swap"])
def test_a_bucket_that_is_deleted_in_the_middle_is_told(
    moment: str, bucket: str, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, nothing comes into being, and in a new bucket the same run is published."""
    url = f"s3://{bucket}/team"
    store = open_store(url)
    verb = getattr(store, moment)

    def vanish(*arguments: Any) -> None:
        drop(bucket)
        verb(*arguments)

    monkeypatch.setattr(store, moment, vanish)
    before = of_folder(finished)
    refused(
        lambda: promote(store, upload_run(store, finished)), ExitCode.STORE,
        f"'{bucket}'", "does not exist", "create it",
    )  # fmt: skip
    client = boto3.session.Session().client("s3")
    assert bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]
    assert of_folder(finished) == before
    client.create_bucket(Bucket=bucket)
    fresh = open_store(url)
    assert promote(fresh, upload_run(fresh, finished)).run_id == NEW


@pytest.fixture
def minio_store(bucket: str, tmp_path: Path) -> Store:
    """A bucket of a real MinIO with two champions, one after the other, to which we have the key."""
    return with_two_champions(open_store(f"s3://{bucket}/team"), tmp_path)


def limited(minio: S3Server, actions: str, bucket: str) -> dict[str, str]:
    """Temporary keys that allow only these actions."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": actions.split(),
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    service = boto3.session.Session().client("sts", endpoint_url=minio.endpoint)
    role = service.assume_role(
        RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="reader", Policy=json.dumps(policy)
    )["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
        "AWS_SESSION_TOKEN": role["SessionToken"],
    }


KEYS: dict[str, Callable[[S3Server, str], dict[str, str]]] = {
    "a wrong secret": lambda *_: {"AWS_SECRET_ACCESS_KEY": "hush-hush"},
    "an unknown key": lambda *_: {"AWS_ACCESS_KEY_ID": "nobodys-key"},
    "a made-up token": lambda *_: {"AWS_SESSION_TOKEN": "hush-hush"},
    "a token cut short": lambda minio, bucket: {
        name: value[:-5] if "TOKEN" in name else value
        for name, value in limited(minio, "s3:*", bucket).items()
    },
    "read-only": lambda minio, bucket: limited(minio, "s3:GetObject s3:ListBucket", bucket),
    "list-only": lambda minio, bucket: limited(minio, "s3:ListBucket", bucket),
    "write-only": lambda minio, bucket: limited(minio, "s3:PutObject", bucket),
    "another bucket's": lambda minio, _: limited(minio, "s3:*", "elsewhere"),
}


@real
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_keys_without_the_right_are_told_and_not_shown(
    keys: Callable[[S3Server, str], dict[str, str]], bucket: str, minio: S3Server,
    minio_store: Store, finished: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Bucket, server and the rights needed are named before training and at every publication."""
    given = keys(minio, bucket)
    # What is left of a run that nobody promoted is no change that a reader could see.
    with unchanged(minio_store, but=f"runs/{NEW}/"):
        with monkeypatch.context() as patched:
            for name, value in given.items():
                patched.setenv(name, value)
            store = open_store(f"s3://{bucket}/team")
        for action in (store.check, lambda: promote(store, upload_run(store, finished))):
            message = refused(
                action, ExitCode.STORE, f"'{bucket}'", minio.endpoint, "AWS credentials"
            )
            assert not [value for value in given.values() if value in message]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyS3]:
    """A server of our own, in the environment."""
    with tiny_s3(monkeypatch) as state:
        yield state


REFUSALS: dict[str, tuple[tuple[int, str], str]] = {
    "a quota of the bucket": ((403, "QuotaExceeded"), "is full (QuotaExceeded)"),
    "an administrator's quota": ((400, "XMinioAdminBucketQuotaExceeded"), "is full"),
    "a full disk": ((507, "XMinioStorageFull"), "is full (XMinioStorageFull)"),
    "an expired token": ((400, "ExpiredToken"), "check the AWS credentials"),
    "a key that was revoked": ((403, "InvalidAccessKeyId"), "check the AWS credentials"),
    "a right that was taken": ((403, "AccessDenied"), "right to list, read and write"),
    "a bucket that was locked": ((400, "InvalidRequest"), "server's log"),
}


@pytest.mark.parametrize(("refusal", "told"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_server_that_refuses_in_the_middle_moves_no_champion(
    refusal: tuple[int, str], told: str, server: TinyS3, tmp_path: Path, finished: Path
) -> None:
    """After however many writes it refuses, the old champion is whole, and a repeat succeeds."""
    store = with_two_champions(open_store("s3://models/team"), tmp_path)
    server.refusal = refusal
    run = json.loads((finished / MANIFEST).read_bytes())
    writes = len(run["files"]) + 3  # the manifest, the history, the champion
    before = dict(server.objects)
    for room in range(writes):
        server.objects = dict(before)
        server.room = room
        refused(
            lambda: promote(store, upload_run(store, finished)), ExitCode.STORE,
            "'models'", told,
        )  # fmt: skip
        assert read_champion(store)[0].run_id == SECOND
        assert {key: server.objects[key] for key in before} == before
    server.room = writes
    assert promote(store, upload_run(store, finished)).run_id == NEW


# ---- symbolic links -----------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path, store: FolderStore) -> Path:
    """A folder beside the store with the same objects as it, to which links will lead."""
    folder = tmp_path / "outside"
    for key, content in snapshot(store).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


def link(store: FolderStore, key: str, outside: Path) -> Path:
    """Put a symbolic link to the same place outside in place of an object or folder."""
    place = Path(store.url) / key
    if place.exists():
        place.rename(place.with_name(f".was-{place.name}"))
    place.symlink_to(outside / key)
    return place


LINKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "the runs": ("runs", ("read", "publish", "list", "delete")),
    "a run": (f"runs/{SECOND}", ("read", "list", "delete")),
    "a new run": (f"runs/{NEW}", ("publish",)),
    "a folder of a run": (f"runs/{SECOND}/figures", ("read", "list", "delete")),
    "a model": (f"runs/{SECOND}/{MODEL}", ("read", "list", "delete")),
    "a manifest": (f"runs/{SECOND}/{MANIFEST}", ("read", "list", "delete")),
    "the champion": (CHAMPION, ("read", "promote", "delete")),
    "the history": ("history", ("history", "promote", "rollback")),
    "a past champion": (history_key(1), ("history", "rollback")),
    "the champion's place in the history": (history_key(2), ("promote",)),
    "the counts": ("test-sets", ("count",)),
    "the verdicts": ("verdicts", ("record",)),
}


@pytest.mark.parametrize(("key", "ways"), LINKS.values(), ids=LINKS.keys())
def test_no_symbolic_link_in_a_folder_store_is_followed(
    key: str, ways: tuple[str, ...], store: FolderStore, outside: Path, finished: Path
) -> None:
    """It is named, and nothing is read, written or deleted through it, inside or outside."""
    if "publish" not in ways:
        run = upload_run(store, finished)
    place = link(store, key, outside)
    before = of_folder(outside)
    at = f"{key}/{MODEL}" if "figures" not in key else f"{key}/a.png"
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: read_champion(store),
        "publish": lambda: upload_run(store, finished),
        "list": lambda: store.list_entries("runs/"),
        "delete": lambda: store.delete(key if place.is_file() else at),
        "promote": lambda: promote(store, run),
        "history": lambda: list(champion_history(store)),
        "rollback": lambda: rollback(store),
        "count": lambda: record_use(store, "0" * 64, NEW),
        "record": lambda: record_verdict(store, run, passed(None)),
    }
    with unchanged(store):
        for way in ways:
            refused(actions[way], ExitCode.STORE, str(place), "is a symbolic link", "put the file")
    assert of_folder(outside) == before


def test_a_lock_that_is_a_symbolic_link_is_not_followed(
    store: FolderStore, tmp_path: Path, finished: Path
) -> None:
    """Taking the lock does not cut short what the link leads to, and nothing is promoted."""
    (tmp_path / "precious").write_text("precious")
    (Path(store.url) / ".lock").unlink(missing_ok=True)
    (Path(store.url) / ".lock").symlink_to(tmp_path / "precious")
    run = upload_run(store, finished)
    refused(store.check, ExitCode.STORE, store.url)
    refused(lambda: promote(store, run), ExitCode.STORE, store.url)
    assert (tmp_path / "precious").read_text() == "precious"
    assert read_champion(store)[0].run_id == SECOND


# ---- a store that lies --------------------------------------------------------------------------

LABELS = (np.arange(100) % 10).astype(np.uint8)


def scores(content: bytes) -> Any:
    """The probabilities of a made-up network: right for as many images as its first byte says."""
    predicted = LABELS.copy()
    predicted[content[0] :] = (predicted[content[0] :] + 1) % 10
    return np.eye(10, dtype=np.float32)[predicted]


class LyingStore(MemoryStore):
    """Gives back what `lie` makes of the model, and lists it in the size of that."""

    def __init__(self, lie: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self.lie = lie

    def read(self, key: str) -> bytes | None:
        content = super().read(key)
        return self.lie(content) if content and key == f"runs/{NEW}/{MODEL}" else content


STORE_LIES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a byte turned": (lambda old: old[:-1] + bytes([old[-1] ^ 1]), "SHA-256 differs"),
    "cut short": (lambda old: old[:-1], "SHA-256 differs"),
    "longer": (lambda old: old + b"\x00", "SHA-256 differs"),
    "another model": (lambda _: b"Zweights of another", "SHA-256 differs"),
    "nothing": (lambda _: b"", "SHA-256 differs"),
    "gone": (lambda _: None, "is not there"),
}


def published(store: Store, folder: Path, score: Callable[[bytes], Any] = scores) -> None:
    """Publish a run that passed the gate, from the folder in which it is finished."""
    figures = evaluate(scores((folder / MODEL).read_bytes()), LABELS, records.CLASS_NAMES)
    run = replace(records.run(), evaluation=figures, verdict=passed(current_champion(store)))
    bench = TestSet(LABELS, records.CLASS_NAMES, "0" * 64, score)
    publish_run(run, folder, Judge(store, bench, GateSettings(), NEW, conditional_writes=True))


@pytest.mark.parametrize(("lie", "told"), STORE_LIES.values(), ids=STORE_LIES.keys())
def test_a_store_that_lies_on_reading_back_promotes_nothing(
    lie: Callable[[bytes], bytes | None], told: str, finished: Path, tmp_path: Path
) -> None:
    """The file is named, and where the run is kept; the champion stays."""
    store = LyingStore(lie)
    with_two_champions(store, tmp_path)
    head = store.objects[CHAMPION]
    message = refused(
        lambda: published(store, finished), ExitCode.DAMAGED, f"runs/{NEW}/{MODEL}", told
    )
    assert str(finished) in message
    assert store.objects[CHAMPION] == head
    assert history_key(2) not in store.objects
    store.lie = lambda content: content
    published(store, finished)
    assert read_champion(store)[0].run_id == NEW


def test_a_model_that_predicts_otherwise_when_read_back_is_not_promoted(
    finished: Path, tmp_path: Path
) -> None:
    """The right bytes are not enough: they must give the same classes as when they were judged."""
    store = with_two_champions(MemoryStore(), tmp_path)
    with unchanged(store, but=f"runs/{NEW}/"):
        refused(
            lambda: published(store, finished, lambda _: scores(b"\x01")), ExitCode.DAMAGED,
            MODEL, "predicts other classes", "nothing is promoted",
        )  # fmt: skip
    assert read_champion(store)[0].run_id == SECOND


# ---- .keras files -------------------------------------------------------------------------------


class Foreign(keras.layers.Layer):
    """A layer that only its maker knows."""

    def call(self, inputs: Any) -> Any:
        """Pass it on."""
        return inputs


def saved(network: Any, folder: Path) -> bytes:
    """A network as the bytes of its file."""
    network.save(folder / "saved.keras")
    return (folder / "saved.keras").read_bytes()


def rewritten(content: bytes, **members: Callable[[bytes], bytes] | None) -> bytes:
    """A `.keras` file, some of whose members (`config` is `config.json`) are changed or left out."""
    names = {"config": "config.json", "metadata": "metadata.json", "weights": "model.weights.h5"}
    changes = {names[name]: change for name, change in members.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            change = changes.get(name, lambda same: same)
            if change:
                new.writestr(name, change(old.read(name)))
    return made.getvalue()


def bomb(good: bytes) -> bytes:
    """A whole network's file, small, but it unpacks to more than 512 MB."""
    made = io.BytesIO(good)
    with (
        zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("assets/zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(520):
            member.write(bytes(2**20))
    assert len(made.getvalue()) < 8 * 2**20
    return made.getvalue()


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every kind of file that is no network of this project."""
    folder = tmp_path_factory.mktemp("models")
    marker = str(folder / "code-ran")
    images = keras.Input((28, 28))
    flat = keras.layers.Flatten()(images)
    hidden = keras.layers.Lambda(lambda x: (Path(marker).touch(), x)[1])
    ten = keras.layers.Dense(10, activation="softmax")
    good = saved(build(ModelSettings(hidden=(8,), dropout=(0.1,)), (28, 28), 10), folder)

    def other_class(config: bytes) -> bytes:
        return config.replace(b'"class_name": "LeakyReLU"', b'"class_name": "Popen"').replace(
            b'"module": "keras.layers"', b'"module": "subprocess"'
        )

    return {
        "a Lambda layer": saved(keras.Model(images, ten(hidden(flat))), folder),
        "a foreign class": saved(keras.Model(images, ten(Foreign()(flat))), folder),
        "a class of another library": rewritten(good, config=other_class),
        "a zip bomb": bomb(good),
        "no zip": b"weights" * 1000,
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "no end": good[:-10],
        "a zip of something else": rewritten(good, config=None, weights=None, metadata=None),
        "no config": rewritten(good, config=None),
        "no weights": rewritten(good, weights=None),
        "a config that is no JSON": rewritten(good, config=lambda _: b"{"),
        "a config that is a list": rewritten(good, config=lambda _: b"[]"),
        "a config nested deeply": rewritten(good, config=lambda _: b"[" * 10**5 + b"]" * 10**5),
        "weights that are no HDF5": rewritten(good, weights=lambda _: b"\x89HDF\r\n\x1a\n"),
        "weights cut short": rewritten(good, weights=lambda old: old[: len(old) // 2]),
        "another network's weights": rewritten(
            good, config=lambda old: old.replace(b'"units": 8', b'"units": 9')
        ),
        "an impossible width": rewritten(
            good, config=lambda old: old.replace(b'"units": 8', b'"units": -8')
        ),
        "another input": saved(
            keras.Sequential([keras.Input((32, 32)), keras.layers.Flatten(), ten.__class__(10)]),
            folder,
        ),
        "another output": saved(
            keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), ten.__class__(11)]),
            folder,
        ),
        "two outputs": saved(keras.Model(images, [ten(flat), ten(flat)]), folder),
        "a pickle": pickle.dumps(Malice(Path(marker))),
        "a pickle in a zip": rewritten(good, weights=lambda _: pickle.dumps(Malice(Path(marker)))),
    }


MODEL_FILES = (
    "a Lambda layer", "a foreign class", "a class of another library", "a zip bomb", "no zip",
    "empty", "truncated", "no end", "a zip of something else", "no config", "no weights",
    "a config that is no JSON", "a config that is a list", "a config nested deeply",
    "weights that are no HDF5", "weights cut short", "another network's weights",
    "an impossible width", "another input",
    "another output", "two outputs", "a pickle", "a pickle in a zip",
)  # fmt: skip


# Where it matters by which guard it is refused, since Keras has some of its own.
REASONS = {
    "a Lambda layer": "`Lambda`",
    "a foreign class": "'Foreign'",
    "a zip bomb": "it unpacks to",
    "another input": "it maps",
}


@pytest.mark.parametrize("kind", MODEL_FILES)
def test_a_model_file_that_holds_no_network_of_ours_is_refused(
    kind: str, model_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is damaged, in one line; no code in it runs, and it is not unpacked to fill the memory."""
    marker = next(tmp_path_factory.getbasetemp().glob("models*")) / "code-ran"
    marker.unlink(missing_ok=True)
    refused(
        lambda: load_model_bytes(model_files[kind]), ExitCode.DAMAGED,
        "model.keras holds no network of this project", REASONS.get(kind, ""),
    )  # fmt: skip
    assert not marker.exists()


def test_a_champion_that_is_no_network_is_not_run(
    model_files: dict[str, bytes], store: FolderStore, tmp_path: Path
) -> None:
    """A run whose model hides code is whole by its digests, and yet not promoted."""
    folder = make_run(tmp_path / "hidden", NEW)
    (folder / MODEL).write_bytes(model_files["a Lambda layer"])
    (folder / MANIFEST).unlink()
    seal_run(folder, NEW, NOW)
    figures = evaluate(scores(b"\x64"), LABELS, records.CLASS_NAMES)
    run = replace(records.run(), evaluation=figures, verdict=passed(current_champion(store)))
    bench = TestSet(
        LABELS, records.CLASS_NAMES, "0" * 64, scorer(np.zeros((100, 28, 28), np.uint8), 10)
    )
    judge = Judge(store, bench, GateSettings(), NEW, conditional_writes=True)
    refused(lambda: publish_run(run, folder, judge), ExitCode.DAMAGED, "Lambda", str(folder))
    assert read_champion(store)[0].run_id == SECOND


# ---- how many -----------------------------------------------------------------------------------


def test_every_kind_of_model_file_is_tried(model_files: dict[str, bytes]) -> None:
    """The list of kinds is the one of the files that were made."""
    assert set(MODEL_FILES) == model_files.keys()


def test_there_are_more_than_enough_kinds() -> None:
    """At least forty kinds of bad input are tried above, each once counted."""
    kinds = [
        *(f"a URL: {kind}" for kind in URLS), *(f"a bucket: {kind}" for kind in BUCKETS),
        *(f"a run id: {kind}" for kind in RUN_IDS), *(f"a manifest: {kind}" for kind in LIES),
        *(f"swapped: {kind}" for kind in SWAPS), *(f"champion.json: {kind}" for kind in HEADS),
        *(f"a champion: {kind}" for kind in STRAY_HEADS),
        *(f"a history: {kind}" for kind in HISTORIES), *(f"a clock: {kind}" for kind in CLOCKS),
        *(f"keys: {kind}" for kind in KEYS), *(f"a refusal: {kind}" for kind in REFUSALS),
        *(f"a link: {kind}" for kind in LINKS), *(f"a lie: {kind}" for kind in STORE_LIES),
        *(f"a model: {kind}" for kind in MODEL_FILES),
    ]  # fmt: skip
    assert len(set(kinds)) == len(kinds) >= 40
