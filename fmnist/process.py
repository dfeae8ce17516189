"""How the process of a command starts and ends: its standard streams, and what signals do.

After SIGINT or SIGTERM it has ended within ten seconds, with one line and exit code 130. Only the
first signal counts, and what is in its way is given up: a file half-read, a server that is silent.
"""

import atexit
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fmnist.errors import ExitCode, StoreError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_END = 8.0  # seconds
_PAUSE = 0.05
_START = time.monotonic()


@dataclass
class _Command:
    """What is known of the command, in plain values: signals can interrupt a signal's handler.

    Attributes:
        started: whether it has started, so that a signal bounds how long it may take to end.
        asked_to_end: whether a signal has come since.
        code: its exit code, as soon as its last line is out.
    """

    started: bool = False
    asked_to_end: bool = False
    code: int | None = None


_command = _Command()


class _LossyFile(io.FileIO):
    """A standard stream that drops what it cannot write: nobody reads it, or its disk is full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def begin() -> None:
    """Prepare the process of a command, before it imports anything that takes long.

    A lost output, or one that cannot show a letter, changes nothing about what the command does. A
    signal ends it at once.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # It was closed, and the next file to be opened would take its place.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)
    end_at_once()
    # As the last of all, since Python gives up its handlers when it ends, but ignores on.
    atexit.register(_handle, signal.SIG_IGN)


def _stream(number: int, before: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_LossyFile(number, "w", closefd=False)),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace" if number == 2 else "replace",
        line_buffering=number == 2 or os.isatty(number),
    )


def check_current_folder() -> None:
    """Look before a program is started, which would end without a word.

    Raises:
        StoreError: the current folder has been deleted.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise StoreError(
            f"the current folder cannot be used ({error.strerror}); change to another one"
        ) from error


def end_at_once() -> None:
    """From now on, a signal ends the process at once: it does nothing yet that needs an end."""
    _handle(_exit)


def hold_back() -> None:
    """From now on, a signal waits for a block `interruptible`, or for the end of the process."""
    _handle(_note)


def start_command() -> None:
    """Hold signals back; after one, the command that starts here ends within ten seconds."""
    _command.asked_to_end, _command.code = False, None
    _command.started = True
    hold_back()


def end_command(code: int) -> None:
    """The command's last line is out: a signal only hurries what is left to be done."""
    _command.code = code


def leave(code: int) -> NoReturn:
    """End the process without taking apart what is in its memory, which takes seconds."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` in this block at the first signal, and ignore any that follow.

    Code that is interrupted, such as native code that calls back into Python, may raise an error of
    its own instead; that leaves the block as a `KeyboardInterrupt` too. In threads other than the
    main one, which get no signals, the block changes nothing.
    """
    if not _in_main_thread():
        yield
        return
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        _note()
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    def interrupt_again(swallowed: Any) -> None:
        nonlocal interrupted
        if swallowed.exc_type is not KeyboardInterrupt:
            report(swallowed)
            return
        interrupted = False
        threading.Timer(_PAUSE, os.kill, (os.getpid(), signal.SIGINT)).start()

    before, report = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is _note and _command.asked_to_end:
        raise KeyboardInterrupt
    _handle(interrupt)
    # A finalizer, in which the signal may find the program, swallows what it raises.
    sys.unraisablehook = interrupt_again
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        interrupted = True
        sys.unraisablehook = report
        # SIGTERM stays ignored until Prefect, which catches it around a flow, restores what was.
        signal.signal(signal.SIGINT, before)


def is_asked_to_end() -> bool:
    """Whether a signal has come since the command started."""
    return _command.asked_to_end


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a signal back until the end of this block, such as an import that it would break."""
    if not _in_main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        _note()

    before = [signal.getsignal(number) for number in _SIGNALS]
    _handle(remember)
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handle(handler: Callable[..., None] | signal.Handlers) -> None:
    if _in_main_thread():
        for number in _SIGNALS:
            signal.signal(number, handler)


def _note(*_: object) -> None:
    if _command.started and not _command.asked_to_end:
        _command.asked_to_end = True
        watchdog = threading.Timer(_LONGEST_END, _exit)
        watchdog.daemon = True
        watchdog.start()


def _exit(*_: object) -> None:
    if _command.code is None:
        after = f"after {time.monotonic() - _START:.0f} s"
        line = f"interrupted  {after}\n"
        if "--json" in sys.argv:
            code = int(ExitCode.INTERRUPTED)
            line = f'{{"ok": false, "exit_code": {code}, "kind": "interrupted", '
            line += f'"message": "{after}"}}\n'
        with suppress(OSError):
            os.write(1, line.encode())
    os._exit(ExitCode.INTERRUPTED if _command.code is None else _command.code)
