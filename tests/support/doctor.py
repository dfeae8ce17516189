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


def without_prefect_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a test from asking the server of the person who runs it."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)


def write_source(tmp_path: Path) -> Path:
    """Make the folder of four small files, with the list of their digests, that `settings` name."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in (CONTENTS | {"SHA256SUMS": LIST}).items():
        (folder / name).write_bytes(content)
    return folder


def settings(tmp_path: Path, store: str = "", **data: Any) -> Settings:
    """Settings all of whose folders are the test's own."""
    return Settings(
        data=DataSettings(
            **{"source": str(tmp_path / "files"), "cache": tmp_path / "cache"} | data
        ),
        store=StoreSettings(url=store or str(tmp_path / "store"), work=tmp_path / "work"),
    )


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
