"""What importing the package does, seen from a fresh Python: nothing."""

from pathlib import Path

from tests.support.processes import run_program
from tests.unit.test_architecture import HOMES, MODULES, layer_of, name_of


def test_importing_any_module_has_no_effect(tmp_path: Path) -> None:
    """No setting is read, and no environment, folder, logger, thread or seed is touched."""
    heavy = HOMES["keras"] | HOMES["prefect"]
    names = [
        name_of(path).replace("/", ".") for path in MODULES if layer_of(name_of(path)) not in heavy
    ]
    program = f"""
import logging, os, random, threading
import numpy
import pydantic_settings, platformdirs, rich.progress, boto3, httpx, sklearn.metrics
import scipy.stats, seaborn, matplotlib.figure, sklearn.model_selection
def state():
    return (dict(os.environ), random.getstate(), str(numpy.random.get_state()),
            threading.active_count(), logging.getLogger().handlers, os.listdir())
before = state()
import {", ".join(f"fmnist.{name}" for name in names)}
print(state() == before)
"""
    (tmp_path / ".env").write_text("FMNIST_SPLIT__SEED=bad\n")
    done = run_program("-c", program, FMNIST_TRAINING__EPOCHS="bad", FMNIST_NO="1")
    assert done.stdout.strip() == "True", done.stderr
