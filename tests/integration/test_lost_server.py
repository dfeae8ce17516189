"""A run whose real Prefect server is killed: before and after the model is promoted."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fmnist.registry.champion import current_champion
from fmnist.store.folder import FolderStore
from tests.support.processes import ROOT, free_port
from tests.support.tiny_s3 import Handler, serving

# The ten minutes for which a run waits for its server, shortened; then the job's command, which
# halts after publication until the file `go` is there.
_PROGRAM = """
import pathlib, sys, time
import fmnist.orchestration.link as link
link._LONGEST_OUTAGE = float(sys.argv[2])
import fmnist.orchestration.artifacts as artifacts
from fmnist.cli.train import main
show_report = artifacts.show_report
def halt(*arguments):
    pathlib.Path("published").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.1)
    show_report(*arguments)
artifacts.show_report = halt
sys.exit(main(sys.argv[1], sys.argv[3:]))
"""
_RUN = ["--training.epochs", "6", "--training.warmup_fraction", "0", "--model.hidden", "32"]
_RUN += ["--model.dropout", "0.1", "--gate.min_accuracy", "0.1"]


@dataclass
class Server:
    """A real Prefect server in a folder of its own, which can be killed and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--port", str(self.port)],
                env=os.environ
                | {
                    "PREFECT_HOME": str(self.folder / "home"),
                    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for _ in range(900):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def states(self) -> list[str]:
        """The names of the states of all flow runs."""
        found = httpx.post(f"{self.url}/flow_runs/filter", json={}).raise_for_status()
        return [run["state_type"] for run in found.json()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that has just started."""
    started = Server(tmp_path)
    started.start()
    yield started
    started.kill()


def job(server: Server, data: Path, outage: int) -> "subprocess.Popen[str]":
    """The job's command, started in the current folder, with standard error in the file `err`."""
    with Path("err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(ROOT / "flows" / "train.py"), str(outage), *_RUN],
            env=os.environ
            | {
                "PREFECT_API_URL": server.url,
                "PREFECT_HOME": str(server.folder / "client"),
                "FMNIST_DATA__SOURCE": str(data),
                "FMNIST_STORE__WORK": str(server.folder / "work"),
            },
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )


def wait_until(process: "subprocess.Popen[str]", text: str, path: str = "err") -> None:
    """Wait until a file of the job has this text."""
    deadline = time.monotonic() + 180
    while not Path(path).exists() or text not in Path(path).read_text():
        assert process.poll() is None and time.monotonic() < deadline, Path("err").read_text()
        time.sleep(0.1)


def assert_promoted(process: "subprocess.Popen[str]") -> str:
    """The run ended as the gate decided, and the store agrees; returns its log."""
    out, _ = process.communicate(timeout=180)
    err = Path("err").read_text()
    assert process.returncode == 0, err
    champion = current_champion(FolderStore("store"))
    assert champion and out.splitlines()[-1].startswith(f"promoted  {champion.run_id}  ")
    assert "Traceback" not in err and "Service 'EventsWorker'" not in err
    assert "Error logging to API" not in err
    return err


class Busy(Handler):
    """A server, or what stands before it, that sends every request away for an hour."""

    def answer(self, body: bytes) -> None:
        self.send(503, Retry_After="3600")


class DiskFull(Handler):
    """A server whose database cannot be written: it only answers that it is there."""

    def answer(self, body: bytes) -> None:
        self.send(200 if self.path.endswith("/health") else 500)


@pytest.mark.parametrize(
    ("when", "instead"),
    [("training", None), ("published", None), ("training", Busy), ("training", DiskFull)],
    ids=["killed before promotion", "killed after promotion", "busy", "disk full"],
)
def test_a_server_lost_for_good_leaves_the_verdict_as_it_is(
    when: str, instead: type[Handler] | None, server: Server, small_data: Path
) -> None:
    """Before or after promotion: exit code and last line tell the verdict, with a warning."""
    process = job(server, small_data, 3)
    if when == "training":
        wait_until(process, "preprocess")
        Path("go").touch()
    else:
        wait_until(process, "", "published")
    server.kill()
    with serving(instead, server.port) if instead else contextlib.nullcontext():
        Path("go").touch()
        err = assert_promoted(process)
    assert err.count("Prefect was not told how this run ended") == 1
    assert err.count("the Prefect server was lost") <= 1
    assert len(list((server.folder / "work").iterdir())) == 0


def test_a_server_that_comes_back_is_told_how_the_run_ended(
    server: Server, small_data: Path
) -> None:
    """One line says that it was lost, one that it is back, and the flow run ends Completed."""
    process = job(server, small_data, 600)
    wait_until(process, "preprocess")
    server.kill()
    Path("go").touch()
    wait_until(process, "the Prefect server was lost")
    wait_until(process, "promoted: ")
    server.start()
    err = assert_promoted(process)
    assert err.count("the Prefect server was lost") == err.count("the Prefect server is back") == 1
    assert server.states() == ["COMPLETED"]


def test_a_failure_without_a_server_keeps_its_own_exit_code(
    server: Server, small_data: Path
) -> None:
    """What stopped the run is told, not that Prefect could not be."""
    process = job(server, small_data, 3)
    wait_until(process, "preprocess")
    server.kill()
    Path("store").mkdir(exist_ok=True)
    Path("store/runs").write_text("")
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 5, Path("err").read_text()
    assert "  store: " in out.splitlines()[-1] and "Traceback" not in Path("err").read_text()
