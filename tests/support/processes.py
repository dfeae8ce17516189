"""Real servers and programs for tests: how they are found, started and ended."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def unavailable(reason: str) -> None:
    """Skip on a user's machine; fail in CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing may be missing: {reason}")
    pytest.skip(reason)


@dataclass(frozen=True)
class S3Server:
    """A real S3-compatible server that a test run started."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let every write of this process beyond so many bytes of a file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_in(folder: Path) -> set[str]:
    """The files below a folder, by their relative paths."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def kept_run(message: str) -> Path:
    """The folder in which, as a failure's message says, the finished run is kept."""
    found = re.search(r"the finished run is kept in (\S+)", message)
    assert found, message
    return Path(found[1])


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def s3_server(
    command: Sequence[str], address: str, keys: tuple[str, str], health: str, log: Path
) -> Iterator[S3Server]:
    """A server program, started with keys that nobody else has; ended with the block.

    `keys` are the two variables by which it gets them, `health` the path that answers once it is
    up at its address.
    """
    server = S3Server(
        endpoint=f"http://{address}",
        access_key="testing-" + secrets.token_hex(4),
        secret_key=secrets.token_hex(16),
    )
    values = (server.access_key, server.secret_key)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | dict(zip(keys, values, strict=True)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_live(f"{server.endpoint}{health}", process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_minio(folder: Path) -> Iterator[S3Server]:
    """A real MinIO server that keeps everything in this folder; ended with the block."""
    address = f"127.0.0.1:{free_port()}"
    command = [program("minio"), "server", str(folder / "objects"), "--address", address]
    keys = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
    with s3_server(command, address, keys, "/minio/health/live", folder / "log") as server:
        yield server


def program(name: str) -> str:
    """Where a program lies that a test cannot do without."""
    found = shutil.which(name)
    if not found:
        unavailable(f"the program {name} is needed; CONTRIBUTING.md says how to get it")
    return str(found)


def new_bucket(server: S3Server) -> str:
    """The name of a new, empty bucket."""
    import boto3

    name = f"test-{secrets.token_hex(6)}"
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=name)
    return name


def run_program(
    *arguments: str, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in the current folder, as a user would."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _wait_until_live(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"{url} did not come up:\n{log.read_text()[-2000:]}")
