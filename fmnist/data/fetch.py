"""Bring the four data files to this machine, each verified by its SHA-256.

A file is used only if its digest is the expected one: the official one, or the one that a
`SHA256SUMS` file beside a user's own files states.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fmnist.data import cache
from fmnist.data.records import FILES, OFFICIAL_SHA256, DataOrigin, FetchedData
from fmnist.data.sources import NotThere, Unusable, WrongDigest, chunks, find, folder_reasons
from fmnist.errors import DataError
from fmnist.settings import MIRRORS, DataSettings

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_SUMS_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_FOUR_FILES = f"the four files needed there are {', '.join(FILES)}"
# How to obtain a file below an address, by its name and digest; returns where it then is.
_Obtain = Callable[[DataSettings, str, str, str], Path]
# The source that was used, the digests that were expected, and where each file is.
_Found = tuple[str, Mapping[str, str], Mapping[str, Path]]


def fetch_files(settings: DataSettings) -> FetchedData:
    """Make the four files available, verified, from the settings' source.

    The public mirrors are asked only for files that are neither in our cache nor in Keras's. A
    source of the user's own is always asked for its list, since only it knows which files it means.
    """
    origin, paths = _look_up(settings, cache.download)
    return FetchedData(origin, *(paths[name] for name in FILES))


def check_source(settings: DataSettings) -> str:
    """Check that the source has the four files, without downloading; returns what was found.

    A folder's files and verified copies on this machine are read completely; of any other file only
    the beginning of the answer is.
    """
    elsewhere = []

    def ask(_: DataSettings, base: str, name: str, _sha256: str) -> Path:
        find(base, name, settings.timeout)
        elsewhere.append(name)
        return Path(name)

    origin, _ = _look_up(settings, ask)
    here = f"{len(FILES) - len(elsewhere)} of 4 are here already, verified"
    if origin.source == "cache":
        return f"{here}; no mirror is needed"
    which = "official files" if origin.official else f"files that its {SUMS} lists"
    return f"{origin.source} has the {which}; {here}"


def parse_sums(text: str) -> dict[str, str]:
    """Read lines of `sha256sum`: a digest, a space, a space or `*`, a name; else a `ValueError`."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = _SUMS_LINE.fullmatch(line.strip())
        if not found:
            raise ValueError(f"line {number} is not of the form '<64 hex digits>  <name>'")
        sums[found[2]] = found[1].lower()
    return sums


def _look_up(settings: DataSettings, obtain: _Obtain) -> tuple[DataOrigin, Mapping[str, Path]]:
    """Which files are meant, and where each is: here, or as `obtain` says."""
    look = _in_mirrors if settings.source == MIRRORS else _in_own_source
    used, sums, paths = look(settings, obtain)
    sha256 = {name: sums[name] for name in FILES}
    return DataOrigin(used, sha256 == OFFICIAL_SHA256, sha256), paths


def _in_mirrors(settings: DataSettings, obtain: _Obtain) -> _Found:
    sums = OFFICIAL_SHA256
    copies = {name: cache.local_copy(settings, name, sums[name]) for name in FILES}
    paths = {name: path for name, path in copies.items() if path}
    used, reasons, retryable = "cache", "", False
    for mirror in settings.mirrors:
        try:
            for name in [name for name in FILES if name not in paths]:
                paths[name] = obtain(settings, mirror, name, sums[name])
                used = mirror
        except Unusable as reason:
            logger.warning("mirror %s: %s", mirror, reason)
            reasons += f"  {mirror}: {reason}\n"
            retryable |= reason.retryable
    if missing := [name for name in FILES if name not in paths]:
        raise DataError(
            f"no mirror could supply {', '.join(missing)}:\n{reasons}Check the network, or set "
            "data.source to a folder, an http(s):// address or s3://bucket/prefix; " + _FOUR_FILES,
            retryable=retryable,
        )
    return used, sums, paths


def _in_own_source(settings: DataSettings, obtain: _Obtain) -> _Found:
    base, folder = settings.source, "the folder of the files"
    if in_place := "://" not in base:
        base = folder = str(Path(base).expanduser())
        obtain = _verify
    how_to_list = f"in {folder}, sha256sum *-ubyte.gz > {SUMS}"
    paths: dict[str, Path] = {}
    name, listed = SUMS, None
    try:
        listed = _read_list(base, settings.timeout)
        sums = listed or OFFICIAL_SHA256
        for name in FILES:
            copy = None if in_place else cache.local_copy(settings, name, sums[name])
            paths[name] = copy or obtain(settings, base, name, sums[name])
    except WrongDigest as wrong:
        what = f"does not match the {SUMS} beside it" if listed else "is not the official file"
        raise DataError(
            f"{base}/{name} {what} ({wrong}); supply the right file, or, if these are the data "
            f"you mean, list them: {how_to_list}"
        ) from wrong
    except Unusable as reason:
        raise DataError(
            f"{base}/{name}: {reason}; correct data.source, or add what is missing: {_FOUR_FILES}",
            retryable=reason.retryable,
        ) from reason
    except ValueError as error:
        raise DataError(f"{base}/{SUMS} {error}; write it again: {how_to_list}") from error
    return base, sums, paths


def _read_list(base: str, timeout: float) -> Mapping[str, str] | None:
    """The digests that a user's own source states; `None` if it has no list."""
    try:
        text = b"".join(chunks(base, SUMS, timeout)).decode("utf-8", "replace")
    except NotThere:
        return None
    listed = parse_sums(text)
    if missing := [name for name in FILES if name not in listed]:
        raise ValueError(f"does not list {', '.join(missing)}")
    return listed


def _verify(_: DataSettings, base: str, name: str, sha256: str) -> Path:
    """The path of a file in a folder, if it has that digest."""
    path = Path(base) / name
    with folder_reasons(Path(base)):
        found = cache.sha256_of(path)
    if found != sha256:
        raise WrongDigest(f"its SHA-256 is {found}, expected {sha256}")
    return path
