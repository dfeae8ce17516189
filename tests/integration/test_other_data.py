"""Other images and other classes, by settings alone: the real flow trains, judges and publishes."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from fmnist import load_champion
from fmnist.cli.train import main
from fmnist.data.records import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from fmnist.errors import ExitCode
from fmnist.registry.champion import current_champion
from fmnist.store.folder import FolderStore
from tests.support.mirrors import idx, with_sums, write
from tests.support.processes import ROOT
from tests.support.records import learnable_images

FIVE = ("square", "circle", "cross", "star", "moon")
TWENTY = tuple(f"sign {number}" for number in range(20))


@dataclass(frozen=True)
class DataSet:
    """Four files in a folder, what their images look like, and the names of their classes."""

    folder: Path
    shape: tuple[int, int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """How the job ended, and the files of its run in the store."""

    code: ExitCode
    folder: Path

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name).read_text())
        return found

    @property
    def report(self) -> str:
        return (self.folder / "report.md").read_text()


def data_set(folder: Path, shape: tuple[int, int], names: tuple[str, ...]) -> DataSet:
    contents = {}
    for count, seed, images, labels in (
        (3000, 1, TRAIN_IMAGES, TRAIN_LABELS),
        (800, 2, TEST_IMAGES, TEST_LABELS),
    ):
        made = learnable_images(count, shape, len(names), seed)
        contents |= {images: idx(made.images), labels: idx(made.labels)}
    write(with_sums(contents), folder)
    return DataSet(folder, shape, names)


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a database of its own."""
    with prefect_test_harness(server_startup_timeout=180), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        yield


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images of 32 x 32 pixels in five classes."""
    return data_set(tmp_path_factory.mktemp("five"), (32, 32), FIVE)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images of 28 x 28 pixels in twenty classes."""
    return data_set(tmp_path_factory.mktemp("twenty"), (28, 28), TWENTY)


def publish(data: DataSet, store: Path, *options: str, names: tuple[str, ...] = ()) -> Published:
    before = set((store / "runs").glob("*"))
    code = main(
        str(ROOT / "flows" / "train.py"),
        [
            "--data.source", str(data.folder), "--data.class_names", ",".join(names or data.names),
            "--store.url", str(store), "--store.work", str(store.parent / "work"),
            "--model.hidden", "64", "--model.dropout", "0.02", "--training.epochs", "12", "--training.batch_size", "128",
            "--training.warmup_fraction", "0", *options,
        ]
    )  # fmt: skip
    (folder,) = set((store / "runs").glob("*")) - before
    return Published(code, folder)


@pytest.fixture(scope="module")
def champion(five: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A run on the images of five classes, the champion of a store of its own."""
    return publish(five, tmp_path_factory.mktemp("champion") / "store")


@pytest.fixture
def store(champion: Published, tmp_path: Path) -> Path:
    """A copy of that store for one test."""
    return shutil.copytree(champion.folder.parents[1], tmp_path / "store")


@pytest.mark.parametrize("kind", ["five", "twenty"])
def test_other_data_are_learned_published_and_compared(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The first run becomes the champion; the next one is compared with it on the same images."""
    data: DataSet = request.getfixturevalue(kind)
    store = tmp_path / "store"
    first = publish(data, store)
    assert first.code is ExitCode.OK, first.report
    network = load_champion(str(store))
    test = learnable_images(800, data.shape, len(data.names), 2)
    predicted = network.predict(test.images, verbose=0).argmax(axis=1)
    evaluation = first.read("evaluation.json")
    assert int((predicted == test.labels).sum()) == evaluation["correct"]
    assert np.asarray(evaluation["confusion"]).shape == (len(data.names), len(data.names))
    height, width = data.shape
    assert f"`(n, {height}, {width})` of 0 to 255, and returns {len(data.names)}" in first.report

    second = publish(data, store, "--training.seed", "1", "--gate.champion", "not_worse")
    found = second.read("comparison.json")
    assert (found["champion"], found["images"]) == (first.folder.name, 800)
    assert found["same_test_set"] is True
    assert second.code in (ExitCode.OK, ExitCode.REJECTED)


@pytest.mark.parametrize(
    ("policy", "code"), [("not_worse", ExitCode.REJECTED), ("off", ExitCode.OK)]
)
def test_a_champion_for_other_images_cannot_be_compared(
    policy: str, code: ExitCode, champion: Published, twenty: DataSet, store: Path
) -> None:
    """The report says what it takes; the run is rejected only where a comparison is required."""
    run = publish(twenty, store, "--gate.champion", policy)
    assert run.code is code
    reason = "its model takes 32 x 32 images, not 28 x 28"
    assert run.read("comparison.json") == {"champion": champion.folder.name, "reason": reason}
    assert f"{champion.folder.name} could not be scored: {reason}" in run.report
    current = current_champion(FolderStore(str(store)))
    assert current
    assert current.run_id == (run if code is ExitCode.OK else champion).folder.name


def test_a_champion_with_other_class_names_does_not_decide(five: DataSet, store: Path) -> None:
    """Under new names the same images are no proof, so the strictest policy is not applied."""
    renamed = tuple(name.upper() for name in five.names)
    run = publish(five, store, "--gate.champion", "better", names=renamed)
    assert run.code is ExitCode.OK
    assert run.read("comparison.json")["same_test_set"] is False
    assert "this is shown and does not decide" in run.report


def test_what_has_changed_since_the_champions_data_is_recorded_and_flagged(
    champion: Published,
    five: DataSet,
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Darker images and fewer of a class: in `data.json`, the report and one line of the log."""
    data = DataSet(shutil.copytree(five.folder, tmp_path / "data"), five.shape, five.names)
    made = learnable_images(3000, five.shape, len(FIVE), 1)
    kept = (made.labels != 4) | (np.arange(3000) % 3 == 0)
    train = {TRAIN_IMAGES: idx(made.images[kept] // 2), TRAIN_LABELS: idx(made.labels[kept])}
    test = {name: (data.folder / name).read_bytes() for name in (TEST_IMAGES, TEST_LABELS)}
    write(with_sums(train | test), data.folder)
    with caplog.at_level("WARNING", "fmnist"):
        run = publish(data, store, "--gate.min_accuracy", "0")
    assert run.code is ExitCode.OK
    before, now = (each.read("data.json") for each in (champion, run))
    assert [one["training"] + one["validation"] for one in now["statistics"]["classes"]] == [
        *(600,) * 4,
        200,
    ]
    assert before["statistics"]["test_brightness"] == now["statistics"]["test_brightness"]
    change = now["change"]
    assert before["change"] is None and change["champion"] == champion.folder.name
    learned, tested = change["sets"]
    assert learned["cramers_v"] > 0.1 and learned["ks_distance"] > 0.9
    assert learned["most_changed"][0]["name"] == "moon"
    assert tested["cramers_v"] == tested["ks_distance"] == 0
    assert run.report.count("**Notable change** in the ") == 2
    assert "![Mean image of each class](figures/mean_images.png)" in run.report
    (line,) = (message for message in caplog.messages if message.startswith("the data differ"))
    assert champion.folder.name in line and "moon 20.0% to 7.7%" in line

    again = publish(data, store, "--gate.min_accuracy", "0")
    assert "they are the very same files" in again.read("data.json")["change"]["reason"]
