"""How much longer training takes when the Prefect server is lost after its first epochs: one table.

    PYTHONPATH=. python benchmarks/lost_server.py > benchmarks/results/lost_server.md

The job's command trains on the real data with a real Prefect server, which stays, is killed, or hangs
(it is suspended, so it accepts connections and never answers). The three take turns, so that a noisy
machine disturbs all of them alike, and the ratios are taken within each round. The times are those of
the job's log lines: the server is lost at the first one about an epoch.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import conditions
import psutil

from tests.integration.test_lost_server import Server

EPOCHS = 40
LONGEST_WAIT = 900.0
CASES = ("stays", "is killed", "hangs")
ROOT = Path(__file__).resolve().parents[1]
EPOCH = re.compile(r"([\d:.]+) .* training: epoch (\d+)/")
END = re.compile(r"([\d:.]+) .* Task run 'train-.*Finished")


@dataclass(frozen=True)
class Training:
    """How long one training took, in seconds.

    Attributes:
        epoch: for one epoch, in the mean from the first log line about one to the last.
        end: from the last epoch to the end of the task.
        cpu: of processor time that the job's process took in all.
    """

    epoch: float
    end: float
    cpu: float

    @property
    def seconds(self) -> float:
        """For all epochs and the end."""
        return EPOCHS * self.epoch + self.end


def train(case: str, folder: Path) -> Training:
    """Train once, with a server that meets its fate at the first line about an epoch."""
    server = Server(folder)
    server.start()
    assert server.process  # noqa: S101
    top = psutil.Process(server.process.pid)
    processes = [top, *top.children(recursive=True)]
    log = folder / "log"
    options = {"training.epochs": EPOCHS, "gate.min_accuracy": 0.5, "store.work": "work"}
    command = [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as output:
        job = psutil.Popen(
            [sys.executable, str(ROOT / "flows" / "train.py"), *command],
            cwd=folder,
            env=os.environ | {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(folder / "job")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(EPOCH, job, log)
        for process in processes:
            if case == "is killed":
                process.kill()
            elif case == "hangs":
                process.suspend()
        wait_for(END, job, log)
        cpu = job.cpu_times()
    finally:
        for process in (job, *processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job.wait()
        server.kill()
    text = log.read_text()
    first, *_, last = EPOCH.finditer(text)
    begun, trained = moment(first), moment(last)
    ended = END.search(text)
    assert ended  # noqa: S101
    epochs = int(last[2]) - int(first[2])
    return Training(
        seconds_between(begun, trained) / epochs,
        seconds_between(trained, moment(ended)),
        cpu.user + cpu.system,
    )


def wait_for(pattern: re.Pattern[str], job: psutil.Popen, log: Path) -> None:
    """Wait until the job has logged such a line."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not pattern.search(log.read_text()):
        if job.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the job did not get there:\n{log.read_text()}")
        time.sleep(0.05)


def moment(line: re.Match[str]) -> datetime:
    """When a line was logged, on a day that it does not say."""
    return datetime.strptime(line[1], "%H:%M:%S.%f")


def seconds_between(earlier: datetime, later: datetime) -> float:
    """The seconds between two moments less than a day apart."""
    return ((later - earlier) % timedelta(days=1)).total_seconds()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    measured: dict[str, list[Training]] = {case: [] for case in CASES}
    for number in range(rounds):
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                training = train(case, Path(folder))
            measured[case].append(training)
            print(f"round {number + 1}: server {case}: {training}", file=sys.stderr)
    print(f"Training of {EPOCHS} epochs, {rounds} rounds. {conditions.line()}.\n")
    print(
        "| the server | median s for an epoch | median s from the last epoch to the end | training, "
        "ratio to the first line in the same round: least | median | most | processor s of the job, "
        "median |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for case, trainings in measured.items():
        pairs = zip(trainings, measured[CASES[0]], strict=True)
        ratios = [one.seconds / other.seconds for one, other in pairs]
        figures = (
            statistics.median(training.epoch for training in trainings),
            statistics.median(training.end for training in trainings),
            min(ratios),
            statistics.median(ratios),
            max(ratios),
        )
        cpu = statistics.median(training.cpu for training in trainings)
        print(f"| {case} | " + " | ".join(f"{each:.3f}" for each in figures) + f" | {cpu:.0f} |")


if __name__ == "__main__":
    main()
