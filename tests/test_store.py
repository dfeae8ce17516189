"""The store: one contract for a folder, a real MinIO and a mock of S3; and every way to fail."""

import errno
import functools
import http.client
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import botocore.loaders
import moto
import pytest

from fmnist.errors import ExitCode, StoreError
from fmnist.store import FolderStore, S3Store, Store, open_store
from tests.conftest import S3Server, free_port

KEY, SECRET = "NOBODYSKEY0123456789", "NobodysSecretValue0123456789abcdefghijkl"

real = pytest.mark.minio

one_loader = functools.cache(botocore.loaders.create_loader)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 tries again without its pauses, and reads its descriptions of services only once."""
    monkeypatch.setattr("botocore.loaders.create_loader", one_loader)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture(params=["folder", pytest.param("minio", marks=real), "moto"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "not" / "there" / "yet"))
    elif request.param == "minio":
        yield open_store(f"s3://{request.getfixturevalue('bucket')}/team/fmnist")
    else:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with moto.mock_aws():
            boto3.session.Session().client("s3").create_bucket(Bucket="mocked")
            yield open_store("s3://mocked/team/fmnist")


def failure(action: Callable[[], object], *named: str, temporary: bool) -> str:
    """The message of the `StoreError` that an action must end with; it fits on one line."""
    with pytest.raises(StoreError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.STORE
    assert caught.value.temporary is temporary
    assert "\n" not in message and len(message) < 500
    for part in named:
        assert part in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert os.environ.get(name, SECRET) not in message
    return message


def actions(store: Store) -> list[Callable[[], object]]:
    """Each verb of a store, as an action."""
    return [
        store.check,
        lambda: store.create("a/b", b"1"),
        lambda: store.replace("a/b", b"1"),
        lambda: store.read("a/b"),
    ]


# ---- the contract -------------------------------------------------------------------------------


def test_an_empty_store_passes_its_check_again_and_again(store: Store) -> None:
    """A store that nothing was written to yet can be used, and checking it does no harm."""
    store.check()
    store.create("a", b"1")
    store.check()
    assert store.read("a") == b"1"


def test_what_is_created_reads_back(store: Store) -> None:
    """An object is read back byte for byte, under a nested key with unusual characters too."""
    content = secrets.token_bytes(300_000)
    for key in ("plain", "runs/one/figures/a.png", "runs/with blank+plus/ü.json"):
        store.create(key, content)
        assert store.read(key) == content
    store.create("empty", b"")
    assert store.read("empty") == b""


@pytest.mark.parametrize("key", ["absent", "runs/absent/manifest.json"])
def test_what_is_not_there_reads_as_none(store: Store, key: str) -> None:
    """A missing object is no failure, in a store that is empty or not."""
    assert store.read(key) is None
    store.create("present", b"1")
    assert store.read(key) is None


def test_creating_the_same_again_is_harmless(store: Store) -> None:
    """An object with the very same content is taken for one's own earlier success."""
    store.create("runs/a", b"same")
    store.create("runs/a", b"same")
    assert store.read("runs/a") == b"same"


@pytest.mark.parametrize("other", [b"", b"diff", b"longer than before"])
def test_creating_never_overwrites(store: Store, other: bytes) -> None:
    """An object with other content is left alone, and the refusal names it."""
    store.create("runs/a", b"same")
    failure(
        lambda: store.create("runs/a", other),
        store.location("runs/a"),
        "already there with other content",
        temporary=False,
    )
    assert store.read("runs/a") == b"same"


def test_replacing_overwrites(store: Store) -> None:
    """Replacing writes an object whether or not there was one."""
    store.replace("champion.json", b"first")
    assert store.read("champion.json") == b"first"
    store.replace("champion.json", b"second")
    assert store.read("champion.json") == b"second"


def test_keys_do_not_disturb_each_other(store: Store) -> None:
    """Writing one key changes no other."""
    store.create("runs/a/x", b"1")
    store.replace("runs/a/y", b"2")
    store.create("runs/b/x", b"3")
    assert [store.read(key) for key in ("runs/a/x", "runs/a/y", "runs/b/x")] == [b"1", b"2", b"3"]


def test_location_is_where_a_person_finds_the_object(store: Store, tmp_path: Path) -> None:
    """A location is the object's path, or its bucket and full key."""
    store.create("runs/a", b"here")
    location = store.location("runs/a")
    if isinstance(store, FolderStore):
        assert Path(location).read_bytes() == b"here"
        assert Path(location).is_relative_to(tmp_path)
    else:
        name, _, key = location.removeprefix("s3://").partition("/")
        answer = boto3.session.Session().client("s3").get_object(Bucket=name, Key=key)
        assert answer["Body"].read() == b"here"
        assert location == f"{store.url}/runs/a"


@pytest.mark.parametrize("kind", ["folder", pytest.param("minio", marks=real)])
def test_only_one_of_many_creators_wins(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of several writers that create one object at a time, exactly one succeeds."""
    url = str(tmp_path / "s") if kind == "folder" else f"s3://{request.getfixturevalue('bucket')}"
    store = open_store(url)

    def create(number: int) -> int | None:
        try:
            store.create("contested", b"%d" % number * 1000)
        except StoreError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.read("contested") == b"%d" % winners[0] * 1000


@real
def test_a_bucket_without_a_prefix_is_a_store(bucket: str) -> None:
    """A store may be a whole bucket."""
    store = open_store(f"s3://{bucket}")
    store.check()
    store.create("a/b", b"1")
    assert store.location("a/b") == f"s3://{bucket}/a/b"
    assert boto3.session.Session().client("s3").get_object(Bucket=bucket, Key="a/b")


# ---- a folder that fails ------------------------------------------------------------------------


def parts_left(folder: Path) -> list[Path]:
    """Temporary files that a store left behind."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def broken(code: int) -> Callable[..., Any]:
    """Something that the system refuses with this error."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_home_folder_may_be_written_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A leading `~` is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/models").create("a", b"1")
    assert (tmp_path / "models" / "a").read_bytes() == b"1"


def test_the_home_of_nobody_is_a_failure_in_words() -> None:
    """A `~` with the name of a user who does not exist ends as any unusable store."""
    failure(lambda: open_store("~nobody-of-this-name/models").check(), "~nobody", temporary=False)


def test_a_folder_store_leaves_only_its_objects(tmp_path: Path) -> None:
    """After checks and writes a folder holds the objects, readable by everyone, and no more."""
    store = FolderStore(str(tmp_path / "s"))
    store.check()
    store.create("runs/a", b"1")
    store.create("runs/a", b"1")
    store.replace("champion.json", b"2")
    files = {path for path in (tmp_path / "s").rglob("*") if path.is_file()}
    assert files == {tmp_path / "s" / "runs" / "a", tmp_path / "s" / "champion.json"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)


@pytest.mark.parametrize("below", ["", "deeper/still"])
@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path, below: str, verb: int) -> None:
    """A file where the store's folder should be is named, with the setting to change."""
    (tmp_path / "taken").write_text("a file")
    store = FolderStore(str(tmp_path / "taken" / below))
    failure(
        actions(store)[verb], str(tmp_path / "taken"), "a file", "set store.url", temporary=False
    )


def test_too_little_room_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a run fails the check."""
    usage = SimpleNamespace(total=10**9, used=10**9 - 4096, free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    store = FolderStore(str(tmp_path / "s"))
    failure(store.check, str(tmp_path / "s"), "is full", "free some space", temporary=False)
    assert parts_left(tmp_path) == []


CODES = {
    errno.ENOSPC: ("is full", "free some space", False),
    errno.EDQUOT: ("is full", "free some space", False),
    errno.EROFS: ("cannot be written", "right to", False),
    errno.EACCES: ("cannot be written", "right to", False),
    errno.EIO: ("Input/output error", "check the disk", True),
    errno.ESTALE: ("Stale file handle", "check the disk", True),
}


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("verb", ["create", "replace"])
@pytest.mark.parametrize("step", ["os.open", "os.fsync", "last step"])
def test_a_write_that_fails_leaves_the_folder_as_it_was(
    code: int, verb: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that the system refuses is told, leaves no part, and the old content in force."""
    store = FolderStore(str(tmp_path / "s"))
    store.replace("old", b"old")
    key = "old" if verb == "replace" else "new"
    what, to_do, temporary = CODES[code]
    with monkeypatch.context() as patched:
        match step:
            case "os.open":
                patched.setattr("tempfile.mkstemp", broken(code))
            case "os.fsync":
                patched.setattr(os, "fsync", broken(code))
            case _ if verb == "create":
                patched.setattr(os, "link", broken(code))
            case _:
                patched.setattr(Path, "replace", broken(code))
        failure(
            lambda: getattr(store, verb)(key, b"new content"),
            str(tmp_path / "s"), what, to_do, "store.url", temporary=temporary,
        )  # fmt: skip
    assert parts_left(tmp_path) == []
    assert store.read("old") == b"old"
    assert store.read("new") is None
    getattr(store, verb)(key, b"new content")
    assert store.read(key) == b"new content"


def test_an_interrupted_replacement_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst of a replacement leaves the old content and no part of the new."""
    store = FolderStore(str(tmp_path / "s"))
    store.replace("champion.json", b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.replace("champion.json", b"new" * 100_000)
    assert store.read("champion.json") == b"old"
    assert parts_left(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES], ids=["EROFS", "EACCES"])
def test_a_read_only_folder_fails_its_check(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written is found out before training."""
    monkeypatch.setattr(Path, "write_bytes", broken(code))
    store = FolderStore(str(tmp_path / "s"))
    failure(store.check, str(tmp_path / "s"), "cannot be written", "right to", temporary=False)


def test_a_name_too_long_for_the_disk_is_told(tmp_path: Path) -> None:
    """A folder's name that no disk can hold ends as an unusable store."""
    failure(FolderStore(str(tmp_path / ("x" * 300))).check, "too long", temporary=False)


# ---- a bucket that fails ------------------------------------------------------------------------


@real
@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
def test_a_missing_bucket_is_told(minio: S3Server, verb: int) -> None:
    """A bucket that does not exist is named with its server, and what to do about it."""
    store = open_store("s3://not-there-at-all/runs")
    failure(
        actions(store)[verb], "'not-there-at-all'", minio.endpoint, "create it", "store.url",
        temporary=False,
    )  # fmt: skip


@real
@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_wrong_key_is_told_without_showing_it(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, verb: int
) -> None:
    """An unknown key or a wrong secret is told as such, and neither is shown."""
    monkeypatch.setenv(variable, SECRET)
    store = open_store(f"s3://{bucket}")
    message = failure(
        actions(store)[verb], bucket, minio.endpoint, "check the AWS credentials", temporary=False
    )
    assert minio.access_key not in message and minio.secret_key not in message


@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
def test_no_credentials_at_all_are_told(monkeypatch: pytest.MonkeyPatch, verb: int) -> None:
    """Without any credentials the variables to set are named."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    store = open_store("s3://bucket/runs")
    failure(
        actions(store)[verb], "no complete credentials", "s3://bucket/runs", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", temporary=False,
    )  # fmt: skip


def test_half_the_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without its secret is told as incomplete."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    failure(lambda: open_store("s3://bucket").check(), "no complete credentials", temporary=False)


@pytest.fixture
def some_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are complete, if nobody's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
def test_a_server_that_is_not_up_is_told(monkeypatch: pytest.MonkeyPatch, verb: int) -> None:
    """A refused connection is temporary, and names the server and its variable."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    store = open_store("s3://bucket/runs")
    failure(
        actions(store)[verb], endpoint, "s3://bucket/runs", "AWS_ENDPOINT_URL_S3", temporary=True
    )


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:9000", "http://", "ftp//x"])
def test_an_invalid_server_address_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A server's address that is none is told before anything is contacted."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    failure(
        lambda: open_store("s3://bucket").check(), "s3://bucket", "AWS_ENDPOINT_URL_S3",
        temporary=False,
    )  # fmt: skip


@pytest.mark.usefixtures("some_keys")
def test_a_password_in_the_servers_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that someone put into the server's address stay out of messages."""
    endpoint = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(StoreError) as caught:
        open_store("s3://bucket").check()
    assert SECRET not in str(caught.value)


def test_an_unknown_profile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that no configuration file has is named, with the variable that asks for it."""
    monkeypatch.setenv("AWS_PROFILE", "nobodys-profile")
    failure(lambda: open_store("s3://bucket"), "nobodys-profile", "AWS_PROFILE", temporary=False)


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("name", ["a b", "UPPER_case!"])
def test_an_impossible_bucket_name_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's name that S3 does not allow is refused without a call."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    failure(
        lambda: open_store(f"s3://{name}/a").check(), name, "not a valid location", temporary=False
    )


@real
def test_a_key_without_the_right_to_write_is_told(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that may read but not write fails the check, with the rights it needs."""
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject",'
        f'"s3:ListBucket"],"Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}'
    )
    service = boto3.session.Session().client("sts", endpoint_url=minio.endpoint)
    role = service.assume_role(
        RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="reader", Policy=policy
    )["Credentials"]
    open_store(f"s3://{bucket}").create("there", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", role["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", role["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", role["SessionToken"])
    store = open_store(f"s3://{bucket}")
    assert store.read("there") == b"1"
    for action in actions(store)[:3]:
        failure(action, bucket, minio.endpoint, "PutObject", "AccessDenied", "right to list, read "
                "and write", temporary=False)  # fmt: skip


# ---- a server of our own, that answers as we like -----------------------------------------------


class Answering(BaseHTTPRequestHandler):
    """Answers PUT, or everything, with one status and body; else as an empty bucket."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 500
    body: ClassVar[bytes] = b""
    refused: ClassVar[tuple[str, ...]] = ("HEAD", "GET", "PUT")
    requests: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append(self.command)
        refused = self.command in self.refused
        body = self.body if refused else b""
        self.send_response(self.status if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, some_keys: None) -> Iterator[Callable[..., str]]:
    """Starts local servers and points the environment at them."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        return endpoint

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(code: str) -> bytes:
    """The body of a refusal as S3 gives it."""
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told\nin lines</Message></Error>"
    ).encode()


ANSWERS = {
    "internal error": (500, refusal("InternalError"), "500 InternalError", True),
    "bad gateway": (502, b"<html><body>Bad Gateway</body></html>", "502", True),
    "unavailable": (503, refusal("SlowDown"), "503 SlowDown", True),
    "empty answer": (503, b"", "503", True),
    "too many requests": (429, refusal("TooManyRequests"), "429", True),
    "conflict": (409, refusal("ConditionalRequestConflict"), "409", True),
    "not implemented": (400, refusal("InvalidRequest"), "400 InvalidRequest", False),
    "storage full": (507, refusal("XMinioStorageFull"), "is full (XMinioStorageFull)", False),
    "quota": (403, refusal("QuotaExceeded"), "is full (QuotaExceeded)", False),
    "admin quota": (400, refusal("XMinioAdminBucketQuotaExceeded"), "is full", False),
    "forbidden": (403, refusal("AccessDenied"), "refuses PutObject (AccessDenied)", False),
    "expired": (400, refusal("ExpiredToken"), "refuses the key (ExpiredToken)", False),
    "unknown key": (403, refusal("InvalidAccessKeyId"), "refuses the key (Inv", False),
}


@pytest.mark.parametrize(
    ("status", "body", "told", "temporary"), ANSWERS.values(), ids=ANSWERS.keys()
)
def test_a_refused_write_is_told(
    serve: Callable[..., str], status: int, body: bytes, told: str, temporary: bool
) -> None:
    """A server's refusal names bucket, server and reason, and whether waiting can help."""
    handler = type("H", (Answering,), {"status": status, "body": body, "requests": []})
    endpoint = serve(handler)
    store = open_store("s3://bucket/runs")
    failure(lambda: store.create("a", b"1"), "'bucket'", endpoint, told, temporary=temporary)
    assert len(handler.requests) == (4 if status in (429, 500, 502, 503) else 1)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("verb", range(4), ids=["check", "create", "replace", "read"])
def test_a_failing_server_is_a_temporary_failure(
    serve: Callable[..., str], verb: int, status: int
) -> None:
    """A server error is worth another attempt, whatever was asked of the server."""
    endpoint = serve(type("H", (Answering,), {"status": status, "requests": []}))
    store = open_store("s3://bucket/runs")
    failure(actions(store)[verb], endpoint, str(status), "try again later", temporary=True)


def test_a_server_that_forgets_is_not_trusted(serve: Callable[..., str]) -> None:
    """A server that takes an object but gives back another fails the check."""
    serve(type("H", (Answering,), {"refused": (), "requests": []}))
    failure(
        open_store("s3://bucket/runs").check, "s3://bucket/runs/", "does not read back",
        temporary=False,
    )  # fmt: skip


def test_a_connection_cut_while_reading_is_temporary(serve: Callable[..., str]) -> None:
    """An answer that ends before its announced length is no content."""

    class Cut(Answering):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"part")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    endpoint = serve(Cut)
    failure(lambda: open_store("s3://bucket/runs").read("a"), endpoint, temporary=True)


@real
def test_a_retried_creation_that_went_through_is_success(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> None:
    """A creation whose answer was lost, and whose retry finds its own object, is no conflict."""
    answers = []

    class Losing(Answering):
        """Passes everything to MinIO, but drops the answer to the first PUT."""

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(minio.endpoint.removeprefix("http://"))
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
            server.close()
            answers.append((self.command, answer.status))
            if [command for command, _ in answers] == ["PUT"]:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = _pass  # noqa: N815

    serve(Losing)
    for name, value in minio.environment().items():
        if name != "AWS_ENDPOINT_URL_S3":
            monkeypatch.setenv(name, value)
    store = S3Store(f"s3://{bucket}/runs")
    store.create("a", b"content")
    assert answers == [("PUT", 200), ("PUT", 412), ("GET", 200)]
    failure(lambda: store.create("a", b"other"), "other content", temporary=False)
    assert store.read("a") == b"content"


def test_a_folder_without_hard_links_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check says that the file system will not do, and leaves nothing behind."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="without hard links"):
        open_store(str(tmp_path / "store")).check()
    assert list((tmp_path / "store").iterdir()) == []


def test_a_server_that_ignores_conditions_is_found_before_training(
    minio: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store in which a second conditional write goes through is refused."""
    store = S3Store(f"s3://{bucket}/x")
    put = store._client.put_object
    monkeypatch.setattr(
        store._client,
        "put_object",
        lambda IfNoneMatch="", **rest: put(**rest),  # noqa: N803
    )
    with pytest.raises(StoreError, match="does not honour conditional writes") as caught:
        store.check()
    assert not caught.value.temporary


def test_an_aws_configuration_that_names_a_missing_program_is_a_failure_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential program that is not there is no traceback."""
    (tmp_path / "aws").write_text("[default]\ncredential_process = /nowhere/program\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="/nowhere/program"):
        open_store("s3://models/x").check()


@pytest.mark.parametrize(
    "endpoint",
    ["http://me:hush-hush@[bad", "me://x:hush-hush@y z", "http://me:hush-hush@127.0.0.1:9"],
)
def test_a_password_in_the_endpoint_is_never_repeated(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it cannot be parsed or not be reached, the message has no password of it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StoreError) as caught:
        open_store("s3://models/x").check()
    assert "hush-hush" not in str(caught.value)
