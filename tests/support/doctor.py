"""Settings for the doctor, and what it finds with them."""

from pathlib import Path
from typing import Any

import pytest

from fmnist.cli.doctor import Finding, examine
from fmnist.errors import ExitCode
from fmnist.settings import DataSettings, Settings, StoreSettings
from tests.support.mirrors import OWN, with_sums, write

OF_THE_STORE = ["store", "conditional writes", "clock", "latency", "champion"]
NAMES = [
    "settings", "data source", "cache folder", "work folder", "ended runs", *OF_THE_STORE,
    "Prefect API", "packages", "disk space",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the four files with their list, as `settings` name it, and no Prefect server."""
    # Nor may a test ask that of the person who runs it.
    monkeypatch.setenv("PREFECT_HOME", str(Path("prefect").absolute()))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    write(with_sums(OWN), Path("files"))


def settings(store: str = "store", **data: Any) -> Settings:
    """Settings all of whose folders are the test's own."""
    here = Path.cwd()
    data = {"source": str(here / "files"), "cache": here / "cache"} | data
    url = store if "://" in store else str(here / store)
    return Settings(data=DataSettings(**data), store=StoreSettings(url=url, work=here / "work"))


def findings(settings: Settings) -> dict[str, Finding]:
    """Every finding by its name; each of one line, and with the exit code that fits it."""
    found = list(examine(settings))
    for finding in found:
        assert finding.text and "\n" not in finding.text, finding
        assert (finding.exit_code == ExitCode.OK) is finding.ok
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


def bad(settings: Settings, name: str, code: ExitCode, *parts: str) -> str:
    """The text of the one finding that must be bad, while all others are good and there."""
    found = findings(settings)
    assert [finding.name for finding in found.values() if not finding.ok] == [name]
    expected = [n for n in NAMES if n not in OF_THE_STORE[1:]] if name == "store" else NAMES
    assert list(found) == expected
    assert found[name].exit_code == code
    for part in parts:
        assert part in found[name].text
    return found[name].text
