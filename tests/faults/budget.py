"""How many requests it takes to publish a run of the size that is published."""

import secrets
from collections.abc import Iterable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

from fmnist import publication, registry
from fmnist.config import GateSettings
from fmnist.evaluation import evaluate
from fmnist.gate import Circumstances, decide
from fmnist.judging import Judge
from tests import records
from tests.conftest import S3Server, new_bucket
from tests.faults.enumeration import Laboratory, proxy_of
from tests.faults.proxy import Point
from tests.faults.scenarios import DATA, Place, bench, environment_of

BYTES = 3_000_000
_GATE = GateSettings(min_accuracy=0)
_FILES = sorted(records.FILES | {"comparison.json"})
_AT_ONCE = 20


def requests_of_publication(
    laboratory: Laboratory, server: S3Server, past: int, folder: Path
) -> list[str]:
    """The requests of a publication with its promotion, after so many runs that were champions.

    The run has 12 files of 3 MB in all, among them a model of the size that is published, which is
    read back and scored.
    """
    direct = Place(f"s3://{new_bucket(server)}/p0", environment_of(server))
    _fill(laboratory, direct, past)
    sealed = folder / f"after-{past}"
    model = (laboratory.material / "large.keras").read_bytes()
    test = bench(laboratory.material)
    evaluation = evaluate(test.score(model), test.labels, test.class_names)
    circumstances = Circumstances(len(test.labels), generation=past)
    run = replace(
        records.run(),
        data=DATA,
        evaluation=evaluation,
        verdict=decide(evaluation, _GATE, circumstances),
    )
    _seal(sealed, model)
    point = Point()
    with proxy_of(server) as proxy:
        proxy.points["p0"] = point
        through = replace(server, endpoint=proxy.endpoint)
        store = Place(direct.url, environment_of(through)).open()
        publication.publish(run, sealed, Judge(store, test, _GATE, run.run_id, safe_store=True))
        proxy.settle(point)
    head, _ = registry.read_champion(direct.open())
    assert (head.run_id, head.generation) == (run.run_id, past + 1)
    return point.requests


def _seal(folder: Path, model: bytes) -> None:
    (folder / "figures").mkdir(parents=True)
    rest = (BYTES - len(model)) // (len(_FILES) - 1)
    for name in _FILES:
        (folder / name).write_bytes(model if name == registry.MODEL else secrets.token_bytes(rest))
    registry.seal(folder, records.RUN_ID, records.moments(1)[0])


def _fill(laboratory: Laboratory, place: Place, past: int) -> None:
    """Runs that were promoted one after the other, but for the history, which nobody may need."""
    heads = [
        replace(records.champion(f"past-{number}"), generation=number)
        for number in range(1, past + 1)
    ]
    parts = [heads[first::_AT_ONCE] for first in range(_AT_ONCE)]
    filled = [laboratory.helpers.submit(_store_runs, place, part) for part in parts]
    for part in wait(filled).done:
        part.result()
    place.open().create(registry.CHAMPION, registry.to_json(heads[-1]))


def _store_runs(place: Place, heads: Iterable[registry.Champion]) -> None:
    store = place.open()
    for head in heads:
        manifest = registry.Manifest(registry.FORMAT, head.run_id, head.moved_at, {})
        key = f"{registry.run_key(head.run_id)}/{registry.MANIFEST}"
        store.create(key, registry.to_json(manifest))
