"""Bring the four data files to this machine, each verified by its SHA-256.

A file is used only when its digest is the one expected: the official one, or the one that a
`SHA256SUMS` file beside a user's own files states. Downloads land in a cache that is addressed
by digest, each under a temporary name until it is whole, verified and flushed.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fmnist.data.cache import (
    Forbidden,
    NotThere,
    Unusable,
    WrongDigest,
    cache_folder,
    cached_path,
    local_copy,
    sha256_of,
    valid_copy,
    verified_in_cache,
)
from fmnist.data.download import download, request, see_remote
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
from fmnist.errors import DataError, StoreError
from fmnist.settings import MIRRORS, DataSettings
from fmnist.store.base import open_store

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
Answer = TypeVar("Answer")


def fetch_files(settings: DataSettings) -> FetchedData:
    """Make the four files available, verified, from the settings' source.

    The public mirrors are asked only for files that neither the cache nor Keras's own cache
    holds. A source of the user's own is always asked, since only it can say which files it means.

    Raises:
        DataError: no source could supply the files, or they are not the expected ones.
    """
    cache = cache_folder(settings)
    if settings.source == MIRRORS:
        return _fetch_from_mirrors(settings, cache)
    source = _own_source(settings, cache)
    return _fetch_own(source, source.get, cache)


def check_source(settings: DataSettings) -> str:
    """Make sure that the source has the four files, without a download; what was found, in words.

    A folder's files, and verified copies on this machine, are read whole; of any other only the
    beginning of the answer is.

    Raises:
        DataError: `fetch` would fail too, as far as one can tell.
    """
    cache = cache_folder(settings)
    if settings.source == MIRRORS:
        return _look_at_mirrors(settings, cache)
    source = _own_source(settings, cache)
    asked = []

    def see(name: str, sha256: str) -> Path:
        asked.append(name)
        return source.see(name, sha256)

    origin = _fetch_own(source, see, cache).origin
    which = "the official files" if origin.official else f"the four files that its {SUMS} lists"
    if source.is_local:
        return f"{source.name} has {which}, whole"
    copies = len(FILES) - len(asked)
    return f"{source.name} answers, and has {which}; {copies} of 4 are here already, verified"


def parse_sums(text: str) -> dict[str, str]:
    """Read lines of `sha256sum`: a digest, a space, a space or `*`, a name.

    Raises:
        ValueError: a line has another form.
    """
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        digest, _, name = line.strip().partition(" ")
        is_digest = len(digest) == 64 and not set(digest.lower()) - set("0123456789abcdef")
        if not is_digest or name[:1] not in (" ", "*") or len(name) < 2:
            raise ValueError(f"line {number} is not of the form '<64 hex digits>  <name>'")
        sums[name[1:].removeprefix("./")] = digest.lower()
    return sums


def _fetch_from_mirrors(settings: DataSettings, cache: Path) -> FetchedData:
    sums = OFFICIAL_SHA256
    paths = {name: local_copy(name, sums[name], cache) for name in FILES}
    reasons: list[str] = []
    retryable = False
    used = "cache"
    for mirror in settings.mirrors:
        if all(paths.values()):
            break
        try:
            for name in FILES:
                if paths[name] is None:
                    paths[name] = download(mirror, name, sums[name], cache, settings.timeout)
            used = mirror
        except Unusable as reason:
            logger.warning("mirror %s: %s", mirror, reason)
            reasons.append(f"  {mirror}: {reason}")
            retryable |= reason.retryable
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(
            "no mirror could supply "
            + ", ".join(missing)
            + ":\n"
            + "\n".join(reasons)
            + "\nSet data.source to a folder, an http(s):// address or s3://bucket/prefix that "
            "holds the four files: " + ", ".join(FILES),
            retryable=retryable,
        )
    return _fetched(used, sums, {name: path for name, path in paths.items() if path})


def _look_at_mirrors(settings: DataSettings, cache: Path) -> str:
    sums = OFFICIAL_SHA256
    missing = [name for name in FILES if not local_copy(name, sums[name], cache)]
    if not missing:
        return "verified copies of the four official files are here already; no mirror is needed"
    reasons = []
    for mirror in settings.mirrors:
        try:
            for name in missing:
                see_remote(mirror, name, settings.timeout)
        except Unusable as reason:
            reasons.append(f"{mirror}: {reason}")
            continue
        return f"{mirror} answers, and has the {len(missing)} files that are not here yet"
    raise DataError(
        f"no mirror has the {len(missing)} files that are not here yet ({'; '.join(reasons)}); set "
        "data.source to a folder, an http(s):// address or s3://bucket/prefix that holds the four"
    )


@dataclass(frozen=True)
class _Source:
    """A source of the user's own.

    `read_sums` reads its list of digests, if it has one; `get` brings the file of a name and digest
    here; `see` only makes sure that it is there.
    """

    name: str
    is_local: bool
    read_sums: Callable[[], str | None]
    get: Callable[[str, str], Path]
    see: Callable[[str, str], Path]


def _own_source(settings: DataSettings, cache: Path) -> _Source:
    if settings.source.startswith(("http://", "https://")):
        return _http_source(settings, cache)
    if settings.source.startswith("s3://"):
        return _s3_source(settings, cache)
    return _folder_source(Path(settings.source).expanduser())


def _http_source(settings: DataSettings, cache: Path) -> _Source:
    def read_sums() -> str | None:
        try:
            with request(f"{settings.source}/{SUMS}", settings.timeout) as response:
                return response.read().decode("utf-8", "replace")
        except (NotThere, Forbidden):
            # Many buckets answer so for what is not there; then only the official files will do.
            return None

    def get(name: str, sha256: str) -> Path:
        return download(settings.source, name, sha256, cache, settings.timeout)

    def see(name: str, _sha256: str) -> Path:
        see_remote(settings.source, name, settings.timeout)
        return Path(name)

    return _Source(settings.source, False, read_sums, get, see)


def _s3_source(settings: DataSettings, cache: Path) -> _Source:
    try:
        store = open_store(settings.source)
    except StoreError as error:
        raise DataError(f"data.source: {error}") from error

    def ask(question: Callable[[str], Answer], about: str) -> Answer:
        try:
            return question(about)
        except StoreError as error:
            # The store's advice names its own setting.
            reason = str(error).replace("store.url", "data.source")
            raise Unusable(reason, retryable=error.retryable) from error

    def read_sums() -> str | None:
        found = ask(store.read, SUMS)
        return None if found is None else found.decode("utf-8", "replace")

    def get(name: str, sha256: str) -> Path:
        content = ask(store.read, name)
        if content is None:
            raise NotThere("is not there")
        with verified_in_cache(cache, name, sha256) as stream:
            stream.write(content)
        return cached_path(name, sha256, cache)

    def see(name: str, _sha256: str) -> Path:
        if name not in ask(store.list_names, ""):
            raise NotThere("is not there")
        return Path(name)

    return _Source(settings.source, False, read_sums, get, see)


def _folder_source(folder: Path) -> _Source:
    if not folder.is_dir():
        raise DataError(f"data.source: there is no folder {folder}; give one that holds the files")

    def read_sums() -> str | None:
        path = folder / SUMS
        try:
            return path.read_text("utf-8", "replace") if path.exists() else None
        except OSError as error:
            raise Unusable(f"{SUMS} cannot be read: {error.strerror}") from error

    def get(name: str, sha256: str) -> Path:
        path = folder / name
        if not path.is_file():
            raise NotThere("is not there")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from error
        if found != sha256:
            raise WrongDigest(found, sha256)
        return path

    return _Source(str(folder), True, read_sums, get, see=get)


def _fetch_own(origin: _Source, get: Callable[[str, str], Path], cache: Path) -> FetchedData:
    """Fetch from a user's own source, by the digests it states or else by the official ones."""
    source, name = origin.name, SUMS
    stated: dict[str, str] | None = None
    paths: dict[str, Path] = {}
    try:
        text = origin.read_sums()
        if text is not None:
            stated = parse_sums(text)
            unlisted = [file for file in FILES if file not in stated]
            if unlisted:
                raise ValueError(f"does not list {', '.join(unlisted)}")
        sums = stated or OFFICIAL_SHA256
        for name in FILES:
            cached = None if origin.is_local else cached_path(name, sums[name], cache)
            copy = cached and valid_copy(cached, sums[name])
            paths[name] = copy or get(name, sums[name])
    except ValueError as error:
        raise DataError(f"{source}/{SUMS} {error}; write it anew: {_how_to_sum(source)}") from error
    except WrongDigest as wrong:
        if stated:
            raise DataError(
                f"{source}/{name} does not match {SUMS} beside it: it {wrong}; "
                "supply the right file, or write the list anew: " + _how_to_sum(source)
            ) from wrong
        raise DataError(
            f"{source}/{name} is not the official file (its SHA-256 is {wrong.found}), and there "
            f"is no {SUMS} beside it. If these are the data you mean, make one: "
            + _how_to_sum(source)
        ) from wrong
    except Unusable as reason:
        raise DataError(
            f"{source}/{name}: {reason}; the four files needed there are " + ", ".join(FILES),
            retryable=reason.retryable,
        ) from reason
    return _fetched(source, sums, paths)


def _how_to_sum(source: str) -> str:
    folder = source if "://" not in source else "the folder of the files"
    return f"in {folder}, sha256sum *-ubyte.gz > {SUMS}"


def _fetched(source: str, sums: Mapping[str, str], paths: Mapping[str, Path]) -> FetchedData:
    sha256 = {name: sums[name] for name in FILES}
    return FetchedData(
        origin=DataOrigin(source, sha256 == OFFICIAL_SHA256, sha256),
        train_images=paths[TRAIN_IMAGES],
        train_labels=paths[TRAIN_LABELS],
        test_images=paths[TEST_IMAGES],
        test_labels=paths[TEST_LABELS],
    )
