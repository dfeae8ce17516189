"""Check everything a run needs, before anyone trains: one finding per check."""

import contextlib
import importlib.metadata
import shutil
import statistics
import tempfile
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from fmnist.data.cache import cache_folder
from fmnist.data.fetch import check_source
from fmnist.environment import installed, requirements
from fmnist.errors import (
    DamagedError,
    DataError,
    ExitCode,
    JobError,
    PrefectError,
    StoreError,
    without_credentials,
    writing,
)
from fmnist.prefect_import import prefect_import
from fmnist.promotion.workspace import left_folders, work_folder
from fmnist.registry import keys
from fmnist.registry.champion import current_champion
from fmnist.registry.records import LARGEST_RECORD
from fmnist.registry.runs import check_listing, read_run
from fmnist.settings import MIRRORS, Settings, non_defaults
from fmnist.store.base import Store, open_store

_MEGABYTE = 2**20
# The most that one run writes, in megabytes: four downloads, two of them at a time; the arrays and
# the published files; the published files alone.
_ROOM = {"data.cache": 64, "store.work": 128, "store.url": 32}
_LARGEST_CLOCK_DIFFERENCE = 60
_READS = 5
_LONGEST_READ = 1.0


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: what was checked.
        ok: whether a run can rely on it.
        text: what was found and, if it is not `ok`, what to do; one line.
        exit_code: the code that a run would end with; `OK` if nothing is wrong.
    """

    name: str
    ok: bool
    text: str
    exit_code: ExitCode


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything a run with these settings needs; yields each finding as it is made.

    Downloads nothing and changes nothing, except that missing local folders are created and the
    store's own check leaves its probe. A store that cannot be used gives a single finding.
    """
    yield _finding("settings", lambda: _settings(settings))
    yield _finding("data source", lambda: check_source(settings.data))
    yield _finding("cache folder", lambda: _cache_folder(settings))
    yield _finding(
        "work folder", lambda: _writable(work_folder(settings.store), "store.work", StoreError)
    )
    yield _finding("ended runs", lambda: _left_folders(settings))
    yield from _store_findings(settings)
    yield _finding("Prefect API", _prefect)
    yield _finding("packages", _packages)
    yield _finding("disk space", lambda: _disk_space(settings))


def _finding(name: str, look: Callable[[], str]) -> Finding:
    """The text that `look` returns, or the foreseeable failure that it raises."""
    try:
        return Finding(name, True, _one_line(look()), ExitCode.OK)
    except JobError as error:
        return Finding(name, False, _one_line(str(error)), error.exit_code)


def _one_line(text: str) -> str:
    return without_credentials(" ".join(text.split()))


def _settings(settings: Settings) -> str:
    changed = non_defaults(settings)
    return "all valid; " + (
        f"{len(changed)} not at the default: {', '.join(changed)}" if changed else "all at defaults"
    )


def _cache_folder(settings: Settings) -> str:
    if not _downloads(settings):
        return "not needed, since data.source is a folder"
    return _writable(cache_folder(settings.data), "data.cache", DataError)


def _downloads(settings: Settings) -> bool:
    return settings.data.source == MIRRORS or "://" in settings.data.source


def _writable(folder: Path, setting: str, failure: type[JobError]) -> str:
    with writing(folder, f"set {setting} to another folder", failure):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"1")
    return f"{folder} can be written"


def _left_folders(settings: Settings) -> str:
    found = []
    try:
        for left in left_folders(settings.store):
            size = sum(path.stat().st_size for path in left.path.rglob("*") if path.is_file())
            reason = left.reason or "nothing in it is needed; the next run removes it"
            found.append(f"{left.path} ({size / 1e6:.0f} MB): {reason}")
    except OSError as error:
        raise StoreError(f"the work folder cannot be read: {error}; set store.work") from error
    return "; ".join(found) or "none has left anything in the work folder"


def _local_places(settings: Settings) -> Iterator[tuple[str, Path]]:
    if _downloads(settings):
        yield "data.cache", cache_folder(settings.data)
    yield "store.work", work_folder(settings.store)
    if "://" not in settings.store.url:
        yield "store.url", Path(settings.store.url).expanduser()


def _disk_space(settings: Settings) -> str:
    """Places that share a disk need room for all of them together."""
    places: dict[int, dict[str, Path]] = {}
    free: dict[int, int] = {}
    try:
        for name, place in _local_places(settings):
            there = next(path for path in (place, *place.absolute().parents) if path.exists())
            disk = there.stat().st_dev
            free[disk] = shutil.disk_usage(there).free
            places.setdefault(disk, {})[name] = place.absolute()
    except (OSError, RuntimeError) as error:
        raise StoreError(f"the free space cannot be found out: {error}; see the folders") from error
    needed = {disk: sum(_ROOM[name] for name in places[disk]) * _MEGABYTE for disk in places}
    found = "; ".join(
        f"{free[disk] / 1e9:.2f} GB free, {needed[disk] / 1e9:.2f} GB needed for "
        + ", ".join(f"{name} ({place})" for name, place in places[disk].items())
        for disk in places
    )
    if any(free[disk] < needed[disk] for disk in places):
        raise StoreError(f"{found}; free some space, or set them to another disk")
    return found


def _store_findings(settings: Settings) -> Iterator[Finding]:
    try:
        # Opened so that a store without conditional writes can still be looked at.
        store = open_store(settings.store.url, single_publisher=True)
        honours = store.check()
    except StoreError as error:
        yield Finding("store", False, _one_line(str(error)), error.exit_code)
        return
    url = settings.store.url
    where = url if "://" in url else Path(store.location("")).absolute()
    yield _finding("store", lambda: f"{where} is there, and can be listed, read and written")
    yield _finding("conditional writes", lambda: _conditions(settings, honours=honours))
    yield _finding("clock", lambda: _clock(store))
    yield _finding("latency", lambda: _latency(store))
    yield _finding("champion", lambda: _champion(store))


def _conditions(settings: Settings, *, honours: bool) -> str:
    if honours:
        return "honoured: nothing can be overwritten unseen"
    if settings.store.single_publisher:
        return (
            "not honoured, and accepted by store.single_publisher: safe only while nothing but "
            "one job publishes there"
        )
    raise StoreError(
        "not honoured, so a run would be refused; use another server or a newer one, or, if "
        "nothing but one job ever publishes there, set store.single_publisher"
    )


def _clock(store: Store) -> str:
    clock = store.clock()
    if clock is None:
        return "the store has no other than this machine's, or does not tell"
    difference = (datetime.now(UTC) - clock).total_seconds()
    if abs(difference) > _LARGEST_CLOCK_DIFFERENCE:
        side = "ahead of" if difference > 0 else "behind"
        raise StoreError(
            f"this machine's is {abs(difference):.0f} s {side} the store's; set both by NTP: run "
            "ids sort by the clock, and S3 refuses requests at 900 s"
        )
    return f"within {max(1, round(abs(difference)))} s of the store's"


def _latency(store: Store) -> str:
    times = timeit.repeat(lambda: _read_a_little(store), number=1, repeat=_READS)
    median = statistics.median(times)
    figure = f"{median * 1000:.1f} ms for a small read, the median of {_READS}"
    if median > _LONGEST_READ:
        raise StoreError(
            f"{figure}; a publication makes some 25 requests: look at the network and the server's "
            "load, or set store.url to a nearer one"
        )
    return figure


def _read_a_little(store: Store) -> None:
    with contextlib.suppress(DamagedError):  # which is another finding
        store.read(keys.CHAMPION, LARGEST_RECORD)


def _champion(store: Store) -> str:
    """Check that the champion is complete, without reading all of it."""
    champion = current_champion(store)
    if champion is None:
        return "none yet: the first run that passes the gate becomes it"
    run = read_run(store, champion.run_id, champion.manifest_sha256)
    check_listing(store, run, "`fmnist rollback` goes back to the champion before")
    return (
        f"{champion.run_id}, generation {champion.generation}, accuracy {champion.accuracy:.4f}: "
        f"its manifest is the promoted one, its {len(run.manifest.files)} files are there in their "
        "sizes"
    )


def _prefect() -> str:
    with prefect_import():
        from fmnist.orchestration.server import (  # slow
            api_address_and_login,
            ask_server,
            check_own_database,
        )

    url, login = api_address_and_login()
    if not url:
        found = check_own_database()
        return f"PREFECT_API_URL is not set: an ad hoc run starts a temporary server; {found}"
    version = ask_server(url, login)
    here = Version(importlib.metadata.version("prefect"))
    if version.release[:2] < here.release[:2]:
        raise PrefectError(
            f"{url} has Prefect {version}, older than {here} here; update the server first"
        )
    return f"{url} answers, with Prefect {version}"


def _packages() -> str:
    """Check versions against the declared bounds, which a later `pip install` may override."""
    bounds = requirements()
    if not bounds:
        raise PrefectError("fmnist is not installed, so what it needs is unknown; run `make setup`")
    versions = {name: installed(name) for name in bounds}
    wrong = [
        f"{name} is {version or 'not installed'}, but must be {bounds[name]}"
        for name, version in versions.items()
        if not (version and bounds[name].contains(version, prereleases=True))
    ]
    if wrong:
        raise PrefectError(f"{'; '.join(wrong)}; install what requirements.txt pins (`make setup`)")
    return f"all {len(bounds)} are of versions that work together"
