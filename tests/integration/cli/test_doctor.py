"""The doctor with real stores."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from fmnist.data.records import TEST_LABELS
from fmnist.errors import ExitCode
from fmnist.store.base import open_store
from tests.integration.cli.conftest import Put, run_id
from tests.support.doctor import NAMES, bad, findings, own_places, settings  # noqa: F401
from tests.support.mirrors import OWN, with_sums
from tests.support.processes import S3Server


def test_where_all_is_well_every_finding_is_good(url: str) -> None:
    """Each thing has its line with its figure, in order, and the probe is all that is left."""
    found = findings(settings(url))
    assert list(found) == NAMES
    assert [finding for finding in found.values() if not finding.ok] == []
    assert found["settings"].text.endswith(
        "4 not at the default: data.source, data.cache, store.url, store.work"
    )
    assert "SHA256SUMS" in found["data source"].text
    assert url in found["store"].text
    assert " ms " in found["latency"].text
    assert "none yet" in found["champion"].text
    assert "temporary server" in found["Prefect API"].text
    assert "GB free" in found["disk space"].text
    assert open_store(url).list_names("") == []


def test_the_champion_is_told_with_its_figures(url: str, store_run: Put) -> None:
    store_run(open_store(url), run_id(1), promote=True)
    text = findings(settings(url))["champion"].text
    for part in (run_id(1), "generation 1", "0.9142", "6 files"):
        assert part in text


@pytest.mark.minio
def test_a_source_in_a_bucket_is_listed(bucket: str) -> None:
    """A bucket with the four files and their list is good; one that lacks a file is named."""
    client = boto3.session.Session().client("s3")
    for name, content in with_sums(OWN).items():
        client.put_object(Bucket=bucket, Key=f"data/{name}", Body=content)
    asked = settings(source=f"s3://{bucket}/data")
    assert findings(asked)["data source"].ok
    client.delete_object(Bucket=bucket, Key=f"data/{TEST_LABELS}")
    bad(asked, "data source", ExitCode.DATA, f"s3://{bucket}/data/{TEST_LABELS}")
    bad(settings(source="s3://not-there-at-all/data"), "data source", ExitCode.DATA,
        "'not-there-at-all'", "data.source")  # fmt: skip


@pytest.mark.minio
@pytest.mark.usefixtures("minio")
def test_a_missing_bucket_is_one_finding() -> None:
    bad(settings("s3://not-there-at-all/x"), "store", ExitCode.STORE, "create it")


@pytest.mark.minio
def test_a_wrong_key_is_one_finding_without_the_key(
    bucket: str, minio: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush-hush")
    text = bad(settings(f"s3://{bucket}"), "store", ExitCode.STORE, "AWS credentials")
    assert "hush-hush-hush" not in text and minio.access_key not in text


@pytest.mark.minio
def test_a_clock_that_the_server_refuses_is_told_as_such(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a request is refused for its time, the advice is about clocks, not about keys."""
    now = datetime.now(UTC).replace(tzinfo=None)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda *_, **__: now + timedelta(hours=1)
    )
    text = bad(settings(f"s3://{bucket}"), "store", ExitCode.STORE, "clock", "NTP")
    assert "credentials" not in text


OF_THE_RUN = f"runs/{run_id(1)}"
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "a file gone": (f"{OF_THE_RUN}/model.keras", lambda _: None, "is not there"),
    "a file cut short": (f"{OF_THE_RUN}/model.keras", lambda old: old[:-1], "has 4 bytes"),
    "the manifest gone": (f"{OF_THE_RUN}/manifest.json", lambda _: None, "is missing"),
    "another manifest": (f"{OF_THE_RUN}/manifest.json", lambda old: old + b"\n", "SHA-256 differs"),
    "no champion.json": ("champion.json", lambda _: b"damaged", "cannot be read"),
}


@pytest.mark.parametrize(("key", "change", "told"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_champion_that_is_not_whole_is_bad(
    key: str, change: Callable[[bytes], bytes | None], told: str, url: str, store_run: Put
) -> None:
    store = open_store(url)
    store_run(store, run_id(1), promote=True)
    content = change(store.read(key) or b"")
    store.delete(key)
    if content is not None:
        store.put_if_absent(key, content)
    bad(settings(url), "champion", ExitCode.DAMAGED, key, told)
