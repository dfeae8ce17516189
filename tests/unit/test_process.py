"""What a signal does in a block that must not, or must, be interrupted."""

import signal
import time

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_error_that_an_interrupt_has_caused_counts_as_the_interrupt(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native code that is interrupted as it loads raises an `ImportError`."""
    monkeypatch.setattr(process, "_command", process._Command())
    with pytest.raises(KeyboardInterrupt), process.interruptible():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None


def test_an_interrupt_that_a_finalizer_swallows_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python only reports what a finalizer raises, and goes on."""

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(process, "_command", process._Command())
    with pytest.raises(KeyboardInterrupt), process.interruptible():
        Interrupted()
        time.sleep(10)
        pytest.fail("the signal was lost")


def test_an_error_that_no_signal_has_caused_is_raised_as_it_is() -> None:
    """A defect must not pass for an interrupt."""
    with pytest.raises(ImportError), process.interruptible():
        raise ImportError("no such module")
