"""Run a Prefect worker that lets its jobs end in good order before it stops.

    python deployments/worker.py prefect worker start --pool training --type process

Prefect's worker kills its jobs the moment it is stopped: their runs stay `Running` until heartbeats
are missing, and their files stay behind. Here SIGTERM and SIGINT reach the jobs first, which mark
their runs and clean up, while the worker is suspended so that it takes no new run. The temporary
files of all of them are in one folder, which is removed at the end, or after a kill by the next
worker that starts.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

# Seconds; together less than the stop_grace_period of 60 s, after which everything is killed.
_LONGEST_JOB_END = 40
_LONGEST_WORKER_END = 15

_FOLDER_PREFIX = "fmnist-worker-"


def _running(job: psutil.Process) -> bool:
    # Ended jobs remain as zombies, because the worker that would reap them is suspended.
    try:
        return bool(job.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_jobs(worker: psutil.Process) -> None:
    """Ask a worker's jobs, its child processes, to end, and wait for them, but not forever."""
    jobs = worker.children()
    for job in jobs:
        job.terminate()
    deadline = time.monotonic() + _LONGEST_JOB_END
    while any(map(_running, jobs)) and time.monotonic() < deadline:
        time.sleep(0.2)


def remove_left_folders() -> None:
    """Remove what killed workers left, unless one of their jobs still lives."""
    used = set()
    for program in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            used.add(program.environ().get("TMPDIR"))
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        if str(folder) not in used:
            shutil.rmtree(folder, ignore_errors=True)


def main(command: Sequence[str]) -> int:
    """Run the worker's command; returns its exit code, or 0 if it was asked to stop."""
    remove_left_folders()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX, ignore_cleanup_errors=True) as folder:
        return _run(psutil.Popen(command, env=os.environ | {"TMPDIR": folder}))


def _run(worker: psutil.Popen) -> int:
    try:
        return int(worker.wait())
    except KeyboardInterrupt:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        worker.suspend()
        end_jobs(worker)
        worker.terminate()
        worker.resume()
    try:
        worker.wait(_LONGEST_WORKER_END)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
