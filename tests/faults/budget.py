"""How many requests it takes to publish a run of the size that is published."""

import secrets
from collections.abc import Iterable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

from fmnist.evaluation.gate import GateContext, decide
from fmnist.evaluation.metrics import evaluate
from fmnist.promotion.judge import Judge
from fmnist.promotion.publish import publish_run
from fmnist.registry import keys
from fmnist.registry.champion import read_champion
from fmnist.registry.records import FORMAT, ChampionRecord, Manifest, to_json
from fmnist.registry.runs import seal_run
from fmnist.settings import GateSettings
from tests.faults.enumeration import Laboratory
from tests.faults.proxy import Point, Proxy
from tests.faults.scenarios import ORIGIN, Place, environment_of, test_set_in
from tests.support import records
from tests.support.processes import S3Server, new_bucket

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
    test = test_set_in(laboratory.material)
    evaluation = evaluate(test.score(model), test.labels, test.class_names)
    context = GateContext(len(test.labels), generation=past)
    verdict = decide(evaluation, _GATE, context)
    run = replace(records.run(), data=ORIGIN, evaluation=evaluation, verdict=verdict)
    _seal(sealed, model, run.fingerprint)
    point = Point()
    with Proxy(server.endpoint) as proxy:
        proxy.points["p0"] = point
        through = replace(server, endpoint=proxy.endpoint)
        store = Place(direct.url, environment_of(through)).open()
        publish_run(run, sealed, Judge(store, test, _GATE, run.run_id, conditional_writes=True))
        proxy.settle(point)
    record, _ = read_champion(direct.open())
    assert (record.run_id, record.generation) == (run.run_id, past + 1)
    return point.requests


def _seal(folder: Path, model: bytes, fingerprint: str) -> None:
    (folder / "figures").mkdir(parents=True)
    rest = (BYTES - len(model)) // (len(_FILES) - 1)
    for name in _FILES:
        (folder / name).write_bytes(model if name == keys.MODEL else secrets.token_bytes(rest))
    seal_run(folder, records.RUN_ID, records.moments(1)[0], fingerprint)


def _fill(laboratory: Laboratory, place: Place, past: int) -> None:
    """Runs that were promoted one after the other, but for the history, which nobody may need."""
    generations = range(1, past + 1)
    history = [replace(records.champion(f"past-{n}"), generation=n) for n in generations]
    parts = [history[first::_AT_ONCE] for first in range(_AT_ONCE)]
    filled = [laboratory.helpers.submit(_store_runs, place, part) for part in parts]
    for part in wait(filled).done:
        part.result()
    place.open().put_if_absent(keys.CHAMPION, to_json(history[-1]))


def _store_runs(place: Place, history: Iterable[ChampionRecord]) -> None:
    store = place.open()
    for record in history:
        manifest = Manifest(FORMAT, record.run_id, record.moved_at, {})
        key = f"{keys.of_run(record.run_id)}/{keys.MANIFEST}"
        store.put_if_absent(key, to_json(manifest))
