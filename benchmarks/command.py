"""Where the time of a run goes beside its training, for each of three ways to start one: one table.

    PYTHONPATH=.:deployments python benchmarks/command.py > benchmarks/results/command.md

By hand, the command runs as a process of its own; without PREFECT_API_URL, it starts a Prefect
server too. The scheduled run is one of the nightly deployment, on the real stack of
`deployments/stack.py`, from the moment at which it is due. The times are those of the run's log
lines, and of its own record of the epochs. A first run of each way does not count: it compiles
bytecode and makes databases.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime
from operator import itemgetter
from pathlib import Path

import conditions

from fmnist.data.fetch import fetch_files
from fmnist.settings import Settings
from tests.e2e.conftest import Operator, listening_webhook, run_id_of, running_stack
from tests.integration.test_lost_server import Server

EPOCHS = 20
TRAINING = "training.json"
ROOT = Path(__file__).resolve().parents[1]
# Each step ends with a log line that has this; the order is that of the steps.
STEPS = {
    "start, until the flow begins": r"Beginning flow run",
    "fetch": r"Task run 'fetch-.*Finished",
    "preprocess": r"Task run 'preprocess-.*Finished",
    "train": r"Task run 'train-.*Finished",
    "evaluate": r"Task run 'evaluate-.*Finished",
    "publish": r"Task run 'publish-.*Finished",
    "record the end": r"Flow run .* Finished",
}
EPOCHS_ALONE, AROUND_EPOCHS = f"train: {EPOCHS} epochs", "train: everything else"
LINE = re.compile(r"^(\d\d:\d\d:\d\d\.\d{3}) .*", re.MULTILINE)
Lines = Iterable[tuple[datetime, str]]


def seconds_of_steps(
    begun: datetime, lines: Lines, ended: datetime, epochs: list[float]
) -> dict[str, float]:
    """How long each step took, in order, the end of the process included.

    The first epoch also builds and compiles the graph, which is counted as everything else.
    """
    moments = [begun]
    for pattern in STEPS.values():
        moments.append(next(moment for moment, line in lines if re.search(pattern, line)))
    moments.append(ended)
    steps = (*STEPS, "end of the process")
    found = {
        step: (after - before).total_seconds()
        for step, (before, after) in zip(steps, itertools.pairwise(moments), strict=True)
    }
    training = len(epochs) * statistics.median(epochs)
    found = {EPOCHS_ALONE if step == "train" else step: taken for step, taken in found.items()}
    rest = found[EPOCHS_ALONE] - training
    found[EPOCHS_ALONE] = training
    return found | {AROUND_EPOCHS: rest}


def by_hand(folder: Path, **environment: str) -> dict[str, float]:
    """Run the command once, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as current:
        begun = datetime.now()
        done = subprocess.run(  # noqa: S603
            [sys.executable, str(ROOT / "flows" / "train.py"), "--training.epochs", str(EPOCHS)],
            cwd=current,
            env={n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")} | environment,
            capture_output=True,
            text=True,
            check=False,  # A rejected model is an exit code.
        )
        ended = datetime.now()
        records = list(Path(current).glob(f"store/runs/*/{TRAINING}"))
        if not records:
            sys.exit(done.stderr)
        epochs = [epoch["seconds"] for epoch in json.loads(records[0].read_text())["history"]]
    lines = [
        (datetime.combine(begun, datetime.strptime(line[1], "%H:%M:%S.%f").time()), line[0])
        for line in LINE.finditer(done.stderr)
    ]
    return seconds_of_steps(begun, lines, ended, epochs)


def scheduled(operator: Operator) -> dict[str, float]:
    """Let a run of the deployment come due, and wait for its end."""
    settings = {"training": {"epochs": EPOCHS, "when": "always"}, "gate": {"champion": "off"}}
    identity, due = operator.schedule(settings)
    run = operator.wait(identity, seconds=300)
    operator.wait_until_idle()
    wanted = {"logs": {"flow_run_id": {"any_": [str(identity)]}}, "sort": "TIMESTAMP_ASC"}
    found = operator.client._client.post("/logs/filter", json=wanted).json()
    lines = [(datetime.fromisoformat(line["timestamp"]), line["message"]) for line in found]
    training = json.loads(operator.read_object(f"runs/{run_id_of(run)}/{TRAINING}"))
    epochs = [epoch["seconds"] for epoch in training["history"]]
    return seconds_of_steps(due, lines, max(moment for moment, _ in lines), epochs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    data = str(fetch_files(Settings().data).train_images.parent)
    measured: dict[str, list[dict[str, float]]] = {}

    def measure(name: str, run: Callable[[], dict[str, float]]) -> None:
        taken = [run() for _ in range(rounds + 1)]
        measured[name] = taken[1:]
        print(f"{name}: {taken}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {"PREFECT_HOME": str(folder / "home"), "FMNIST_DATA__SOURCE": data}
        measure("by hand, alone", lambda: by_hand(folder, **own))
        server = Server(folder)
        server.start()
        measure(
            "by hand, with PREFECT_API_URL",
            lambda: by_hand(folder, PREFECT_API_URL=server.url, **own),
        )
        server.kill()
    with (
        contextlib.redirect_stdout(sys.stderr),
        listening_webhook() as webhook,
        running_stack({"FMNIST_DATA__SOURCE": data}, webhook) as operator,
    ):
        measure("scheduled, by a worker", lambda: scheduled(operator))
    print(table(measured, rounds))


def table(measured: dict[str, list[dict[str, float]]], rounds: int) -> str:
    """The median of each step, and of all that is not an epoch."""
    lines = [
        f"Seconds, the median of {rounds} runs of {EPOCHS} epochs each. {conditions.line()}.\n",
        f"| | {' | '.join(measured)} |",
        f"|---|{'---:|' * len(measured)}",
    ]
    steps = next(iter(measured.values()))[0]

    def row(name: str, of_run: Callable[[dict[str, float]], float]) -> str:
        medians = [statistics.median(map(of_run, runs)) for runs in measured.values()]
        return f"| {name} | {' | '.join(f'{median:.1f}' for median in medians)} |"

    lines += [row(step, itemgetter(step)) for step in steps]
    lines.append(row("**all but the epochs**", lambda run: sum(run.values()) - run[EPOCHS_ALONE]))
    lines.append(row("the whole run", lambda run: sum(run.values())))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
