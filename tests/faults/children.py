"""Processes that are killed: forked from a server that has imported everything but TensorFlow."""

import ctypes
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import traceback
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace

import botocore.endpoint
import botocore.session
import pytest

import fmnist.registry.champion
import fmnist.store.s3
from fmnist.errors import StoreError
from tests.faults.scenarios import SCENARIOS, Place
from tests.support.processes import ROOT

DONE = "done"
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1


def forkserver() -> ForkServerContext:
    """How to start such processes; the server comes up with the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.faults.preload"])
    with pytest.MonkeyPatch.context() as patched:
        # The server looks for modules there, whatever folder it is started in.
        patched.setenv("PYTHONPATH", str(ROOT))
        # Else the threads of many processes get in each other's way.
        patched.setenv("OPENBLAS_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()
    return context


def remember_descriptions() -> None:
    """Let botocore's clients share one loader of descriptions."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


def hasten(read_timeout: float = 30.0) -> None:
    """Take out of this process what is only there to wait."""
    botocore.endpoint.time = SimpleNamespace(sleep=lambda seconds: None)
    fmnist.store.s3._PAUSES = (0.0, 0.0, 0.0)
    fmnist.registry.champion._LONGEST_PAUSE = 0.0
    config = fmnist.store.s3.Config

    def shortened(**options: object) -> object:
        return config(**options | {"read_timeout": read_timeout})

    fmnist.store.s3.Config = shortened


def attempt(
    name: str, place: Place, folder: Path, outcome: Path, read_timeout: float, stopped: bool
) -> None:
    """Act a scenario, and write to a file how that ended; `stopped` until somebody looks on."""
    random.seed(0)
    hasten(read_timeout)
    store = place.open()
    if stopped:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        SCENARIOS[name].act(store, folder)
        ended = DONE
    except StoreError as error:
        ended = f"{type(error).__name__}: {error}"
    except BaseException:
        ended = traceback.format_exc()
    outcome.write_text(ended)
    os._exit(0)
