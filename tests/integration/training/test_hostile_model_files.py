"""Model files made to deceive: their pieces are changed one at a time, and each is refused."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from fmnist.errors import DamagedError, ExitCode
from fmnist.training.model_file import load_model_bytes

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
Change = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a small network that could be ours."""
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Flatten(),
            layers.Dense(8),
            layers.LeakyReLU(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    path = tmp_path_factory.mktemp("good") / "model.keras"
    network.save(path)
    load_model_bytes(path.read_bytes())
    return path.read_bytes()


def replaced(old: str, new: str) -> Change:
    """What puts one text in the place of another that must be there."""

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def foreign_class(content: bytes) -> bytes:
    """A configuration that names a class outside Keras."""
    content = replaced('"class_name": "LeakyReLU"', '"class_name": "Popen"')(content)
    return replaced('"module": "keras.layers"', '"module": "subprocess"')(content)


class Malice:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("code-ran"),)


MEMBERS: dict[str, dict[str, Change | None]] = {
    "a class of another library": {CONFIG: foreign_class},
    "nothing of ours": {CONFIG: None, WEIGHTS: None, METADATA: None},
    "no config": {CONFIG: None},
    "no weights": {WEIGHTS: None},
    "a config that is not JSON": {CONFIG: lambda _: b"{"},
    "a config that is a list": {CONFIG: lambda _: b"[]"},
    "a deeply nested config": {CONFIG: lambda _: b"[" * 10**5 + b"]" * 10**5},
    "weights that are not HDF5": {WEIGHTS: lambda _: b"\x89HDF\r\n\x1a\n"},
    "weights cut short": {WEIGHTS: lambda old: old[: len(old) // 2]},
    "a pickle for weights": {WEIGHTS: lambda _: pickle.dumps(Malice())},
    "another network's weights": {CONFIG: replaced('"units": 8', '"units": 9')},
    "an impossible width": {CONFIG: replaced('"units": 8', '"units": -8')},
}
WHOLES: dict[str, Change] = {
    "cut in half": lambda old: old[: len(old) // 2],
    "without its end": lambda old: old[:-10],
    "a pickle": lambda _: pickle.dumps(Malice()),
}


def refuse(content: bytes) -> None:
    """Make sure that it is reported as damage in one line, and that no code in it ran."""
    with pytest.raises(DamagedError, match="model.keras holds no network") as caught:
        load_model_bytes(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert caught.value.exit_code == ExitCode.DAMAGED
    assert not Path("code-ran").exists()


@pytest.mark.parametrize("changes", MEMBERS.values(), ids=MEMBERS.keys())
def test_an_archive_with_a_changed_member_is_refused(
    changes: dict[str, Change | None], good: bytes
) -> None:
    """Whichever piece is missing, damaged or exchanged, it is damage, and no code runs."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            change = changes.get(name, lambda same: same)
            if change:
                new.writestr(name, change(old.read(name)))
    refuse(made.getvalue())


@pytest.mark.parametrize("change", WHOLES.values(), ids=WHOLES.keys())
def test_a_file_that_is_not_a_complete_archive_is_refused(change: Change, good: bytes) -> None:
    """Whatever was cut off or put in its place, it is damage, and no code runs."""
    refuse(change(good))


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    """Only one set of probabilities can be judged."""
    images = keras.Input((28, 28))
    flat = keras.layers.Flatten()(images)
    outputs = [keras.layers.Dense(10, activation="softmax")(flat) for _ in range(2)]
    keras.Model(images, outputs).save(tmp_path / "two.keras")
    refuse((tmp_path / "two.keras").read_bytes())


def test_a_small_file_that_unpacks_to_half_a_gigabyte_is_refused(good: bytes) -> None:
    """It is refused by what its directory announces, before it fills the memory."""
    made = io.BytesIO(good)
    with (
        zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("assets/zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(520):
            member.write(bytes(2**20))
    assert len(made.getvalue()) < 8 * 2**20
    refuse(made.getvalue())
