"""What it costs that nothing is ever half-published: one table.

    python benchmarks/publication.py store/runs/<run id> --store.url s3://models/benchmark

Publishes a run that is at hand, such as one that `make train` left in the folder `store`, again and
again under new ids into the store of the settings, each as the next champion, and sets that against
writing the same files without any protocol. What it publishes stays in the store.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import conditions

from fmnist.configure import load_named_settings
from fmnist.data.duplicates import digests_of
from fmnist.data.fetch import fetch_files
from fmnist.data.split import load_digests, load_images, prepare_sets
from fmnist.environment import Environment
from fmnist.evaluation.metrics import digest_of_predictions, evaluate
from fmnist.promotion.judge import Judge, TestSet
from fmnist.promotion.publish import publish_run
from fmnist.promotion.unchanged import fingerprint_of
from fmnist.registry import keys
from fmnist.registry.champion import current_champion
from fmnist.registry.records import from_json, new_run_id
from fmnist.registry.runs import seal_run
from fmnist.report.run import Run
from fmnist.settings import GateSettings, Settings
from fmnist.store.base import Store, open_store
from fmnist.store.s3 import S3Store
from fmnist.training.model_file import scorer
from fmnist.training.records import TrainingResult

ROUNDS = 15


@dataclass
class Step:
    """What one way of doing a thing took, round by round."""

    name: str
    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    def row(self) -> str:
        """Its row of the table."""
        low, middle, high = min(self.seconds), statistics.median(self.seconds), max(self.seconds)
        requests = "/".join(map(str, sorted(set(self.requests))))
        return f"| {self.name} | {requests} | {low:.3f} | {middle:.3f} | {high:.3f} |"


def main() -> None:
    """Print the table."""
    source, *options = sys.argv[1:]
    settings = load_named_settings(
        dict(zip((name.removeprefix("--") for name in options[::2]), options[1::2], strict=True))
    )
    store = open_store(settings.store.url)
    store.check()
    measured = _measurer(store)
    plain = Step("every file written, without protocol")
    judging = Step("counted, judged, compared with the champion")
    publishing = Step("stored, read back, scored, promoted")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fetched = fetch_files(settings.data)
        prepared = prepare_sets(fetched, settings.data, settings.split, folder)
        test = load_images(prepared.test)
        test_set = TestSet(
            test.labels,
            settings.data.class_names,
            fetched.origin.test_set,
            scorer(test.images, len(settings.data.class_names)),
            digests_of(test.images),
        )
        trained_on = load_digests(prepared.training_digests)
        original = Path(source)
        stored = from_json(Settings, (original / keys.SETTINGS).read_bytes(), keys.SETTINGS)
        trained = from_json(
            TrainingResult, (original / "training.json").read_bytes(), "training.json"
        )
        environment = from_json(
            Environment, (original / "environment.json").read_bytes(), "environment.json"
        )
        content = (original / keys.MODEL).read_bytes()
        probabilities = test_set.score(content)
        evaluation = evaluate(probabilities, test_set.labels, test_set.class_names)
        assert evaluation.predictions_sha256 == digest_of_predictions(probabilities)  # noqa: S101
        for number in range(ROUNDS):
            run_id = new_run_id(datetime.now(UTC))
            sealed = folder / run_id
            shutil.copytree(original, sealed)
            (sealed / keys.MANIFEST).unlink()
            manifest = seal_run(sealed, run_id, datetime.now(UTC))
            files = {name: (sealed / name).read_bytes() for name in manifest.files}
            gate = GateSettings(min_accuracy=0)
            judge = Judge(store, test_set, gate, run_id, True, trained_on)
            with measured(plain):
                for name, file in files.items():
                    store.put_if_absent(f"plain/{run_id}/{name}", file)
            with measured(judging):
                judged = judge.decide(evaluation, probabilities, current_champion(store))
            run = Run(
                run_id=run_id,
                started_at=datetime.now(UTC),
                location=store.location(keys.of_run(run_id)),
                settings=stored,
                fingerprint=fingerprint_of(stored, fetched.origin, environment),
                data=fetched.origin,
                prepared=prepared,
                training=trained,
                environment=environment,
                **vars(judged),
            )
            with measured(publishing):
                publish_run(run, sealed, judge)
            if number == 0:
                # The first meets no champion, and Keras for the first time.
                for step in (plain, judging, publishing):
                    step.seconds.clear()
                    step.requests.clear()
    size = sum(map(len, files.values()))
    kind = "an S3-compatible server" if isinstance(store, S3Store) else "a folder"
    print(
        f"A run of {len(files)} files, {size / 1e6:.1f} MB, published {ROUNDS - 1} times to {kind} "
        f"of this machine. {conditions.line()}.\n"
    )
    print("| step | requests | least s | median s | most s |\n| --- | ---: | ---: | ---: | ---: |")
    for step in (plain, judging, publishing):
        print(step.row())
    added = statistics.median(
        one + two - three
        for one, two, three in zip(judging.seconds, publishing.seconds, plain.seconds, strict=True)
    )
    share = added / trained.seconds
    print(
        f"\nThe protocol adds {added:.2f} s in the median: {share:.1%} of the run's training alone "
        f"({trained.seconds:.0f} s)."
    )


def _measurer(store: Store) -> Callable[[Step], Any]:
    """A context manager that adds a block's time, and its requests to a bucket, to a step."""
    sent = 0

    def count(**_: object) -> None:
        nonlocal sent
        sent += 1

    if isinstance(store, S3Store):
        store._client.meta.events.register("before-send.s3", count)

    @contextmanager
    def measured(step: Step) -> Any:
        before, start = sent, time.monotonic()
        yield
        step.seconds.append(time.monotonic() - start)
        step.requests.append(sent - before)

    return measured


if __name__ == "__main__":
    main()
