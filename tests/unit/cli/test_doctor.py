"""The doctor: what it finds good, and every way in which something is bad."""

import base64
import contextlib
import errno
import importlib.metadata
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fmnist.cli.doctor import examine
from fmnist.data.fetch import fetch_files
from fmnist.data.records import TEST_LABELS
from fmnist.environment import requirements
from fmnist.errors import ExitCode
from fmnist.store.base import open_store
from fmnist.store.folder import FolderStore
from tests.support.doctor import NAMES, OF_THE_STORE, bad, findings, own_places, settings  # noqa: F401
from tests.support.mirrors import OWN, Mirrors, closed_port, with_sums
from tests.support.processes import no_file_larger_than
from tests.support.tiny_s3 import Handler, TinyS3, no_pauses, serving, some_keys, tiny_s3  # noqa: F401


def test_a_source_of_ones_own_on_a_server_is_looked_at_and_not_fetched(mirrors: Mirrors) -> None:
    """A server with the four files and their list is good, and none of them is kept."""
    server = mirrors.start(contents=with_sums(OWN))
    finding = findings(settings(source=server.url))["data source"]
    assert finding.ok and "0 of 4 are here" in finding.text
    assert list(Path("cache").iterdir()) == []


def test_a_file_that_a_server_does_not_have_is_named(mirrors: Mirrors) -> None:
    contents = with_sums(OWN)
    del contents[TEST_LABELS]
    server = mirrors.start(contents=contents)
    bad(settings(source=server.url), "data source", ExitCode.DATA, server.url,
        TEST_LABELS, "is not there", "the four files needed")  # fmt: skip


def test_the_first_mirror_that_answers_is_told(mirrors: Mirrors) -> None:
    dead, good = closed_port(), mirrors.start().url
    finding = findings(settings(source="mirrors", mirrors=(dead, good)))["data source"]
    assert finding.ok and good in finding.text and dead not in finding.text


def test_mirrors_that_do_not_answer_are_told_each_with_its_reason(mirrors: Mirrors) -> None:
    """Where no mirror will do, each is named with what it lacks, and what to do instead."""
    dead, empty = closed_port(), mirrors.start(contents={}).url
    bad(settings(source="mirrors", mirrors=(dead, empty)), "data source", ExitCode.DATA,
        f"{dead}: cannot connect", f"{empty}: is not there", "set data.source")  # fmt: skip


def test_with_verified_copies_here_no_mirror_is_asked(mirrors: Mirrors) -> None:
    """Mirrors that are down do no harm once the files are in the cache, and verified."""
    fetched = fetch_files(settings(source="mirrors", mirrors=(mirrors.start().url,)).data)
    dead = closed_port()
    asked = settings(source="mirrors", mirrors=(dead,))
    assert "here already" in findings(asked)["data source"].text
    fetched.test_labels.write_bytes(b"damaged")
    bad(asked, "data source", ExitCode.DATA, TEST_LABELS, dead)


def test_a_wrong_file_in_a_folder_is_named() -> None:
    Path("files", TEST_LABELS).write_bytes(b"other")
    bad(settings(), "data source", ExitCode.DATA, TEST_LABELS, "does not match")


@pytest.mark.parametrize(
    ("place", "name", "code", "setting"),
    [
        ("cache", "cache folder", ExitCode.DATA, "data.cache"),
        ("work", "work folder", ExitCode.STORE, "store.work"),
    ],
)
@pytest.mark.parametrize("fault", ["a file there", "read-only"])
def test_a_folder_that_cannot_be_written_is_named(
    place: str, name: str, code: ExitCode, setting: str, fault: str,
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Cache or work folder: the path is told, and the setting to change."""
    if fault == "a file there":
        Path(place).write_text("a file")
    else:
        temporary_file = tempfile.TemporaryFile

        def refuse(dir: Path) -> Any:
            if dir == Path(place).absolute():
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return temporary_file(dir=dir)

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    asked = settings(source=mirrors.start(contents=with_sums(OWN)).url)
    bad(asked, name, code, str(Path(place).absolute()), "cannot be written", f"set {setting}")


def test_a_disk_without_room_for_all_places_together_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work folder and store on one disk need room there together, and are named."""
    usage = SimpleNamespace(total=10**9, used=0, free=150 * 2**20)
    places = [("store.work", Path()), ("store.url", Path("s"))]
    monkeypatch.setattr("fmnist.cli.doctor._local_places", lambda _: places)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    bad(settings(), "disk space", ExitCode.STORE, "0.16 GB free, 0.17 GB needed for",
        f"store.work ({Path.cwd()}), store.url ({Path('s').absolute()})", "free some space")  # fmt: skip


@pytest.mark.usefixtures("no_pauses", "some_keys")
def test_a_dead_server_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = closed_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    bad(settings("s3://models"), "store", ExitCode.STORE, endpoint, "AWS_ENDPOINT_URL_S3")


def test_no_keys_are_one_finding() -> None:
    bad(settings("s3://models"), "store", ExitCode.STORE, "AWS_ACCESS_KEY_ID")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyS3]:
    """A server of our own, in the environment."""
    with tiny_s3(monkeypatch) as state:
        yield state


def test_a_store_that_ignores_conditions_is_bad_unless_that_is_accepted(server: TinyS3) -> None:
    """It is found, all else is still looked at, and the setting that accepts it is named."""
    server.honours_conditions = False
    asked = settings("s3://models/x")
    bad(asked, "conditional writes", ExitCode.STORE, "store.single_publisher")
    accepting = asked.store.model_copy(update={"single_publisher": True})
    finding = findings(asked.model_copy(update={"store": accepting}))["conditional writes"]
    assert finding.ok and "only while" in finding.text


@pytest.mark.parametrize(("seconds", "word"), [(-300, "ahead of"), (300, "behind")])
def test_a_clock_that_is_off_is_told_with_its_direction(
    seconds: int, word: str, server: TinyS3
) -> None:
    """More than a minute between the store's clock and this machine's is bad."""
    server.clock = timedelta(seconds=seconds)
    text = bad(settings("s3://models/x"), "clock", ExitCode.STORE, word, "NTP")
    assert any(f"{300 + off} s" in text for off in (-1, 0, 1))


@pytest.mark.parametrize(
    ("date", "told"),
    [("", "does not tell"), ("yesterday", "does not tell"), ("Sun Nov  6 08:49:37 1994", "ahead")],
)
def test_a_time_that_cannot_be_read_is_no_time(date: str, told: str, server: TinyS3) -> None:
    """A server that tells no time, or none that is one, is good; the oldest form is read."""
    server.date = date
    finding = findings(settings("s3://models/x"))["clock"]
    assert finding.ok is (told == "does not tell") and told in finding.text


@pytest.mark.parametrize("seconds", [-55, 0, 55])
def test_clocks_within_a_minute_are_good(seconds: int, server: TinyS3) -> None:
    server.clock = timedelta(seconds=seconds)
    assert findings(settings("s3://models/x"))["clock"].ok


def test_a_slow_store_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timeit.repeat", lambda *_, repeat, **__: [2.0] * repeat)
    bad(settings(), "latency", ExitCode.STORE, "2000.0 ms", "25 requests", "nearer")


class Prefect(Handler):
    """A Prefect API with a login, of some version."""

    login = "admin:hush-hush"
    version: object = importlib.metadata.version("prefect")
    broken = False
    busy = 0

    def answer(self, body: bytes) -> None:
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.busy:
            self.send(self.busy, **{"Retry-After": "3600"})
        elif self.broken:
            self.send(200, b"<html>")
        elif self.path != "/api/admin/version":
            self.send(404)
        elif self.headers.get("Authorization") != expected:
            self.send(401)
        else:
            self.send(200, json.dumps(self.version).encode())


@pytest.mark.parametrize("place", ["environment", "profile"])
def test_a_prefect_server_is_asked_with_the_login(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever address and login stand: the server is good, and the login not shown."""
    with serving(Prefect) as address:
        given = {"PREFECT_API_URL": f"{address}/api/", "PREFECT_API_AUTH_STRING": Prefect.login}
        if place == "profile":
            lines = ['active = "team"', "[profiles.team]"]
            lines += [f'{name} = "{value}"' for name, value in given.items()]
            Path("prefect").mkdir()
            Path("prefect/profiles.toml").write_text("\n".join(lines))
        else:
            for name, value in given.items():
                monkeypatch.setenv(name, value)
        finding = findings(settings())["Prefect API"]
    assert finding.ok and f"{address}/api" in finding.text and str(Prefect.version) in finding.text
    assert "hush-hush" not in finding.text


@pytest.mark.parametrize("content", [b"no TOML", b"\xff\xfe"], ids=["no TOML", "no text"])
@pytest.mark.parametrize("name", ["prefect/profiles.toml", "prefect.toml"])
def test_files_of_prefect_that_cannot_be_read_are_told(name: str, content: bytes) -> None:
    """A run would end at them too."""
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(content)
    bad(settings(), "Prefect API", ExitCode.PREFECT, "cannot be read", "profile")


def _database(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (name TEXT)")
        connection.executemany("INSERT INTO run VALUES (?)", [("x" * 1000,)] * 1000)
        connection.commit()


def test_the_database_of_the_temporary_server_is_told_with_its_size() -> None:
    """Size, place and how to be rid of it."""
    database = Path("prefect/prefect.db").absolute()
    _database(database)
    finding = findings(settings())["Prefect API"]
    assert finding.ok and f"{database} has 1 MB; deleting it" in finding.text


@pytest.mark.parametrize("fault", ["random", "cut short"])
def test_a_damaged_database_of_prefect_is_named(fault: str) -> None:
    """The line says how to move it out of the way."""
    database = Path("prefect/prefect.db").absolute()
    _database(database)
    if fault == "random":
        database.write_bytes(os.urandom(100_000))
    else:
        os.truncate(database, database.stat().st_size // 2)
    bad(settings(), "Prefect API", ExitCode.PREFECT, "is damaged", f"mv {database} ")


def test_a_database_of_prefect_that_is_in_use_is_good() -> None:
    """A lock that another run holds is no damage."""
    database = Path("prefect/prefect.db").absolute()
    _database(database)
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert findings(settings())["Prefect API"].ok


def test_a_folder_of_prefect_that_cannot_be_written_is_named() -> None:
    """A temporary server would try for minutes."""
    Path("prefect").write_text("a file")
    bad(settings(), "Prefect API", ExitCode.PREFECT, str(Path("prefect").absolute()),
        "cannot be written", "set PREFECT_HOME")  # fmt: skip


def test_a_folder_of_prefect_without_room_for_a_new_database_is_named() -> None:
    """On a disk that is almost full, the server would end at its start, and its log be empty."""
    with no_file_larger_than(4 * 2**20):
        bad(settings(), "Prefect API", ExitCode.PREFECT, "cannot be written", "free some space")


def test_an_empty_address_of_prefect_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    finding = findings(settings())["Prefect API"]
    assert finding.ok and "PREFECT_API_URL is not set" in finding.text


def test_a_wrong_setting_of_prefect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "long")
    bad(settings(), "Prefect API", ExitCode.PREFECT, "request_timeout", "profile")


PREFECT_FAULTS: dict[str, tuple[dict[str, object], str, str, tuple[str, ...]]] = {
    "no login": ({}, "/api", "", ("401", "set PREFECT_API_AUTH_STRING")),
    "wrong login": ({}, "/api", "admin:s3cr3t", ("401", "correct PREFECT_API_AUTH_STRING")),
    "undecodable login": ({}, "/api", "admin:\udcff", ("401", "correct")),
    "no API": ({}, "", Prefect.login, ("404", "/api at its end")),
    "no Prefect": ({"broken": True}, "/api", Prefect.login, ("no Prefect server answers",)),
    "no version": ({"version": None}, "/api", Prefect.login, ("Invalid version",)),
    "too many": ({"busy": 429}, "/api", Prefect.login, ("no Prefect server answers", "429")),
    "unavailable": ({"busy": 503}, "/api", Prefect.login, ("no Prefect server answers", "503")),
    "older": ({"version": "3.1.0"}, "/api", Prefect.login, ("3.1.0, older than", "update")),
}


@pytest.mark.parametrize(
    ("server", "path", "login", "told"), PREFECT_FAULTS.values(), ids=PREFECT_FAULTS.keys()
)
def test_a_prefect_server_that_will_not_do_is_told(
    server: dict[str, object], path: str, login: str, told: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each fault has its line, with the variable to correct and never the login."""
    if login:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", login)
    with serving(type("P", (Prefect,), server)) as address:
        monkeypatch.setenv("PREFECT_API_URL", address + path)
        text = bad(settings(), "Prefect API", ExitCode.PREFECT, address, *told)
    assert not login or login.partition(":")[2] not in text


@pytest.mark.parametrize(
    "address",
    ["http://me:hush-hush@127.0.0.1:9/api", "http://me:hush-hush@[bad/api", "no address", "ftp://x",
     "http://x:port/api", "http://a b/api"],
)  # fmt: skip
def test_an_address_where_nobody_answers_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead or impossible address is told without a password in it."""
    monkeypatch.setenv("PREFECT_API_URL", address)
    text = bad(settings(), "Prefect API", ExitCode.PREFECT, "correct PREFECT_API_URL")
    assert "hush-hush" not in text


@pytest.mark.parametrize(
    ("package", "version"),
    [("fastapi", "0.151.0"), ("sqlalchemy", "2.1.0b1"), ("keras", "3.14.9"), ("keras", None)],
)
def test_a_package_out_of_its_bounds_is_named(
    package: str, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version_of(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    told = f"{package} is {version or 'not installed'}, but must be {requirements()[package]};"
    assert bad(settings(), "packages", ExitCode.PREFECT, "make setup").startswith(told)


def test_a_checkout_that_was_never_installed_is_not_called_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def requires(package: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    bad(settings(), "packages", ExitCode.PREFECT, "make setup")


def test_every_finding_is_made_even_if_all_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cache", "work", "store"):
        Path(name).write_text("a file")
    monkeypatch.setenv("PREFECT_API_URL", "no address")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    found = findings(settings(source=closed_port()))
    assert list(found) == [name for name in NAMES if name not in OF_THE_STORE[1:]]
    good = [finding.name for finding in found.values() if finding.ok]
    assert good == ["settings", "ended runs"]


def test_findings_come_as_they_are_made() -> None:
    asked = settings()
    assert next(iter(examine(asked))).name == "settings"
    assert not Path("store").exists()
    assert isinstance(open_store(asked.store.url), FolderStore)
