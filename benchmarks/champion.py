"""How long it takes to a judged model: the job's command and a textbook script, as whole processes.

    python benchmarks/champion.py > benchmarks/results/champion.md

The two take turns, so that a noisy machine disturbs both alike, and the ratio is taken within each
round. Each starts in a new folder, where the data are at hand already; the job also judges,
publishes and promotes, and starts a Prefect server of its own to do so. Bytecode is compiled and
Prefect's database exists, as on any run but the first. The textbook's verdict is what the job's gate
asks for first: 0.90 on the test set.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import conditions

from fmnist.data.fetch import fetch_files
from fmnist.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
ACCURACY = re.compile(r"test accuracy (\d\.\d{4})")


@dataclass(frozen=True)
class Ended:
    """How one process ended.

    Attributes:
        seconds: from its start to its end.
        accuracy: on the test set.
        promoted: whether that is enough.
    """

    seconds: float
    accuracy: float
    promoted: bool


def textbook(data: Path, needed: float) -> Ended:
    """Run the textbook script once."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, out = _time([str(ROOT / "benchmarks" / "textbook.py"), str(data)], folder, {})
    accuracy = float(ACCURACY.findall(out)[-1])
    return Ended(seconds, accuracy, accuracy >= needed)


def job(data: Path, home: Path) -> Ended:
    """Run the job's command once."""
    environment = {"PREFECT_HOME": str(home), "FMNIST_DATA__SOURCE": str(data)}
    with tempfile.TemporaryDirectory() as folder:
        seconds, out = _time([str(ROOT / "flows" / "train.py")], folder, environment)
    last = out.splitlines()[-1]
    return Ended(seconds, float(ACCURACY.findall(last)[0]), last.startswith("promoted"))


def _time(arguments: list[str], folder: str, own: Mapping[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    ended = subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=folder,
        env={n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")} | dict(own),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,  # A rejected model is an exit code.
    )
    return time.perf_counter() - start, ended.stdout


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    settings = Settings()
    data = fetch_files(settings.data).train_images.parent
    ended: dict[str, list[Ended]] = {"textbook script": [], "python flows/train.py": []}
    with tempfile.TemporaryDirectory() as home:
        job(data, Path(home))  # makes Prefect's database
        for number in range(rounds):
            ended["textbook script"].append(textbook(data, settings.gate.min_accuracy))
            ended["python flows/train.py"].append(job(data, Path(home)))
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    both = zip(ended["python flows/train.py"], ended["textbook script"], strict=True)
    ratios = [ours.seconds / theirs.seconds for ours, theirs in both]
    print(f"Whole processes in turn, {rounds} rounds. {conditions.line()}.\n")
    print("| | seconds: least | median | most | test accuracy: least | most | promoted |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, runs in ended.items():
        seconds, found = [run.seconds for run in runs], [run.accuracy for run in runs]
        print(
            f"| {name} | {min(seconds):.1f} | {statistics.median(seconds):.1f} | "
            f"{max(seconds):.1f} | {min(found):.4f} | {max(found):.4f} | "
            f"{sum(run.promoted for run in runs)} of {rounds} |"
        )
    print(
        f"\nThe job takes {statistics.median(ratios):.2f} of the textbook script's time in the "
        f"median of the rounds ({min(ratios):.2f} to {max(ratios):.2f})."
    )


if __name__ == "__main__":
    main()
