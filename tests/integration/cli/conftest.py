"""Small data, real stores with runs, and the console commands in this process."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmnist.cli.app import main
from fmnist.data.records import FILES, Bytes, DataOrigin
from fmnist.errors import ExitCode
from fmnist.evaluation.gate import GateContext, Verdict, decide
from fmnist.evaluation.metrics import evaluate
from fmnist.evaluation.records import Evaluation
from fmnist.registry import keys
from fmnist.registry.champion import current_champion, generation_of, promote_run
from fmnist.registry.records import FileEntry, StoredRun, to_json
from fmnist.registry.runs import read_run, seal_run, upload_run
from fmnist.report.run import Run
from fmnist.settings import DataSettings, GateSettings, ModelSettings, Settings, StoreSettings
from fmnist.store.base import Store, open_store
from tests.support import records
from tests.support.mirrors import digest, idx, with_sums, write

IMAGES = 400
LABELS: Bytes = np.resize(np.arange(10, dtype=np.uint8), IMAGES)
NAMES = records.CLASS_NAMES
Put = Callable[..., StoredRun]


def run_id(number: int) -> str:
    """The ids of runs, one a day, in the order of time."""
    return f"202603{number:02d}T092653Z-0a1b2c3d"


def images(noise: int = 0) -> Bytes:
    """Images that show their class by the place of a bright bar."""
    drawn = np.random.default_rng(noise).integers(0, 60, (IMAGES, 28, 28), np.uint8)
    for place, label in enumerate(LABELS):
        drawn[place, :, 2 * label : 2 * label + 3] = 200
    return drawn


def write_data(folder: Path, noise: int) -> Path:
    """Four files of a data set, with their SHA256SUMS."""
    files = {
        name: idx(LABELS if "labels" in name else images(noise + ("train" in name)))
        for name in FILES
    }
    return write(with_sums(files), folder)


@dataclass(frozen=True)
class Network:
    """A saved network, and what it reaches on the test images."""

    content: bytes
    evaluation: Evaluation


@dataclass(frozen=True)
class World:
    """A data set, two networks that know it (`good`, `better`), and one that does not (`poor`)."""

    data: Path
    other_data: Path
    origin: DataOrigin
    good: Network
    better: Network
    poor: Network

    def run_of(self, network: Network) -> dict[str, Any]:
        """What `sealed` needs to know of a run that made this network."""
        return {"model": network.content, "evaluation": network.evaluation, "origin": self.origin}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Small data, and networks made for them."""
    import keras

    from fmnist.training.model_file import predict
    from fmnist.training.network import build

    folder = tmp_path_factory.mktemp("world")
    data, other = write_data(folder / "data", 0), write_data(folder / "other", 50)

    def made(epochs: int, seed: int) -> Network:
        keras.utils.set_random_seed(seed)
        network = build(ModelSettings(hidden=(16,), dropout=(0.0,)), (28, 28), 10)
        network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        network.fit(images(1), LABELS, batch_size=50, epochs=epochs, verbose=0)
        network.save(folder / "model.keras")
        content = (folder / "model.keras").read_bytes()
        return Network(content, evaluate(predict(network, images(0)), LABELS, NAMES))

    sums = {name: digest((data / name).read_bytes()) for name in FILES}
    origin = DataOrigin(str(data), False, sums)
    found = World(data, other, origin, made(12, 1), made(30, 2), made(0, 3))
    assert found.good.evaluation.accuracy > 0.95 > 0.5 > found.poor.evaluation.accuracy
    return found


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.minio)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store of the settings: a folder that is not there yet, or a new bucket's prefix."""
    url = str(tmp_path / "models")
    if request.param == "s3":
        url = f"s3://{request.getfixturevalue('bucket')}/team"
    monkeypatch.setenv("FMNIST_STORE__URL", url)
    return url


def sealed(
    folder: Path,
    name: str,
    *,
    model: bytes = b"model",
    evaluation: Evaluation | None = None,
    gate: GateSettings | None = None,
    origin: DataOrigin | None = None,
    undecided: bool = False,
) -> Run:
    """A finished run's folder, without its figures."""
    # Whatever the environment of the commands says.
    settings = Settings(gate=gate or GateSettings(), data=DataSettings(), store=StoreSettings())
    run = records.run(run_id=name, settings=settings)
    found = evaluation or records.evaluation()
    verdict = decide(found, settings.gate, GateContext(found.images))
    if undecided:
        verdict = Verdict(False, (), "not decided yet: the store was away", decided=False)
    run = replace(run, evaluation=found, verdict=verdict, data=origin or run.data)
    folder.mkdir(parents=True)
    contents = {
        keys.MODEL: model,
        keys.EVALUATION: to_json(run.evaluation),
        keys.VERDICT: to_json(run.verdict),
        keys.SETTINGS: to_json(run.settings),
        keys.DATA: to_json(run.data),
        "report.md": b"# A report\n",
    }
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    seal_run(folder, name, datetime(2026, 3, int(name[6:8]), 9, 30, tzinfo=UTC))
    return run


@pytest.fixture
def store_run(tmp_path: Path) -> Put:
    """Publishes a made-up run, and promotes it if asked to."""

    def put(store: Store, name: str, *, promote: bool = False, **how: Any) -> StoredRun:
        folder = tmp_path / "sealed" / name
        run = sealed(folder, name, **how)
        stored = upload_run(store, folder)
        shutil.rmtree(folder)
        if promote:
            head = current_champion(store)
            verdict = replace(run.verdict, generation=generation_of(head))
            promote_run(
                store, stored, run.evaluation.accuracy, verdict, lambda _: verdict,
                by="flows/train.py",
            )  # fmt: skip
        return stored

    return put


@dataclass(frozen=True)
class Output:
    """What a command left: its code, the lines of standard output, and standard error."""

    code: ExitCode
    lines: list[str]
    error: str

    @property
    def last(self) -> str:
        """The line that sums it up."""
        return self.lines[-1]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def fails(self, code: ExitCode, *parts: str) -> None:
        """It ended with this code, and printed one line, of its kind and with these parts."""
        assert (self.code, len(self.lines)) == (code, 1)
        assert self.last.startswith(f"failed  -  {code.name.lower()}: ")
        for part in parts:
            assert part in self.last


Call = Callable[..., Output]
Machine = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process."""

    def run(*words: str) -> Output:
        code = main(words)
        out, error = capsys.readouterr()
        return Output(code, out.splitlines(), error)

    return run


@pytest.fixture
def machine(call: Call) -> Machine:
    """Runs a command for a machine: standard output must be one JSON document."""

    def run(*words: str) -> dict[str, Any]:
        output = call(*words, "--json")
        document: dict[str, Any] = json.loads(output.text)
        assert document["exit_code"] == output.code
        assert document["ok"] == (output.code == 0)
        return document

    return run


def champion_of(store: Store) -> str | None:
    champion = current_champion(store)
    return champion and champion.run_id


def overwrite(store: Store, key: str, content: bytes) -> None:
    """Put other bytes into an object, as no publisher would."""
    store.delete(key)
    store.put_if_absent(key, content)


def reseal(store: Store, name: str, contents: dict[str, bytes]) -> None:
    """Replace files of a stored run and its manifest with them, as another version might have."""
    run = read_run(store, name)
    files = dict(run.manifest.files)
    for file, content in contents.items():
        overwrite(store, f"runs/{name}/{file}", content)
        files[file] = FileEntry(len(content), digest(content))
    manifest = replace(run.manifest, files=files)
    overwrite(store, f"runs/{name}/manifest.json", to_json(manifest))


def put_networks(store: Store, put: Put, world: World) -> None:
    """The good network as the champion, then the poor one and the better one."""
    for number, network in ((1, world.good), (2, world.poor), (3, world.better)):
        put(store, run_id(number), promote=number == 1, **world.run_of(network))


@pytest.fixture
def networks(url: str, store_run: Put, world: World) -> Store:
    """The store of the settings, of either kind, with the three networks."""
    store = open_store(url)
    put_networks(store, store_run, world)
    return store
