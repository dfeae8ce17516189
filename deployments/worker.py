"""Run a Prefect worker that, asked to stop, first lets its running jobs end in good order.

    python deployments/worker.py prefect worker start --pool training --type process

A worker of Prefect's kills its jobs the moment it is stopped: their runs stay `Running` until a
heartbeat is missed, and their files stay behind. Here SIGTERM and SIGINT reach the jobs first,
which mark their runs and clean up, while the worker is held still so that it takes no new run.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import psutil

# Together below the stack's stop_grace_period of 60 s, after which everything is killed.
_FOR_JOBS = 40
_FOR_WORKER = 15


class _Stopped(BaseException):
    """Somebody asked this process to end."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise _Stopped


def _running(job: psutil.Process) -> bool:
    # Ended jobs stay as zombies, since the worker that would reap them is held still.
    try:
        return bool(job.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_jobs(worker: psutil.Process) -> None:
    """Ask the jobs of a worker, its child processes, to end, and wait for a while until they have."""
    jobs = worker.children()
    for job in jobs:
        job.terminate()
    deadline = time.monotonic() + _FOR_JOBS
    while any(map(_running, jobs)) and time.monotonic() < deadline:
        time.sleep(0.2)


def main(command: Sequence[str]) -> int:
    """Run the worker's command to its end; the exit code is the command's, or 0 if it was stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    worker = psutil.Popen(command)
    try:
        return int(worker.wait())
    except _Stopped:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        worker.suspend()
        end_jobs(worker)
        worker.terminate()
        worker.resume()
    try:
        worker.wait(_FOR_WORKER)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
