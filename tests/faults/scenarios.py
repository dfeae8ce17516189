"""What is interrupted, on any store, and what must hold after every interruption.

A store is brought to where a scenario starts (`prepare`), the scenario is acted in a process that
something happens to (`act`), and then a fresh reader and a fresh publisher look at what is left
(`examine`). All of it is made once (`make`) and kept in a folder, since each of these runs in a
process of its own.
"""

import copy
import functools
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fmnist.data.duplicates import digests_of
from fmnist.data.records import OFFICIAL_SHA256, DataOrigin
from fmnist.evaluation.gate import Verdict
from fmnist.promotion.judge import Judge, TestSet
from fmnist.promotion.publish import publish_run
from fmnist.registry import keys
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    generation_of,
    read_champion,
    roll_back,
    set_hold,
)
from fmnist.registry.fingerprints import find_by_fingerprint
from fmnist.registry.leftovers import GRACE
from fmnist.registry.prune import prune_store
from fmnist.registry.records import (
    ChampionRecord,
    FingerprintedRun,
    TestSetUsage,
    digest_of,
    from_json,
    to_json,
)
from fmnist.registry.runs import find_run, list_run_ids, read_file, seal_run
from fmnist.registry.usage import record_use
from fmnist.report.run import Run
from fmnist.settings import GateSettings, Settings
from fmnist.store.base import Entry, Store, open_store
from fmnist.store.folder import FolderStore
from tests.faults.networks import scorer
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.processes import ROOT, S3Server, files_in

FIRST = "20260101T000000Z-00000001"
SECOND = "20260102T000000Z-00000002"
THIRD = "20260103T000000Z-00000003"
POOR = "20260104T000000Z-00000004"
OVERTAKEN = "20260105T000000Z-00000005"
AGAIN = "20260106T000000Z-00000006"
_NETWORKS = {
    **{FIRST: "good-1", SECOND: "good-2", THIRD: "good-3", POOR: "poor"},
    **{OVERTAKEN: "good-2", AGAIN: "good-1"},
}
_SETTINGS = Settings(gate=GateSettings(champion="not_worse"))
ORIGIN = DataOrigin("mirrors", official=True, sha256=OFFICIAL_SHA256)
_BY = "tests/faults"

Objects = Mapping[str, bytes]
Act = Callable[[Store, Path], None]


class Broken(AssertionError):
    """An invariant does not hold; the message says which, and for what."""


@dataclass(frozen=True)
class Place:
    """A store, and the environment that it is reached with."""

    url: str
    environment: Mapping[str, str]

    def open(self) -> Store:
        """The store, in a process that knows no other settings."""
        for name in list(os.environ):
            if name.startswith(("AWS_", "FMNIST_")):
                del os.environ[name]
        os.environ.update(self.environment)
        return open_store(self.url)


def environment_of(server: S3Server) -> dict[str, str]:
    """The environment of a client that knows this server and nothing of the user's."""
    return server.environment() | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@dataclass(frozen=True)
class Scenario:
    """Something that is done to a store, and what it makes of the champion.

    `start` names the content of the store it begins with. `complete` are the runs that the store
    has in the end. `old` is the champion before, `new` the one after it, and `moves` by how much it
    raises the generation. `judged` is how many models the test set has judged in the end, and `held`
    whether the champion is held then.
    """

    start: str
    act: Act
    complete: Set[str]
    old: str | None = FIRST
    new: str = FIRST
    moves: int = 1
    judged: int = 2
    held: bool = False


# ---- acts ---------------------------------------------------------------------------------------


@functools.cache
def test_set_in(folder: Path) -> TestSet:
    """The test images that every network here is judged on."""
    with np.load(folder / "test.npz") as test:
        images, labels = test["images"], test["labels"]
    return TestSet(labels, records.CLASS_NAMES, ORIGIN.test_set, scorer(images), digests_of(images))


def _sealed(folder: Path, run_id: str) -> Path:
    return folder / run_id / "run"


def _publish(run_id: str) -> Act:
    def publish(store: Store, folder: Path) -> None:
        run: Run = pickle.loads((folder / run_id / "run.pickle").read_bytes())
        judge = _judge(run_id, store, folder)
        record_use(store, judge.test_set.digest, run_id)
        publish_run(run, _sealed(folder, run_id), judge)

    return publish


def _judge(run_id: str, store: Store, folder: Path) -> Judge:
    return Judge(store, test_set_in(folder), _SETTINGS.gate, run_id, conditional_writes=True)


def _roll_back(store: Store, folder: Path) -> None:
    roll_back(store, FIRST, reason="it was better", by=_BY)


def _hold(store: Store, folder: Path) -> None:
    set_hold(store, held=True, reason="it stays", by=_BY)


def _release(store: Store, folder: Path) -> None:
    set_hold(store, held=False, reason="it may go", by=_BY)


def _prune(store: Store, folder: Path) -> None:
    # A day later, when none of them can be on its way to be the champion any more.
    prune_store(store, keep=1, now=datetime.now(UTC) + 2 * GRACE, by=_BY)


def _count(store: Store, folder: Path) -> None:
    record_use(store, test_set_in(folder).digest, SECOND)


SCENARIOS = {
    "first promotion": Scenario("empty", _publish(FIRST), {FIRST}, old=None, new=FIRST, judged=1),
    "replacement": Scenario("first", _publish(SECOND), {FIRST, SECOND}, new=SECOND),
    "replacement, decided again": Scenario(
        "first", _publish(OVERTAKEN), {FIRST, OVERTAKEN}, new=OVERTAKEN
    ),
    "the same model again": Scenario("first", _publish(AGAIN), {FIRST, AGAIN}, new=AGAIN),
    "rejected run": Scenario("first", _publish(POOR), {FIRST, POOR}, moves=0),
    "publication after a failure": Scenario(
        "half of the second", _publish(SECOND), {FIRST, SECOND}, new=SECOND
    ),
    "rollback": Scenario("second", _roll_back, {FIRST, SECOND}, old=SECOND, held=True),
    "hold": Scenario("first", _hold, {FIRST}, judged=1, held=True),
    "release": Scenario("held", _release, {FIRST}, judged=1),
    "passing run, champion held": Scenario(
        "held", _publish(SECOND), {FIRST, SECOND}, moves=0, held=True
    ),
    "prune": Scenario("third", _prune, {SECOND, THIRD}, old=THIRD, new=THIRD, judged=3),
    "count of uses": Scenario("first", _count, {FIRST}, moves=0),
}


# ---- making -------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Make the networks, the finished runs and the contents of the stores that scenarios need."""
    subprocess.run(
        [sys.executable, "-m", "tests.faults.networks", str(folder)],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
        check=True,
        capture_output=True,
    )
    _check_scorer(folder)
    store = MemoryStore()
    contents = {"empty": dict(store.objects)}
    _finish(OVERTAKEN, store, folder)
    _finish(FIRST, store, folder)
    _publish(FIRST)(store, folder)
    contents["first"] = dict(store.objects)
    held = copy.deepcopy(store)
    _hold(held, folder)
    contents["held"] = dict(held.objects)
    _finish(AGAIN, store, folder)
    _finish(POOR, store, folder)
    _finish(SECOND, store, folder)
    _publish(SECOND)(store, folder)
    contents["second"] = dict(store.objects)
    files = sorted(key for key in store.objects if SECOND in key and keys.MANIFEST not in key)
    half = {key: store.objects[key] for key in files[: len(files) // 2]}
    contents["half of the second"] = contents["first"] | half
    _finish(THIRD, store, folder)
    _publish(THIRD)(store, folder)
    contents["third"] = dict(store.objects)
    (folder / "contents.pickle").write_bytes(pickle.dumps(contents))


def _check_scorer(folder: Path) -> None:
    """NumPy must predict what Keras does, or nothing here would be the read-back of a model."""
    with np.load(folder / "test.npz") as test:
        score = scorer(test["images"])
        for path in folder.glob("*.keras"):
            found = score(path.read_bytes()).argmax(axis=1)
            assert (found == test[path.stem]).all(), f"{path.stem} is not scored as Keras does"


def _finish(run_id: str, store: Store, folder: Path) -> None:
    """A finished run's folder and record, judged against the champion of this store."""
    model = (folder / f"{_NETWORKS[run_id]}.keras").read_bytes()
    judge = _judge(run_id, copy.deepcopy(store), folder)
    found = judge.judge(model, seen_generation=0)
    assert found.verdict.promoted is (run_id != POOR), found.verdict
    fingerprint = digest_of(_NETWORKS[run_id].encode())
    run = records.run(run_id=run_id, settings=_SETTINGS)
    run = replace(run, data=ORIGIN, fingerprint=fingerprint, **vars(found))
    sealed = _sealed(folder, run_id)
    (sealed / "figures").mkdir(parents=True)
    # What the registry reads, and a figure for the rest: each further file is the same step again.
    contents = {
        keys.MODEL: model,
        keys.EVALUATION: to_json(run.evaluation),
        keys.DATA: to_json(run.data),
        "figures/learning_curves.png": run_id.encode() * 1000,
    }
    for name, content in contents.items():
        (sealed / name).write_bytes(content)
    seal_run(sealed, run_id, run.started_at, fingerprint)
    (folder / run_id / "run.pickle").write_bytes(pickle.dumps(run))


@functools.cache
def _contents(folder: Path) -> Mapping[str, Objects]:
    found: Mapping[str, Objects] = pickle.loads((folder / "contents.pickle").read_bytes())
    return found


@functools.cache
def _files(folder: Path) -> Objects:
    """Every file that any run may have in a store, by its key."""
    return {
        f"{keys.of_run(run_id)}/{name}": (_sealed(folder, run_id) / name).read_bytes()
        for run_id in _NETWORKS
        for name in files_in(_sealed(folder, run_id))
    }


# ---- looking ------------------------------------------------------------------------------------


def prepare(name: str, place: Place, folder: Path) -> None:
    """Bring an empty place to where a scenario starts."""
    store = place.open()
    for key, content in _contents(folder)[SCENARIOS[name].start].items():
        if isinstance(store, FolderStore):
            path = Path(place.url) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            store.put_if_absent(key, content)


def examine(name: str, place: Place, folder: Path) -> str:
    """What is wrong with a store in which a scenario was interrupted; nothing, if all is well.

    A fresh reader must find the complete old or new champion and a history without gaps or
    branches, and a fresh publisher must succeed with the same act, with the same result as if
    nothing had happened.
    """
    scenario, store = SCENARIOS[name], place.open()
    known: dict[tuple[str, Entry], bytes] = {}
    who = "a fresh reader"
    try:
        _check_readable(scenario, store, folder, known)
        who = "a fresh publisher"
        scenario.act(store, folder)
        who = "a reader after the fresh publisher"
        _check_readable(scenario, store, folder, known, finished=True)
    except Exception as error:
        return f"{who}: {type(error).__name__}: {error}"
    return ""


def _check_readable(
    scenario: Scenario,
    store: Store,
    folder: Path,
    known: dict[tuple[str, Entry], bytes],
    *,
    finished: bool = False,
) -> None:
    before = _contents(folder)[scenario.start]
    old = from_json(ChampionRecord, before[keys.CHAMPION], "") if before else None
    generation = generation_of(old)
    found = _read_all(store, folder, known)
    stored = MemoryStore()
    stored.objects = dict(found)

    current = current_champion(stored)
    if current is not None:
        _check_champion(store, current, folder)
    moved = generation_of(current) - generation
    if moved not in ({scenario.moves} if finished else {0, scenario.moves}):
        raise Broken(f"the generation rose by {moved}")
    if not moved and found.get(keys.CHAMPION) != before.get(keys.CHAMPION):
        raise Broken("the champion record was changed within its generation")
    if (current.run_id if current else None) != (scenario.new if moved else scenario.old):
        raise Broken(f"the champion is {current}")
    if current and current.held != (scenario.held if moved or not old else old.held):
        raise Broken(f"the champion's hold is not the one of the move: {current}")
    check_history(stored, current, found)

    complete = _complete_runs(stored, found)
    if finished and complete != scenario.complete:
        raise Broken(f"the complete runs are {sorted(complete)}")
    gone = {run for run in _NETWORKS if any(f"/{run}/" in key for key in found)} - scenario.complete
    if finished and gone:
        raise Broken(f"there is something left of {sorted(gone)}")
    _check_fingerprints(stored, complete, found, finished=finished)
    judged = _judged(found)
    if judged not in ({scenario.judged} if finished else {_judged(before), scenario.judged}):
        raise Broken(f"the test set has judged {judged} models")


def _read_all(store: Store, folder: Path, known: dict[tuple[str, Entry], bytes]) -> Objects:
    """Every object that can be seen; each must be a complete one that belongs there.

    `known` has what was read before of files that never change, so as to read them only once.
    """
    objects = {}
    for key, entry in store.list_entries("").items():
        content = known.get((key, entry)) or store.read(key)
        if content is None:
            raise Broken(f"{key} is listed and cannot be read")
        objects[key] = content
        if key.startswith(keys.RUNS):
            known[key, entry] = content
            if content != _files(folder).get(key):
                raise Broken(f"{key} is a file of no run, or not complete")
        elif key == keys.CHAMPION or key.startswith(keys.HISTORY):
            from_json(ChampionRecord, content, key)
        elif key.startswith(keys.TEST_SETS):
            from_json(TestSetUsage, content, key)
        elif key.startswith(keys.FINGERPRINTS):
            from_json(FingerprintedRun, content, key)
        elif key.startswith(keys.VERDICTS):
            from_json(Verdict, content, key)
        else:
            raise Broken(f"{key} is nothing that belongs there")
    return objects


def _check_champion(store: Store, current: ChampionRecord, folder: Path) -> None:
    """A reader of the champion gets the very files that were published."""
    champion, files = read_champion(store)
    if champion != current:
        raise Broken(f"the champion read is {champion}, the record is {current}")
    prefix, everything = f"{keys.of_run(current.run_id)}/", _files(folder)
    published = {key: content for key, content in everything.items() if key.startswith(prefix)}
    if {f"{prefix}{name}": content for name, content in files.items()} != published:
        raise Broken(f"the champion {current.run_id} is not the one that was published")


def check_history(
    store: Store, current: ChampionRecord | None, found: Mapping[str, bytes | None]
) -> None:
    """The history has no gap, no branch and no run that was promoted twice."""
    history = list(champion_history(store))
    generations = [past.generation for past in history]
    if generations != list(range(generation_of(current), 0, -1)):
        raise Broken(f"the history has the generations {generations}")
    for later, earlier in itertools.pairwise(history):
        if later.previous != earlier.run_id:
            raise Broken(f"generation {later.generation} does not follow the one before it")
    promoted = [past.run_id for past in history if past.move == "promotion"]
    if len(promoted) != len(set(promoted)):
        raise Broken(f"a run was promoted twice: {promoted}")
    kept = {key for key in found if key.startswith(keys.HISTORY)}
    earlier_ones = {keys.of_generation(past.generation) for past in history[1:]}
    # The champion record may have been copied ahead of a move that did not come.
    copy = keys.of_generation(generation_of(current))
    if kept - {copy} != earlier_ones:
        raise Broken(f"the history has the objects {sorted(kept)}")
    if copy in kept and found[copy] != found[keys.CHAMPION]:
        raise Broken(f"{copy} is not the champion record: the history has a branch")


def _complete_runs(store: Store, found: Objects) -> Set[str]:
    """The runs that have a manifest, each of which must be complete."""
    complete = set()
    for run_id in list_run_ids(store):
        run = find_run(store, run_id)
        if run is None:
            continue
        complete.add(run_id)
        for name in run.manifest.files:
            read_file(store, run, name)
        prefix = f"{keys.of_run(run_id)}/"
        listed = {key.removeprefix(prefix) for key in found if key.startswith(prefix)}
        if listed != {*run.manifest.files, keys.MANIFEST}:
            raise Broken(f"{run_id} has the files {sorted(listed)}")
    return complete


def _check_fingerprints(
    store: Store, complete: Set[str], found: Objects, *, finished: bool
) -> None:
    """Each object names a complete run of its fingerprint; in the end each run can be found.

    So whatever was lost, there is one training too many, and never one too few.
    """
    of = {run_id: digest_of(_NETWORKS[run_id].encode()) for run_id in complete}
    promoted = {past.run_id for past in champion_history(store)}
    for key in (key for key in found if key.startswith(keys.FINGERPRINTS)):
        named = from_json(FingerprintedRun, found[key], key)
        if key != keys.of_fingerprint(of.get(named.run_id, "")):
            raise Broken(f"{key} names {named.run_id}, which is not complete or another model")
        if named.verdict.promoted is not (named.run_id in promoted):
            raise Broken(f"{key} has another verdict than was reached: {named.verdict.reason}")
    lost = {
        fingerprint for fingerprint in of.values() if not find_by_fingerprint(store, fingerprint)
    }
    if finished and lost:
        raise Broken(f"nobody will find the runs with the fingerprints {sorted(lost)}")


def _judged(objects: Objects) -> int:
    """How many models the test set has judged; there is only one."""
    usages = [(key, content) for key, content in objects.items() if key.startswith(keys.TEST_SETS)]
    return sum(from_json(TestSetUsage, content, key).models for key, content in usages)
