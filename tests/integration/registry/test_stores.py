"""The registry on stores that refuse, vanish, or contain symbolic links: the champion stays."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from fmnist.configure import load_named_settings
from fmnist.errors import ExitCode
from fmnist.registry import keys
from fmnist.registry.champion import champion_history, read_champion
from fmnist.registry.runs import list_run_ids, record_verdict, upload_run
from fmnist.registry.usage import record_use
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.support.processes import S3Server
from tests.support.registry import passed, promote, put, put_champions, refused, rollback, seal
from tests.support.tiny_s3 import tiny_s3

on_minio = pytest.mark.minio


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 retry without its pauses."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """The folder of a finished run that is not published yet."""
    return seal(tmp_path / "sealed", "new")


def publish(store: Store, folder: Path) -> None:
    promote(store, upload_run(store, folder))


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and where its symbolic links point; not the store's lock."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or (path.is_file() and path.name != ".lock")
    }


# ---- buckets ------------------------------------------------------------------------------------


@on_minio
def test_a_prefix_may_have_any_letters(bucket: str) -> None:
    """What is published below a prefix with accents, spaces and signs reads back."""
    url = f"s3://{bucket}/m\u00f6d\u00e8les \u6a21\u578b/a+b&c=%20"
    store = open_store(load_named_settings({"store.url": url}).store.url)
    assert store.check()
    put_champions(store, "one", "two")
    champion, files = read_champion(store)
    assert champion.run_id == "two" and files["id"] == b"two"
    assert list_run_ids(store) == ["two", "one"]


@on_minio
@pytest.mark.parametrize("moment", ["put_if_absent", "compare_and_swap"])
def test_a_bucket_that_is_deleted_during_publication_is_named(
    moment: str, bucket: str, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not created again, and in a new bucket the same folder can be published."""
    store = open_store(f"s3://{bucket}/team")
    verb = getattr(store, moment)

    def vanish(*arguments: Any) -> None:
        found = boto3.session.Session().resource("s3").Bucket(bucket)
        found.objects.all().delete()
        found.delete()
        verb(*arguments)

    client = boto3.session.Session().client("s3")
    before = files_below(sealed)
    with monkeypatch.context() as patched:
        patched.setattr(store, moment, vanish)
        told = (f"'{bucket}'", "does not exist", "create it")
        refused(lambda: publish(store, sealed), ExitCode.STORE, *told)
    assert bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]
    assert files_below(sealed) == before
    client.create_bucket(Bucket=bucket)
    fresh = open_store(f"s3://{bucket}/team")
    publish(fresh, sealed)
    assert read_champion(fresh)[0].run_id == "new"


def limited(minio: S3Server, actions: str, bucket: str) -> dict[str, str]:
    """Temporary keys that allow only these actions."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": actions.split(), "Resource": resources}
    service = boto3.session.Session().client("sts", endpoint_url=minio.endpoint)
    role = service.assume_role(
        RoleArn="arn:xxx:xxx:xxx:xxxx",
        RoleSessionName="reader",
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
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


@on_minio
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_keys_without_the_necessary_rights_are_reported_and_not_shown(
    keys: Callable[[S3Server, str], dict[str, str]],
    bucket: str,
    minio: S3Server,
    sealed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check before training and every publication name bucket, server and what to check."""
    owner = open_store(f"s3://{bucket}/team")
    put_champions(owner, "one", "two")
    before = owner.list_entries("").keys()
    given = keys(minio, bucket)
    with monkeypatch.context() as patched:
        for name, value in given.items():
            patched.setenv(name, value)
        store = open_store(f"s3://{bucket}/team")
    for action in (store.check, lambda: publish(store, sealed)):
        message = refused(action, ExitCode.STORE, f"'{bucket}'", minio.endpoint, "AWS credentials")
        assert not [value for value in given.values() if value in message]
    # A run that nobody promoted may be left behind, which no reader sees.
    after = {key for key in owner.list_entries("") if not key.startswith(("runs/new/", "."))}
    assert after == {key for key in before if not key.startswith(".")}
    assert read_champion(owner)[0].run_id == "two"


REFUSALS: dict[str, tuple[tuple[int, str], str]] = {
    "a quota of the bucket": ((403, "QuotaExceeded"), "is full (QuotaExceeded)"),
    "an administrator's quota": ((400, "XMinioAdminBucketQuotaExceeded"), "is full"),
    "a full disk": ((507, "XMinioStorageFull"), "is full (XMinioStorageFull)"),
    "an expired token": ((400, "ExpiredToken"), "check the AWS credentials"),
    "a revoked key": ((403, "InvalidAccessKeyId"), "check the AWS credentials"),
    "a revoked right": ((403, "AccessDenied"), "right to list, read and write"),
    "a locked bucket": ((400, "InvalidRequest"), "server's log"),
}


@pytest.mark.parametrize(("refusal", "told"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_server_that_refuses_writes_moves_no_champion(
    refusal: tuple[int, str], told: str, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After however many writes it refuses, the old champion is complete, and a retry succeeds."""
    with tiny_s3(monkeypatch) as server:
        store = open_store("s3://models/team")
        put_champions(store, "one", "two")
        server.refusal = refusal
        before = dict(server.objects)
        writes = len(json.loads((sealed / keys.MANIFEST).read_bytes())["files"]) + 3
        for room in range(writes):
            server.objects, server.room = dict(before), room
            refused(lambda: publish(store, sealed), ExitCode.STORE, "'models'", told)
            assert read_champion(store)[0].run_id == "two"
            assert server.objects.items() >= before.items()
        server.room = writes
        publish(store, sealed)
        assert read_champion(store)[0].run_id == "new"


# ---- symbolic links -----------------------------------------------------------------------------

LINKS = {
    "the runs": ("runs", ("read", "publish")),
    "a run": ("runs/two", ("read",)),
    "a new run": ("runs/new", ("publish",)),
    "a folder of a run": ("runs/two/figures", ("read",)),
    "a model": ("runs/two/model.keras", ("read",)),
    "a manifest": (f"runs/two/{keys.MANIFEST}", ("read",)),
    "the champion": (keys.CHAMPION, ("read", "promote")),
    "the history": ("history", ("history", "promote", "rollback")),
    "an earlier champion": (keys.of_generation(1), ("history", "rollback")),
    "the champion's place in the history": (keys.of_generation(2), ("promote",)),
    "the counts": ("test-sets", ("count",)),
    "the verdicts": ("verdicts", ("record",)),
}


@pytest.mark.parametrize(("key", "ways"), LINKS.values(), ids=LINKS.keys())
def test_no_symbolic_link_in_a_folder_store_is_followed(
    key: str, ways: tuple[str, ...], sealed: Path, tmp_path: Path
) -> None:
    """It is named, and nothing is read or written through it, inside the store or outside."""
    store, outside = FolderStore(str(tmp_path / "store")), FolderStore(str(tmp_path / "outside"))
    for each in (store, outside):
        put_champions(each, "one", "two")
    run = None if "publish" in ways else upload_run(store, sealed)
    place = tmp_path / "store" / key
    if place.exists():
        place.rename(place.with_name(f".was-{place.name}"))
    place.symlink_to(tmp_path / "outside" / key)
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: read_champion(store),
        "publish": lambda: upload_run(store, sealed),
        "promote": lambda: run and promote(store, run),
        "history": lambda: list(champion_history(store)),
        "rollback": lambda: rollback(store),
        "count": lambda: record_use(store, "0" * 64, "new"),
        "record": lambda: run and record_verdict(store, run, passed(None)),
    }
    before = files_below(tmp_path)
    for way in ways:
        refused(actions[way], ExitCode.STORE, str(place), "is a symbolic link", "put the file")
    assert files_below(tmp_path) == before


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Taking the lock does not truncate what the link points to, and nothing is promoted."""
    store = FolderStore(str(tmp_path / "store"))
    put_champions(store, "one", "two")
    run = put(store, "new")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "store" / ".lock").unlink(missing_ok=True)
    (tmp_path / "store" / ".lock").symlink_to(tmp_path / "precious")
    refused(store.check, ExitCode.STORE, store.url)
    refused(lambda: promote(store, run), ExitCode.STORE, store.url)
    assert (tmp_path / "precious").read_text() == "precious"
    assert read_champion(store)[0].run_id == "two"
