"""What several test modules need: the real data, a real MinIO, an environment of one's own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fmnist.data.fetch import fetch_files
from fmnist.data.records import FetchedData
from fmnist.errors import DataError
from fmnist.settings import MIRRORS, DataSettings, Settings
from tests.support.processes import S3Server, free_port, new_bucket, program, s3_server, unavailable

if TYPE_CHECKING:
    from tests.faults.enumeration import Laboratory
    from tests.faults.scenarios import Place

# Read before any test changes the environment or the folder: where the user keeps the data.
_DATA = Settings().data


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test starts without settings or keys of the user's, in a folder of its own."""
    for name in list(os.environ):
        if name.startswith(("FMNIST_", "AWS_", "KERAS_")):
            monkeypatch.delenv(name)
    # No test may find keys or settings of the person who runs it.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no-keras"))
    monkeypatch.chdir(tmp_path)


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
    """The `data.source` that gives the real data to a command started by a test."""
    if _DATA.source != MIRRORS and "://" not in _DATA.source:
        return str(Path(_DATA.source).resolve())
    return _DATA.source


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real MinIO server on a folder of its own; ended with the session."""
    folder, address = tmp_path_factory.mktemp("minio"), f"127.0.0.1:{free_port()}"
    command = [program("minio"), "server", str(folder / "objects"), "--address", address]
    keys = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
    with s3_server(command, address, keys, "/minio/health/live", folder / "log") as server:
        yield server


@pytest.fixture(scope="session")
def versitygw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A second real server, versitygw, on a folder of its own; ended with the session."""
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
    """The real MinIO server, with this process's environment set up to reach it."""
    for name, value in minio_server.environment().items():
        monkeypatch.setenv(name, value)
    return minio_server


@pytest.fixture
def bucket(minio: S3Server) -> str:
    """The name of a new, empty bucket on the real MinIO server."""
    return new_bucket(minio)


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Laboratory"]:
    """The finished runs and the processes with which publications are interrupted."""
    from tests.faults.enumeration import Laboratory

    program("strace")
    with Laboratory(tmp_path_factory.mktemp("laboratory")) as opened:
        yield opened


@pytest.fixture(params=["folder", "minio", "versitygw"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> "Place":
    """An empty store of each kind, for processes to find."""
    from tests.faults.scenarios import Place, environment_of

    if request.param == "folder":
        return Place(str(tmp_path / "store"), {})
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return Place(f"s3://{new_bucket(server)}/race", environment_of(server))
