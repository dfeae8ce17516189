"""Fetching with everything real: the data, MinIO, other processes, the shell."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from fmnist.data.cache import sha256_of
from fmnist.data.fetch import fetch_files
from fmnist.data.idx import read_labelled_images
from fmnist.data.records import FILES, OFFICIAL_SHA256, TRAIN_IMAGES, FetchedData
from fmnist.errors import DataError, ExitCode
from fmnist.settings import DataSettings
from tests.support.mirrors import (
    OFFICIAL,
    OWN,
    Contents,
    Mirrors,
    at_first,
    dropping,
    in_cache,
    meeting,
    paths_of,
    read,
    settings,
    with_sums,
    write,
)
from tests.support.processes import S3Server, run_program


def test_the_real_files_survive_a_dropped_connection(
    real_data: FetchedData, mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real files are fetched over HTTP, despite a dropped connection, and read correctly."""
    monkeypatch.setattr("fmnist.data.fetch.OFFICIAL_SHA256", OFFICIAL_SHA256)
    mirror = mirrors.start(at_first(dropping), read(real_data))
    fetched = fetch_files(settings(cache, mirror))
    assert fetched.origin.official
    assert {name: sha256_of(path) for name, path in paths_of(fetched).items()} == OFFICIAL_SHA256
    assert len(read_labelled_images(fetched.test_images, fetched.test_labels, 10)) == 10_000


def test_two_processes_fetching_at_once_do_not_disturb_each_other(
    mirrors: Mirrors, cache: Path
) -> None:
    """Two processes that download the same files into the same cache both get them complete."""
    mirror = mirrors.start(meeting(2, FILES), with_sums(OWN))
    program = (
        "import sys; from pathlib import Path; from fmnist.settings import DataSettings; "
        "from fmnist.data.fetch import fetch_files; "
        "fetch_files(DataSettings(source=sys.argv[1], cache=Path(sys.argv[2])))"
    )
    command = ("-c", program, mirror.url, str(cache))
    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(run_program, *command, timeout=60) for _ in range(2)]:
            assert run.result().returncode == 0, run.result().stderr
    assert mirror.asked.count(TRAIN_IMAGES) == 2
    assert in_cache(cache) == set(OWN.values())
    assert len(list(cache.iterdir())) == 4


def test_the_command_in_the_message_makes_the_folder_acceptable(
    official: None, tmp_path: Path
) -> None:
    folder = write(OWN, tmp_path / "data")
    with pytest.raises(DataError) as caught:
        fetch_files(DataSettings(source=str(folder)))
    where, command = re.findall(r"in (\S+), (sha256sum .*)$", str(caught.value))[0]
    assert os.system(f"cd {where} && {command}") == 0
    assert read(fetch_files(DataSettings(source=str(folder)))) == OWN


def put(contents: Contents, bucket: str) -> str:
    """Put the files into the bucket under a prefix; returns where they are."""
    client = boto3.session.Session().client("s3")
    for name, content in contents.items():
        client.put_object(Bucket=bucket, Key=f"data/fashion/{name}", Body=content)
    return f"s3://{bucket}/data/fashion"


@pytest.mark.parametrize("contents", [OFFICIAL, with_sums(OWN)], ids=["official", "own"])
def test_files_in_a_bucket_are_fetched(
    official: None, bucket: str, cache: Path, contents: Contents
) -> None:
    """Official files without a list, and others with one, are verified into the cache."""
    source = put(contents, bucket)
    fetched = fetch_files(DataSettings(source=source, cache=cache))
    expected = {name: contents[name] for name in FILES}
    assert read(fetched) == expected
    assert in_cache(cache) == set(expected.values())
    assert fetched.origin.official is (contents == OFFICIAL)
    assert fetched.origin.source == source


def test_a_missing_bucket_is_a_data_error(official: None, minio: S3Server, cache: Path) -> None:
    """A bucket that does not exist is named with the setting of the data, not of the store."""
    with pytest.raises(DataError, match="does not exist") as caught:
        fetch_files(DataSettings(source="s3://no-such-bucket/data", cache=cache))
    assert "no-such-bucket" in str(caught.value)
    assert "data.source" in str(caught.value)
    assert "store.url" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA
    assert not caught.value.retryable


def test_a_wrong_key_for_the_bucket_is_a_data_error(
    official: None, bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key ends in a DataError that points to the credentials and does not show them."""
    source = put(OFFICIAL, bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-secret")
    with pytest.raises(DataError, match="credentials") as caught:
        fetch_files(DataSettings(source=source, cache=cache))
    assert "not-the-right-secret" not in str(caught.value)
    assert not caught.value.retryable
