"""Model files that are damaged or made to deceive: each is refused, and no code in it runs."""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from fmnist.errors import DamagedError, ExitCode
from fmnist.training.model_file import load_model_bytes
from tests.support.processes import run_program

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
Change = Callable[[bytes], bytes]


def saved(network: keras.Model, path: Path = Path("saved.keras")) -> bytes:
    network.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a small network that could be ours."""
    hidden = [layers.Flatten(), layers.Dense(8), layers.LeakyReLU()]
    last = layers.Dense(10, activation="softmax")
    network = keras.Sequential([keras.Input((28, 28)), *hidden, last])
    content = saved(network, tmp_path_factory.mktemp("good") / "model.keras")
    load_model_bytes(content)
    return content


def replaced(old: str, new: str) -> Change:
    """What puts one text in the place of another that must be there."""

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def members(changes: Mapping[str, Change | None]) -> Change:
    """What changes some members of the archive, or leaves them out."""

    def change(content: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
            for name in old.namelist():
                if changed := changes.get(name, lambda same: same):
                    new.writestr(name, changed(old.read(name)))
        return made.getvalue()

    return change


def popen_for_relu(content: bytes) -> bytes:
    content = replaced('"class_name": "LeakyReLU"', '"class_name": "Popen"')(content)
    return replaced('"module": "keras.layers"', '"module": "subprocess"')(content)


class Malice:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("code-ran"),)


class Foreign(layers.Layer):
    """A layer that nobody but its author has."""

    def call(self, x: object) -> object:
        """Do nothing."""
        return x


def with_a_lambda(_: bytes) -> bytes:
    images = keras.Input((28, 28))
    leave = layers.Lambda(lambda x: (__import__("pathlib").Path("code-ran").touch(), x)[1])
    content = saved(keras.Model(images, leave(images)))
    Path("code-ran").unlink()
    return content


IMAGES, MORE, COLOURED = keras.Input((28, 28)), keras.Input((28, 28)), keras.Input((32, 32, 3))


def ten(x: Any) -> Any:
    """Ten classes, from anything."""
    return layers.Dense(10)(layers.Flatten()(x))


def network(inputs: Any, outputs: Any) -> Change:
    """What puts another network in the place of a good one."""
    return lambda _: saved(keras.Model(inputs, outputs))


def with_a_bit_flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[changed.index(b'"module"')] ^= 1
    return bytes(changed)


# What is done to a good file, and what the message must say of it.
BAD: dict[str, tuple[Change, str]] = {
    "a class of another library": (members({CONFIG: popen_for_relu}), ""),
    "nothing of ours": (members({CONFIG: None, WEIGHTS: None, METADATA: None}), ""),
    "no config": (members({CONFIG: None}), ""),
    "no weights": (members({WEIGHTS: None}), ""),
    "a config that is not JSON": (members({CONFIG: lambda _: b"{"}), ""),
    "a config that is a list": (members({CONFIG: lambda _: b"[]"}), ""),
    "a nested config": (members({CONFIG: lambda _: b"[" * 10**5 + b"]" * 10**5}), ""),
    "weights that are not HDF5": (members({WEIGHTS: lambda _: b"\x89HDF\r\n\x1a\n"}), ""),
    "weights cut short": (members({WEIGHTS: lambda old: old[: len(old) // 2]}), ""),
    "a pickle for weights": (members({WEIGHTS: lambda _: pickle.dumps(Malice())}), ""),
    "other weights": (members({CONFIG: replaced('"units": 8', '"units": 9')}), ""),
    "an impossible width": (members({CONFIG: replaced('"units": 8', '"units": -8')}), ""),
    "cut in half": (lambda old: old[: len(old) // 2], ""),
    "without its end": (lambda old: old[:-10], ""),
    "a pickle": (lambda _: pickle.dumps(Malice()), "not a zip file"),
    "empty": (lambda _: b"", "not a zip file"),
    "a bit flipped": (with_a_bit_flipped, ""),
    "a lambda": (with_a_lambda, "Lambda"),
    "a foreign layer": (network(IMAGES, ten(Foreign()(IMAGES))), "Could not locate class"),
    "coloured images": (
        network(COLOURED, ten(COLOURED)),
        "it maps (None, 32, 32, 3) to (None, 10)",
    ),
    "no classes": (
        network(IMAGES, layers.Dense(11)(IMAGES)),
        "it maps (None, 28, 28) to (None, 28, 11)",
    ),
    "two inputs": (network([IMAGES, MORE], ten(layers.Add()([IMAGES, MORE]))), "it maps"),
    "two outputs": (network(IMAGES, [ten(IMAGES), ten(IMAGES)]), "it maps"),
}


@pytest.mark.parametrize(("change", "told"), BAD.values(), ids=BAD.keys())
def test_a_bad_model_file_is_refused_and_no_code_in_it_runs(
    change: Change, told: str, good: bytes
) -> None:
    """Whatever is wrong with it, it is damage, told in one line with the reason."""
    with pytest.raises(DamagedError, match="model.keras holds no network of this pr") as caught:
        load_model_bytes(change(good))
    message = str(caught.value)
    assert told in message
    assert "\n" not in message and len(message) < 400 and not message.endswith(": ")
    assert caught.value.exit_code == ExitCode.DAMAGED and not caught.value.retryable
    assert not Path("code-ran").exists()


def test_a_small_file_that_unpacks_to_half_a_gigabyte_is_not_unpacked(
    good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by what its directory announces, before it fills memory or disk."""
    made = io.BytesIO(good)
    with (
        zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("assets/zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(520):
            member.write(bytes(2**20))
    assert len(made.getvalue()) < 8 * 2**20
    monkeypatch.setattr(
        "keras.src.saving.saving_lib.load_model", lambda *_, **__: pytest.fail("it was unpacked")
    )
    with pytest.raises(DamagedError, match=r"unpacks to 5\d\d,\d{3},\d{3} bytes"):
        load_model_bytes(made.getvalue())


def huge_activations(_: bytes) -> bytes:
    enlarged = layers.UpSampling2D(500)(layers.Reshape((28, 28, 1))(IMAGES))
    return saved(keras.Model(IMAGES, ten(layers.MaxPooling2D(500)(enlarged))))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (members({CONFIG: replaced('"units": 8', '"units": 3000000')}), "2,355,000,000 parameters"),
        (huge_activations, "makes 196,000,000 values of an image"),
    ],
    ids=["weights", "activations"],
)
def test_a_small_file_that_asks_for_gigabytes_is_refused_before_they_are_taken(
    change: Change, told: str, tmp_path: Path
) -> None:
    """What its network would need is counted from its description."""
    wide = keras.Sequential([keras.Input((28, 28)), layers.Flatten(), layers.Dense(8)])
    (tmp_path / "hostile.keras").write_bytes(change(saved(wide, tmp_path / "wide.keras")))
    program = """
import pathlib, resource, sys
from fmnist.errors import DamagedError
from fmnist.training.model_file import load_model_bytes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_model_bytes(pathlib.Path("hostile.keras").read_bytes())
except DamagedError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = run_program("-c", program)
    *message, kilobytes = done.stdout.splitlines()
    assert told in " ".join(message), done.stderr
    assert int(kilobytes) < 300_000


def test_a_file_with_more_than_a_network_in_it_is_refused(good: bytes) -> None:
    """Keras would unpack the other files into a temporary folder."""
    made = io.BytesIO(good)
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("assets/vocabulary.txt", "word")
    with pytest.raises(DamagedError, match=r"it has a file 'assets/vocabulary.txt'"):
        load_model_bytes(made.getvalue())
