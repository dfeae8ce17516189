"""A store in a bucket: the contract on a tiny server, and servers that answer as a test says."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fmnist.errors import StoreError
from fmnist.store.base import Store, open_store
from tests.support.processes import free_port
from tests.support.store_contract import *  # noqa: F403
from tests.support.store_contract import Action, every_verb, failure
from tests.support.tiny_s3 import KEY, SECRET, Handler, refusal, tiny_s3


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store in a bucket of the tiny server."""
    with tiny_s3(monkeypatch):
        yield open_store("s3://models/team/fmnist")


@every_verb
def test_no_credentials_at_all_are_reported(monkeypatch: pytest.MonkeyPatch, act: Action) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    store = open_store("s3://bucket/runs")
    failure(
        lambda: act(store), "no complete credentials", "s3://bucket/runs", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", retryable=False,
    )  # fmt: skip


@pytest.mark.usefixtures("some_keys")
@every_verb
def test_a_server_that_is_not_up_is_reported(monkeypatch: pytest.MonkeyPatch, act: Action) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    store = open_store("s3://bucket/runs")
    failure(lambda: act(store), endpoint, "s3://bucket/runs", "AWS_ENDPOINT_URL_S3", retryable=True)


KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
ADDRESS = "AWS_ENDPOINT_URL_S3"
UNUSABLE = {
    "half the credentials": ({"AWS_ACCESS_KEY_ID": KEY}, ["no complete credentials"]),
    "unknown profile": ({"AWS_PROFILE": "nobodys-profile"}, ["nobodys-profile", "AWS_PROFILE"]),
    "missing program": ({"AWS_CONFIG_FILE": "aws"}, ["/nowhere/program"]),
    "no address": (KEYS | {ADDRESS: "not an address"}, ["s3://bucket", ADDRESS]),
    "address without scheme": (KEYS | {ADDRESS: "127.0.0.1:9000"}, ["s3://bucket", ADDRESS]),
    "address without host": (KEYS | {ADDRESS: "http://"}, ["s3://bucket", ADDRESS]),
    "address without colon": (KEYS | {ADDRESS: "ftp//x"}, ["s3://bucket", ADDRESS]),
}


@pytest.mark.parametrize(("environment", "told"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_configuration_is_reported_before_anything_is_contacted(
    environment: dict[str, str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "[default]\ncredential_process = /nowhere/program\n"
    (tmp_path / "aws").write_text(program)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    failure(lambda: open_store("s3://bucket").check(), *told, retryable=False)


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize("name", ["a b", "UPPER_case!"])
def test_an_impossible_bucket_name_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's name that S3 does not allow is refused without a call."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    failure(
        lambda: open_store(f"s3://{name}/a").check(), name, "not a valid location", retryable=False
    )


@pytest.mark.usefixtures("some_keys")
@pytest.mark.parametrize(
    "endpoint",
    ["http://me:hush-hush@[bad", "me://x:hush-hush@y z", "http://me:hush-hush@127.0.0.1:9"],
)
def test_a_password_in_the_endpoint_is_never_repeated(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(StoreError) as caught:
        open_store("s3://models/x").check()
    assert "hush-hush" not in str(caught.value)


def answering(status: int, body: bytes = b"") -> tuple[type[Handler], list[str]]:
    """Answers everything with one status and body; with the list of what it was asked."""
    requests: list[str] = []

    class Answering(Handler):
        def answer(self, _: bytes) -> None:
            requests.append(self.command)
            self.send(status, body)

    return Answering, requests


ANSWERS = {
    "internal error": (500, refusal("InternalError"), "500 InternalError", True),
    "bad gateway": (502, b"<html><body>Bad Gateway</body></html>", "502", True),
    "unavailable": (503, refusal("SlowDown"), "503 SlowDown", True),
    "empty answer": (503, b"", "503", True),
    "too many requests": (429, refusal("TooManyRequests"), "429", True),
    "conflict": (409, refusal("ConditionalRequestConflict"), "409", True),
    "not implemented": (400, refusal("InvalidRequest"), "400 InvalidRequest", False),
    "unknown condition": (501, refusal("Unknown"), "501 Unknown", False),
    "an answer that broke off": (404, b"<Err", "404", True),
    "no bucket": (404, refusal("NoSuchBucket"), "does not exist: create it", False),
    "no room, by status": (507, refusal("NoRoom"), "is full (NoRoom)", False),
    "no room, by name": (400, refusal("XMinioStorageFull"), "is full (XMinioStorageFull)", False),
    "quota": (403, refusal("QuotaExceeded"), "is full (QuotaExceeded)", False),
    "admin quota": (400, refusal("XMinioAdminBucketQuotaExceeded"), "is full", False),
    "forbidden": (403, refusal("AccessDenied"), "refuses PutObject (AccessDenied)", False),
    "unauthorized": (401, refusal("Unauthorized"), "right to list, read and write there", False),
    "wrong clock": (403, refusal("RequestTimeTooSkewed"), "by NTP", False),
    "wrong signature": (403, refusal("SignatureDoesNotMatch"), "refuses the key (Sig", False),
    "wrong token": (400, refusal("InvalidToken"), "refuses the key (InvalidToken)", False),
    "expired": (400, refusal("ExpiredToken"), "refuses the key (ExpiredToken)", False),
    "unknown key": (403, refusal("InvalidAccessKeyId"), "refuses the key (Inv", False),
}


@pytest.mark.parametrize(
    ("status", "body", "told", "retryable"), ANSWERS.values(), ids=ANSWERS.keys()
)
def test_a_refused_write_is_reported(
    serve: Callable[..., str], status: int, body: bytes, told: str, retryable: bool
) -> None:
    handler, requests = answering(status, body)
    endpoint = serve(handler)
    store = open_store("s3://bucket/runs")
    failure(lambda: store.put_if_absent("a", b"1"), "'bucket'", endpoint, told, retryable=retryable)
    assert requests.count("PUT") == (4 if retryable else 1)


@pytest.mark.parametrize("status", [500, 503])
@every_verb
def test_a_failing_server_is_a_retryable_failure(
    serve: Callable[..., str], act: Action, status: int
) -> None:
    endpoint = serve(answering(status)[0])
    store = open_store("s3://bucket/runs")
    failure(lambda: act(store), endpoint, str(status), "try again later", retryable=True)


def test_a_server_that_forgets_is_not_trusted(serve: Callable[..., str]) -> None:
    serve(answering(200)[0])
    failure(
        open_store("s3://bucket/runs").check, "s3://bucket/runs/", "does not read back",
        retryable=False,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [(501, "Unknown"), (400, "NotImplemented")])
def test_a_single_publisher_leaves_out_a_condition_that_is_unknown(
    serve: Callable[..., str], status: int, code: str
) -> None:
    """Whether the server says so by status or by code, the object is then written without it."""
    written = []

    class Unknowing(Handler):
        def answer(self, body: bytes) -> None:
            if self.command == "GET":
                self.send(404, refusal("NoSuchKey"))
            elif "If-None-Match" in self.headers:
                self.send(status, refusal(code))
            else:
                written.append((self.path, body))
                self.send(200)

    serve(Unknowing)
    open_store("s3://bucket/runs", single_publisher=True).put_if_absent("a", b"1")
    assert written == [("/bucket/runs/a", b"1")]


def test_nothing_is_sent_that_older_servers_refuse(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checksum beyond S3's first, sent or asked for; the bucket is in the path, not the name."""
    seen = []

    class Watching(Handler):
        def answer(self, body: bytes) -> None:
            seen.append((self.path, " ".join(self.headers).lower()))
            self.send(200)

    endpoint = serve(Watching)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint.replace("127.0.0.1", "localhost"))
    store = open_store("s3://bucket/runs")
    store.put_if_absent("a", b"1")
    store.read("a")
    assert [path for path, _ in seen] == ["/bucket/runs/a"] * 2
    for _, headers in seen:
        assert "checksum" not in headers and "trailer" not in headers


def test_a_connection_cut_while_reading_is_retryable(serve: Callable[..., str]) -> None:
    """An answer that ends before its announced length is no content."""

    class Cut(Handler):
        def answer(self, body: bytes) -> None:
            self.send(200, b"part", length=1000)
            self.hang_up()

    endpoint = serve(Cut)
    failure(lambda: open_store("s3://bucket/runs").read("a"), endpoint, retryable=True)
