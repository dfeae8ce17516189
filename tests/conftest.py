"""What several test modules need: data, real S3 servers, and a clean environment."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fmnist.data.fetch import fetch_files
from fmnist.data.idx import read_idx
from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, FetchedData
from fmnist.errors import DataError
from fmnist.settings import MIRRORS, DataSettings, Settings
from tests.support.mirrors import idx, with_sums, write
from tests.support.processes import (
    S3Server,
    free_port,
    new_bucket,
    program,
    running_minio,
    s3_server,
    unavailable,
)

# Read before any test changes the environment or the folder: where the user has the data.
_DATA = Settings().data


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty folder, without the user's settings and keys."""
    for name in list(os.environ):
        if name.startswith(("FMNIST_", "AWS_", "KERAS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no-keras"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Let Ctrl-C end the tests, whatever a command that ran in this process made of it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data() -> FetchedData:
    """The real Fashion-MNIST files, from where the user's settings say."""
    try:
        return fetch_files(
            DataSettings(source=_DATA.source, cache=_DATA.cache, mirrors=_DATA.mirrors)
        )
    except DataError as error:
        unavailable(f"the real data are needed: {error}")
        raise


@pytest.fixture(scope="session")
def data_source(real_data: FetchedData) -> str:
    """The `data.source` with which a command started by a test finds the real data."""
    if _DATA.source != MIRRORS and "://" not in _DATA.source:
        return str(Path(_DATA.source).resolve())
    return _DATA.source


@pytest.fixture(scope="session")
def small_data(real_data: FetchedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 5,000 training and 1,000 test images, where few are enough."""
    files = {
        name: idx(read_idx(getattr(real_data, field), dimensions)[:count])
        for name, field, count, dimensions in (
            (TRAIN_IMAGES, "train_images", 5_000, 3),
            (TRAIN_LABELS, "train_labels", 5_000, 1),
            (TEST_IMAGES, "test_images", 1_000, 3),
            (TEST_LABELS, "test_labels", 1_000, 1),
        )
    }
    return write(with_sums(files), tmp_path_factory.mktemp("small-data"))


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real MinIO server in its own folder, for the whole session."""
    with running_minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A second real server, versitygw, in its own folder, for the whole session."""
    folder, address = tmp_path_factory.mktemp("versitygw"), f"127.0.0.1:{free_port()}"
    (folder / "objects").mkdir()
    command = [
        program("versitygw"), "--quiet", "--health", "/health", "--port", address,
        "posix", str(folder / "objects"),
    ]  # fmt: skip
    keys = ("ROOT_ACCESS_KEY", "ROOT_SECRET_KEY")
    with s3_server(command, address, keys, "/health", folder / "log") as server:
        yield server


@pytest.fixture
def minio(minio_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The real MinIO server, which this process's environment points to."""
    for name, value in minio_server.environment().items():
        monkeypatch.setenv(name, value)
    return minio_server


@pytest.fixture
def bucket(minio: S3Server) -> str:
    """The name of a new, empty bucket on the real MinIO server."""
    return new_bucket(minio)
