"""A store in a folder that other processes use too, and are killed while they do."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fmnist.store.folder import FolderStore
from tests.support.store_contract import failure, replace


@contextmanager
def process_in_the_store(folder: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that does something with the store of this folder; killed at the end."""
    process = subprocess.Popen(
        [
            sys.executable, "-c",
            "import os, signal, sys, time\nfrom pathlib import Path\n"
            f"from fmnist.store.folder import FolderStore\nstore = FolderStore(sys.argv[1])\n{program}",
            str(folder),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = """
with store._lock():
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_lock_that_is_held_too_long_is_a_retryable_failure_until_its_holder_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the lock and what to do, nothing is written, and readers can go on."""
    monkeypatch.setattr("fmnist.store.folder._LONGEST_WAIT_FOR_LOCK", 0.2)
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("head", b"old")
    with process_in_the_store(tmp_path / "s", HOLD) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        for action in (lambda: replace(store, "head", b"new"), store.check):
            failure(
                action, str(tmp_path / "s" / ".lock"), "held by another process", "try again",
                retryable=True,
            )  # fmt: skip
        assert store.read("head") == b"old"
        store.put_if_absent("another", b"1")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        replace(store, "head", b"new")
    assert store.read("head") == b"new"


def test_a_process_that_is_killed_in_a_swap_leaves_the_old_content(tmp_path: Path) -> None:
    """A SIGKILL just before the new content gets its name harms neither readers nor writers."""
    store = FolderStore(str(tmp_path / "s"))
    store.put_if_absent("head", b"old")
    killed = """
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.compare_and_swap("head", store.get("head").version, b"theirs")
"""
    with process_in_the_store(tmp_path / "s", killed) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert store.read("head") == b"old"
    assert store.list_names("") == ["head"]
    assert store.list_entries("").keys() == {"head"}
    replace(store, "head", b"new")
    assert store.read("head") == b"new"
