"""The step of deployments/prefect.yaml that says which commit is deployed."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.processes import ROOT

(STEP,) = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["build"]
SCRIPT = STEP["prefect.deployments.steps.run_shell_script"]["script"]


@pytest.mark.parametrize(
    ("folder", "commit"),
    [(ROOT, r"[0-9a-f]{40}(-dirty)?"), (Path("/"), "built")],
    ids=["a checkout", "an image"],
)
def test_the_version_is_the_commit(folder: Path, commit: str) -> None:
    """In a checkout git says it; elsewhere it is what the image was built from."""
    done = subprocess.run(
        SCRIPT,
        shell=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "SOURCE_COMMIT": "built"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(commit, done.stdout.strip())
