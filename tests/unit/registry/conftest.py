"""What the registry's tests share."""

from pathlib import Path

import pytest

from tests.support import records
from tests.support.memory import MemoryStore, WatchedFolder
from tests.support.registry import seal


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals try again without waiting."""
    monkeypatch.setattr("fmnist.registry.champion._LONGEST_PAUSE", 0)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return seal(tmp_path / "run", records.RUN_ID)


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | WatchedFolder:
    """A store in memory or in a folder, both with hooks around their writes."""
    return MemoryStore() if request.param == "memory" else WatchedFolder(str(tmp_path / "store"))
