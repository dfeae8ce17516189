"""Bring the four data files to this machine, each verified by its SHA-256.

A file is used only if its digest is the expected one: the official one, or the one that a
`SHA256SUMS` file beside a user's own files states.
"""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fmnist.data.cache import (
    NotThere,
    Unusable,
    WrongDigest,
    cache_folder,
    download_to_cache,
    local_copy,
    sha256_of,
)
from fmnist.data.records import (
    FILES,
    OFFICIAL_SHA256,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    DataOrigin,
    FetchedData,
)
from fmnist.data.sources import chunks, find, folder_reasons
from fmnist.errors import DataError
from fmnist.settings import MIRRORS, DataSettings

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_SUMS_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_FOUR_FILES = f"the four files needed there are {', '.join(FILES)}"


def fetch_files(settings: DataSettings) -> FetchedData:
    """Make the four files available, verified, from the settings' source.

    The public mirrors are asked only for files that are neither in our cache nor in Keras's. A
    source of the user's own is always asked for its list, since only it knows which files it means.

    Raises:
        DataError: no source could supply the files, or they are not the expected ones.
    """
    cache = cache_folder(settings)

    def download(base: str, name: str, sha256: str) -> Path:
        below = partial(chunks, base, timeout=settings.timeout)
        return download_to_cache(base, name, sha256, cache, below)

    origin, paths = _look_up(settings, download)
    return FetchedData(
        origin=origin,
        train_images=paths[TRAIN_IMAGES],
        train_labels=paths[TRAIN_LABELS],
        test_images=paths[TEST_IMAGES],
        test_labels=paths[TEST_LABELS],
    )


def check_source(settings: DataSettings) -> str:
    """Check that the source has the four files, without downloading; returns what was found.

    A folder's files and verified copies on this machine are read completely; of any other file only
    the beginning of the answer is.

    Raises:
        DataError: `fetch_files` would fail too, as far as one can tell.
    """
    elsewhere = []

    def ask(base: str, name: str, _sha256: str) -> Path:
        find(base, name, settings.timeout)
        elsewhere.append(name)
        return Path(name)

    origin, _ = _look_up(settings, ask)
    which = "official files" if origin.official else f"files that its {SUMS} lists"
    here = f"{len(FILES) - len(elsewhere)} of 4 are here already, verified"
    if origin.source == "cache":
        return f"{here}; no mirror is needed"
    return f"{origin.source} has the {which}; {here}"


def parse_sums(text: str) -> dict[str, str]:
    """Read lines of `sha256sum`: a digest, a space, a space or `*`, a name.

    Raises:
        ValueError: a line has another form.
    """
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = _SUMS_LINE.fullmatch(line.strip())
        if not found:
            raise ValueError(f"line {number} is not of the form '<64 hex digits>  <name>'")
        sums[found[2]] = found[1].lower()
    return sums


def _look_up(
    settings: DataSettings, obtain: Callable[[str, str, str], Path]
) -> tuple[DataOrigin, Mapping[str, Path]]:
    """Which files are meant, and where each is: here, or as `obtain(base, name, sha256)` says."""
    if settings.source == MIRRORS:
        sums: Mapping[str, str] = OFFICIAL_SHA256
        used, paths = _from_mirrors(settings, obtain)
    else:
        used, sums, paths = _from_own_source(settings, obtain)
    sha256 = {name: sums[name] for name in FILES}
    return DataOrigin(used, sha256 == dict(OFFICIAL_SHA256), sha256), paths


def _from_mirrors(
    settings: DataSettings, obtain: Callable[[str, str, str], Path]
) -> tuple[str, Mapping[str, Path]]:
    cache = cache_folder(settings)
    copies = {name: local_copy(name, OFFICIAL_SHA256[name], cache) for name in FILES}
    paths = {name: path for name, path in copies.items() if path}
    used, reasons, retryable = "cache", [], False
    for mirror in settings.mirrors:
        try:
            for name in [name for name in FILES if name not in paths]:
                paths[name] = obtain(mirror, name, OFFICIAL_SHA256[name])
                used = mirror
        except Unusable as reason:
            logger.warning("mirror %s: %s", mirror, reason)
            reasons.append(f"  {mirror}: {reason}")
            retryable |= reason.retryable
    if missing := [name for name in FILES if name not in paths]:
        raise DataError(
            f"no mirror could supply {', '.join(missing)}:\n"
            + "\n".join(reasons)
            + "\nCheck the network, or set data.source to a folder, an http(s):// address or "
            f"s3://bucket/prefix; {_FOUR_FILES}",
            retryable=retryable,
        )
    return used, paths


def _from_own_source(
    settings: DataSettings, obtain: Callable[[str, str, str], Path]
) -> tuple[str, Mapping[str, str], Mapping[str, Path]]:
    in_place = "://" not in settings.source
    base = str(Path(settings.source).expanduser()) if in_place else settings.source
    folder = base if in_place else "the folder of the files"
    how_to_list = f"in {folder}, sha256sum *-ubyte.gz > {SUMS}"
    paths: dict[str, Path] = {}
    name, listed = SUMS, None
    try:
        listed = _read_list(base, settings.timeout)
        sums = listed or OFFICIAL_SHA256
        for name in FILES:
            copy = None if in_place else local_copy(name, sums[name], cache_folder(settings))
            paths[name] = copy or (_verify if in_place else obtain)(base, name, sums[name])
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


def _verify(base: str, name: str, sha256: str) -> Path:
    """The path of a file in a folder, if it has that digest."""
    path = Path(base) / name
    with folder_reasons(Path(base)):
        found = sha256_of(path)
    if found != sha256:
        raise WrongDigest(f"its SHA-256 is {found}, expected {sha256}")
    return path
