"""Settings for the doctor, and what it finds with them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fmnist.cli.doctor import Finding, examine
from fmnist.data.records import FILES
from fmnist.errors import ExitCode
from fmnist.settings import DataSettings, Settings, StoreSettings

OF_THE_STORE = ["store", "conditional writes", "clock", "latency", "champion"]
NAMES = [
    "settings", "data source", "cache folder", "work folder", *OF_THE_STORE,
    "Prefect API", "packages", "disk space",
]  # fmt: skip
CONTENTS = {name: name.encode() * 10 for name in FILES}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
LIST = "".join(f"{digest}  {name}\n" for name, digest in SUMS.items()).encode()


def prepare(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of four small files, with the list of their digests, that `settings` name.

    No test may ask the Prefect server of the person who runs it either.
    """
    monkeypatch.setenv("PREFECT_HOME", str(Path("prefect").absolute()))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    folder = Path("files").absolute()
    folder.mkdir()
    for name, content in (CONTENTS | {"SHA256SUMS": LIST}).items():
        (folder / name).write_bytes(content)
    return folder


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
