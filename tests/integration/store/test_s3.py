"""A store in a bucket of real servers: the contract, refusals, and a network that fails."""

import http.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest

from fmnist.store.base import Conflict, Store, open_store
from fmnist.store.s3 import S3Store
from tests.support.processes import S3Server, new_bucket
from tests.support.store_contract import *  # noqa: F403
from tests.support.store_contract import (
    CONDITIONAL,
    VERBS,
    Action,
    every_verb,
    every_write,
    failure,
    only_one_wins,
    refuse_what_they_see,
    replace,
)
from tests.support.tiny_s3 import SECRET, Handler, refusal

pytestmark = pytest.mark.minio


@pytest.fixture(params=["minio", "versitygw"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store on each real server."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{new_bucket(server)}/team/fmnist")


def test_only_one_of_many_writers_wins(bucket: str) -> None:
    only_one_wins(open_store(f"s3://{bucket}"))


def test_the_folders_of_a_bucket_browser_are_no_objects(bucket: str) -> None:
    """The empty objects that browsers make for folders, whose keys end in a slash, are left out."""
    store = open_store(f"s3://{bucket}/x")
    store.put_if_absent("runs/a/1", b"1")
    client = boto3.session.Session().client("s3")
    for key in ("x/runs/", "x/runs/a/", "x/runs/b/"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert store.list_entries("runs/").keys() == {"runs/a/1"}
    assert store.list_names("runs/a/") == ["1"]
    assert store.list_names("") == ["runs/"]


def test_more_objects_than_a_page_are_listed(bucket: str) -> None:
    client = boto3.session.Session().client("s3")
    with ThreadPoolExecutor(16) as pool:
        for number in range(1005):
            key = f"x/runs/{number:04d}/a"
            pool.submit(client.put_object, Bucket=bucket, Key=key, Body=b"1")
    store = open_store(f"s3://{bucket}/x")
    assert store.list_names("runs/") == [f"{number:04d}/" for number in range(1005)]
    assert len(store.list_entries("runs/")) == 1005


def test_a_bucket_without_a_prefix_is_a_store(bucket: str) -> None:
    store = open_store(f"s3://{bucket}")
    store.check()
    store.put_if_absent("a/b", b"1")
    assert store.location("a/b") == f"s3://{bucket}/a/b"
    assert boto3.session.Session().client("s3").get_object(Bucket=bucket, Key="a/b")


@every_verb
def test_a_missing_bucket_is_reported(minio: S3Server, act: Action) -> None:
    store = open_store("s3://not-there-at-all/runs")
    failure(
        lambda: act(store), "'not-there-at-all'", minio.endpoint, "create it", "store.url",
        retryable=False,
    )  # fmt: skip


@every_verb
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_wrong_key_is_reported_without_showing_it(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, act: Action
) -> None:
    monkeypatch.setenv(variable, SECRET)
    store = open_store(f"s3://{bucket}")
    message = failure(
        lambda: act(store), bucket, minio.endpoint, "check the AWS credentials", retryable=False
    )
    assert minio.access_key not in message and minio.secret_key not in message


def test_a_key_without_the_right_to_write_is_reported(
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
    open_store(f"s3://{bucket}").put_if_absent("there", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", role["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", role["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", role["SessionToken"])
    store = open_store(f"s3://{bucket}")
    assert store.read("there") == b"1"
    for verb in ("check", "put_if_absent", "compare_and_swap"):
        failure(
            lambda verb=verb: VERBS[verb](store), bucket, minio.endpoint,
            "PutObject", "AccessDenied", "right to list, read and write", retryable=False,
        )  # fmt: skip


UNASKED = "the request is dropped"
UNANSWERED = "the answer is dropped"
CUT = "the answer breaks off"
NOTHING = ""


@dataclass
class Proxy:
    """Passes every request of its store to a real server, except where `meddle` says otherwise.

    It is called with the request and how many of that command came before. It returns a status to
    answer instead of passing the request on, or one of the constants above.
    """

    store: S3Store
    meddle: Callable[[Handler, int], int | str] = lambda request, before: NOTHING
    answers: list[tuple[str, int]] = field(default_factory=list)

    def commands(self, command: str) -> int:
        """How many requests of a kind were made."""
        return sum(made == command for made, _ in self.answers)

    def meddle_first(self, count: int, command: str, meddling: int | str) -> None:
        """Forget what was asked, and meddle with the first so many requests of a kind."""
        self.answers.clear()
        self.meddle = lambda request, before: (
            meddling if request.command == command and before < count else NOTHING
        )


@pytest.fixture
def proxy(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> Proxy:
    """A proxy in front of the real MinIO, which this process takes for the server."""

    class Passing(Handler):
        def answer(self, body: bytes) -> None:
            meddling = proxy.meddle(self, proxy.commands(self.command))
            if meddling == UNASKED:
                proxy.answers.append((self.command, 0))
                self.hang_up()
                return
            status, headers, content = (
                (meddling, {}, refusal("ConditionalRequestConflict"))
                if isinstance(meddling, int)
                else self._forward(body)
            )
            proxy.answers.append((self.command, status))
            if meddling == UNANSWERED:
                self.hang_up()
            elif meddling == CUT:
                self.send(status, content[: len(content) // 2], length=len(content), **headers)
                self.hang_up()
            else:
                self.send(status, content, **headers)

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            server = http.client.HTTPConnection(minio.endpoint.removeprefix("http://"))
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
            server.close()
            passed = ("etag", "last-modified", "content-type")
            headers = {name: text for name, text in answer.getheaders() if name.lower() in passed}
            return answer.status, headers, content

    endpoint = serve(Passing)
    for name, value in (minio.environment() | {"AWS_ENDPOINT_URL_S3": endpoint}).items():
        monkeypatch.setenv(name, value)
    proxy = Proxy(S3Store(f"s3://{bucket}/runs"))
    return proxy


def test_a_retried_creation_that_went_through_is_success(proxy: Proxy) -> None:
    """A creation whose answer was lost, and whose retry finds its own object, succeeds."""
    proxy.meddle_first(1, "PUT", UNANSWERED)
    proxy.store.put_if_absent("a", b"content")
    assert proxy.answers == [("PUT", 200), ("PUT", 412), ("GET", 200)]
    failure(lambda: proxy.store.put_if_absent("a", b"other"), "other content", retryable=False)
    assert proxy.store.read("a") == b"content"


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "over an old one"])
def test_a_retried_swap_that_went_through_is_success(old: bytes | None, proxy: Proxy) -> None:
    if old is not None:
        proxy.store.put_if_absent("head", old)
    found = proxy.store.get("head")
    proxy.meddle_first(1, "PUT", UNANSWERED)
    proxy.store.compare_and_swap("head", found.version if found else None, b"mine")
    assert proxy.answers == [("PUT", 200), ("PUT", 412), ("GET", 200)]
    assert proxy.store.read("head") == b"mine"


def test_a_retried_swap_that_others_wrote_over_is_a_conflict(bucket: str, proxy: Proxy) -> None:
    """If another's content is there when a lost answer is settled, the swap has failed."""
    other = S3Store(f"s3://{bucket}/runs")

    def meddle(request: Handler, before: int) -> str:
        if (request.command, before) == ("PUT", 1):
            proxy.meddle = lambda request, before: NOTHING
            replace(other, "head", b"theirs")
        return UNANSWERED if (request.command, before) == ("PUT", 0) else NOTHING

    proxy.meddle = meddle
    with pytest.raises(Conflict, match="changed by another publisher"):
        proxy.store.compare_and_swap("head", None, b"mine")
    assert proxy.store.read("head") == b"theirs"


@every_write
def test_a_write_whose_answers_were_all_lost_is_settled_by_reading(
    write: Action, proxy: Proxy
) -> None:
    proxy.meddle_first(100, "PUT", UNANSWERED)
    write(proxy.store)
    assert proxy.answers == [("PUT", 200), *[("PUT", 412)] * 3, ("GET", 200)]
    assert proxy.store.read("a") == b"content"


@every_write
@pytest.mark.parametrize("there", [None, b"other"], ids=["nothing there", "another there"])
def test_a_write_that_never_arrived_is_a_retryable_failure(
    there: bytes | None, write: Action, proxy: Proxy
) -> None:
    if there is not None:
        proxy.store.put_if_absent("a", there)
    proxy.meddle_first(100, "PUT", UNASKED)
    failure(lambda: write(proxy.store), "cannot reach", retryable=True)
    assert proxy.store.read("a") == there


@every_write
def test_a_write_that_cannot_be_settled_either_is_a_retryable_failure(
    write: Action, proxy: Proxy
) -> None:
    proxy.meddle = lambda request, before: UNANSWERED
    failure(lambda: write(proxy.store), "cannot reach", retryable=True)


@every_write
def test_a_write_refused_with_409_is_repeated(write: Action, proxy: Proxy) -> None:
    """409 means that another request was in progress, so the same one is made again."""
    proxy.meddle_first(3, "PUT", 409)
    write(proxy.store)
    assert proxy.answers == [*[("PUT", 409)] * 3, ("PUT", 200)]
    assert proxy.store.read("a") == b"content"


@every_write
def test_a_write_that_is_always_refused_with_409_is_a_retryable_failure(
    write: Action, bucket: str, proxy: Proxy
) -> None:
    proxy.meddle_first(100, "PUT", 409)
    failure(lambda: write(proxy.store), bucket, "409", "try again later", retryable=True)
    assert proxy.answers == [*[("PUT", 409)] * 4, ("GET", 404)]
    assert proxy.store.read("a") is None


@pytest.mark.parametrize("verb", ["read", "get", "list_names", "list_entries"])
def test_an_answer_that_broke_off_is_requested_again(verb: str, proxy: Proxy) -> None:
    key = "a/b" if verb in ("read", "get") else "a"
    proxy.store.put_if_absent("a/b", b"content" * 1000)
    expected = VERBS[verb](proxy.store, key)
    assert expected
    proxy.meddle_first(2, "GET", CUT)
    assert VERBS[verb](proxy.store, key) == expected
    assert proxy.commands("GET") == 3
    proxy.meddle_first(100, "GET", CUT)
    failure(lambda: VERBS[verb](proxy.store, key), retryable=True)


def ignore(store: S3Store, monkeypatch: pytest.MonkeyPatch, *conditions: str) -> None:
    """Hide these conditions from the real server."""
    put = store._client.put_object

    def put_without(**request: Any) -> Any:
        return put(**{name: value for name, value in request.items() if name not in conditions})

    monkeypatch.setattr(store._client, "put_object", put_without)


IGNORED = [("IfNoneMatch",), ("IfMatch",), ("IfNoneMatch", "IfMatch")]


@pytest.mark.parametrize("conditions", IGNORED, ids="+".join)
def test_a_server_that_ignores_conditions_is_found_before_training(
    conditions: tuple[str, ...], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(f"s3://{bucket}/x")
    ignore(store, monkeypatch, *conditions)
    for _ in range(2):
        failure(
            store.check, bucket, "does not honour conditional writes", "store.single_publisher",
            retryable=False,
        )  # fmt: skip


@pytest.mark.parametrize("conditions", [(), *IGNORED], ids="+".join)
def test_a_single_publisher_may_use_a_server_that_ignores_conditions(
    conditions: tuple[str, ...], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told whether they are honoured; conflicts that it can see are refused either way."""
    store = open_store(f"s3://{bucket}/x", single_publisher=True)
    assert isinstance(store, S3Store)
    ignore(store, monkeypatch, *conditions)
    assert store.check() is (not conditions)
    refuse_what_they_see(store)


def test_a_server_that_knows_no_conditions_serves_only_a_single_publisher(
    bucket: str, proxy: Proxy
) -> None:
    """A server that answers 501 to a condition is treated like one that ignores it."""

    def know_none(request: Handler, _: int) -> int | str:
        return 501 if {"If-Match", "If-None-Match"} & set(request.headers) else NOTHING

    proxy.meddle = know_none
    failure(proxy.store.check, "does not honour conditional writes", retryable=False)
    for write in CONDITIONAL.values():
        failure(lambda write=write: write(proxy.store), bucket, "501", retryable=False)
    assert proxy.store.read("a") is None
    single = S3Store(f"s3://{bucket}/runs", single_publisher=True)
    assert single.check() is False
    refuse_what_they_see(single)
