"""What `make` offers."""

import subprocess

from tests.support.processes import ROOT


def test_a_bare_make_lists_the_targets() -> None:
    """It runs nothing, and lists each target with what it does."""
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "train", "test", "check", "lock"):
        assert f"make {target} " in listed
