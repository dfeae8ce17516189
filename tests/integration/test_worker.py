"""What the worker's command does when it is asked to stop."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import ROOT

# A stand-in for a worker with one job, which records what happens to each.
WORKER = """
import pathlib, signal, subprocess, sys, tempfile, time
happened = pathlib.Path("happened")
tempfile.mkstemp()
def say(what):
    with happened.open("a") as file:
        file.write(what + "\\n")
def stop(*_):
    say("worker stopped")
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
job = subprocess.Popen([sys.executable, "-c", '''
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(1)
    with pathlib.Path("happened").open("a") as file:
        file.write("job ended in good order\\\\n")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready").touch()
time.sleep(60)
'''])
while True:
    time.sleep(0.1)
    if job.poll() is not None:
        say("worker goes on")
"""


def start(folder: Path, program: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
    """Run a program through the worker's command."""
    command = [str(ROOT / "deployments" / "worker.py"), sys.executable, "-c", program]
    return subprocess.Popen([sys.executable, *command], cwd=folder, stdout=stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_jobs_end_before_the_worker_which_takes_no_new_job_meanwhile(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal reaches the job first; in the end no temporary file of either is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start(tmp_path, WORKER)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 0
    happened = (tmp_path / "happened").read_text().splitlines()
    assert happened == ["job ended in good order", "worker stopped"]
    assert list(temporary.iterdir()) == []


def test_what_a_killed_worker_left_goes_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not while a process of the killed worker lives."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start(
        tmp_path, "import time; print(flush=True); time.sleep(600)", stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline()
    orphans = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert start(tmp_path, "").wait(30) == 0
    assert len(list(tmp_path.glob("fmnist-worker-*"))) == 1
    for orphan in orphans:
        orphan.kill()
    psutil.wait_procs(orphans, 10)
    assert start(tmp_path, "").wait(30) == 0
    assert list(tmp_path.glob("fmnist-worker-*")) == []


def test_a_worker_that_ends_by_itself_gives_its_exit_code(tmp_path: Path) -> None:
    """Whatever keeps it running can tell how it ended."""
    assert start(tmp_path, "raise SystemExit(7)").wait(30) == 7
