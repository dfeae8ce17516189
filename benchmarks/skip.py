"""What a run costs that finds nothing to train, with few and with many past runs: one table.

    PYTHONPATH=.:flows python benchmarks/skip.py > benchmarks/results/skip.md

On a folder and on MinIO, each with 10 and with 10,000 past runs, every one with a fingerprint of its
own. A short training comes last; the same again then has nothing to do. Each such run has a process
of its own, and a temporary Prefect server. Its time is that from the call of the flow to its end; the
store's requests are counted as they leave the process, and those of a folder as calls.
"""

import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import conditions
from botocore.httpsession import URLLib3Session
from train import training_job

from fmnist.configure import load_named_settings
from fmnist.evaluation.gate import Verdict
from fmnist.orchestration.server import run_flow
from fmnist.orchestration.temporary_server import temporary_server
from fmnist.promotion.unchanged import Unchanged
from fmnist.registry import keys
from fmnist.registry.records import FORMAT, FingerprintedRun, Manifest, digest_of, to_json
from fmnist.store.base import Store, open_store
from fmnist.store.folder import FolderStore
from tests.support.processes import new_bucket, running_minio

PAST = (10, 10_000)
ROUNDS = 3
SHORT = {
    "training.when": "changed",
    "training.epochs": "2",
    "model.hidden": "32",
    "model.dropout": "0",
    "gate.min_accuracy": "0.1",
}


@dataclass(frozen=True)
class Skipped:
    """What one run cost.

    Attributes:
        seconds: from the call of the flow to its end.
        cpu: seconds of processor time of this process in between.
        requests: what it asked the store, in order.
        nothing: whether it found nothing to train.
    """

    seconds: float
    cpu: float
    requests: tuple[str, ...]
    nothing: bool


def run_once(url: str, folder: Path) -> Skipped:
    """Run the flow once in this process."""
    requests = _counted()
    settings = load_named_settings({**SHORT, "store.url": url, "store.work": str(folder)})
    took = [0.0, 0.0]

    def timed(*arguments: Any, **options: Any) -> Any:
        start, cpu = time.monotonic(), time.process_time()
        state = training_job(*arguments, **options)
        took[:] = [time.monotonic() - start, time.process_time() - cpu]
        return state

    with temporary_server() as server:
        result = run_flow(lambda: timed, settings, server)
    return Skipped(took[0], took[1], tuple(requests), isinstance(result, Unchanged))


def _counted() -> list[str]:
    """A list that every request to a store is added to from now on."""
    requests: list[str] = []
    send = URLLib3Session.send

    def counted(session: Any, request: Any) -> Any:
        requests.append(f"{request.method} {request.url}")
        return send(session, request)

    URLLib3Session.send = counted

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: FolderStore, *arguments: Any, **options: Any) -> Any:
            requests.append(name)
            return method(store, *arguments, **options)

        return call

    for name in ("read", "get", "list_names", "list_entries", "put_if_absent", "compare_and_swap"):
        setattr(FolderStore, name, counting(name, getattr(FolderStore, name)))
    return requests


def fill(store: Store, past: int) -> None:
    """Store the manifests of so many runs, and the objects by which each is found."""

    def store_one(number: int) -> None:
        run_id = f"20250101T{number:06d}Z-0a1b2c3d"
        fingerprint = digest_of(run_id.encode())
        manifest = Manifest(FORMAT, run_id, datetime(2025, 1, 1, tzinfo=UTC), {}, fingerprint)
        store.put_if_absent(keys.of_run(run_id, keys.MANIFEST), to_json(manifest))
        found = FingerprintedRun(FORMAT, run_id, 0.8, fingerprint, Verdict(False, reason="poor"))
        store.put_if_absent(keys.of_fingerprint(fingerprint), to_json(found))

    with ThreadPoolExecutor(8) as threads:
        deque(threads.map(store_one, range(past)), maxlen=0)


def measure(url: str, past: int) -> list[Skipped]:
    """Skipped runs in a store with so many past runs, one after the other."""
    fill(open_store(url), past)
    one_each = get_context("spawn")
    with tempfile.TemporaryDirectory() as work:

        def run() -> Skipped:
            with ProcessPoolExecutor(1, mp_context=one_each) as process:
                return process.submit(run_once, url, Path(work)).result()

        first = run()
        skipped = [run() for _ in range(ROUNDS)]
    if first.nothing or not all(run.nothing for run in skipped):
        raise SystemExit("a run trained that had nothing to train, or the first did not")
    return skipped


def main() -> None:
    """Print the table."""
    measured: dict[str, list[Skipped]] = {}
    with tempfile.TemporaryDirectory() as name, running_minio(Path(name)) as minio:
        os.environ.update(minio.environment())
        for past in PAST:
            for kind, url in (
                ("a folder", f"{name}/store-{past}"),
                ("MinIO", f"s3://{new_bucket(minio)}/store"),
            ):
                measured[f"{kind}, {past:,}"] = measure(url, past)
                print(f"{kind}, {past:,}: done", file=sys.stderr)
    print(f"{ROUNDS} skipped runs each, with the real data. {conditions.line()}.\n")
    print(
        "| store, past runs | requests | least s | median s | most s | processor s, median |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    for store, skipped in measured.items():
        seconds = [run.seconds for run in skipped]
        requests = "/".join(map(str, sorted({len(run.requests) for run in skipped})))
        cpu = statistics.median(run.cpu for run in skipped)
        times = (min(seconds), statistics.median(seconds), max(seconds), cpu)
        print(f"| {store} | {requests} | " + " | ".join(f"{time:.2f}" for time in times) + " |")
    print("\nThe requests of the last run, and the calls of the store's methods in a folder:\n")
    for store, skipped in measured.items():
        print(f"- {store}: " + ", ".join(skipped[-1].requests))


if __name__ == "__main__":
    main()
