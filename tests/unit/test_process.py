"""What a signal does in a block that must not, or must, be interrupted."""

import signal

import pytest

from fmnist import process
from fmnist.tensorflow_import import quiet_tensorflow_import


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_of_tensorflow_is_interrupted_only_after_its_end(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, its native code may turn the interrupt into an `ImportError`."""
    monkeypatch.setattr(process, "_command", process._Command())
    imported = False
    with pytest.raises(KeyboardInterrupt), process.interruptible():
        with quiet_tensorflow_import():
            signal.raise_signal(number)
            imported = True
        pytest.fail("the signal was lost")
    assert imported
