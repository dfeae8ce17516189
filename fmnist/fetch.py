"""Bring the four data files to this machine, each verified by its SHA-256.

A file is used only when its digest is the one expected: the official one, or the one that a
`SHA256SUMS` file beside a user's own files states. Downloads land in a cache that is addressed
by digest, each under a temporary name until it is whole, verified and flushed.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import httpx
import platformdirs

from fmnist import dataset, progress
from fmnist.config import MIRRORS, DataSettings
from fmnist.errors import DataError, StoreError
from fmnist.store import open_store

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"

Answer = TypeVar("Answer")

_ATTEMPTS = 4
_PAUSE = 0.5
_CONNECT_TIMEOUT = 10.0
_LEAST_BYTES_PER_SECOND = 10_000
_LARGEST_DOWNLOAD = 2**31
_LEFTOVER_AGE = 24 * 3600


@dataclass(frozen=True)
class DataOrigin:
    """Where the data come from, and which they are.

    `sha256` gives each file's digest by its standard name; `official` tells whether all four are
    the files that Zalando Research publishes.
    """

    source: str
    official: bool
    sha256: Mapping[str, str]

    @property
    def test_set(self) -> str:
        """A digest that tells this test set, images and labels, from every other."""
        both = self.sha256[dataset.TEST_IMAGES] + self.sha256[dataset.TEST_LABELS]
        return hashlib.sha256(both.encode()).hexdigest()


@dataclass(frozen=True)
class FetchedData:
    """The four verified files on this machine."""

    origin: DataOrigin
    train_images: Path
    train_labels: Path
    test_images: Path
    test_labels: Path


class _Unusable(Exception):
    """A source, or one file of it, cannot be used; the message is the reason."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        super().__init__(reason)
        self.temporary = temporary


class _NotThere(_Unusable):
    """The source answered that it has no such file."""


class _Forbidden(_Unusable):
    """The source answered that this file is not for us."""


class _Unreachable(_Unusable):
    """Nobody answers at this address: the next one is tried at once."""


def fetch(settings: DataSettings) -> FetchedData:
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


def look(settings: DataSettings) -> str:
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
    copies = len(dataset.FILES) - len(asked)
    return f"{source.name} answers, and has {which}; {copies} of 4 are here already, verified"


def cache_folder(settings: DataSettings) -> Path:
    """Where verified downloads are kept."""
    return settings.cache or platformdirs.user_cache_path("fmnist") / "data"


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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- the four kinds of source -------------------------------------------------------------------


def _fetch_from_mirrors(settings: DataSettings, cache: Path) -> FetchedData:
    sums = dataset.OFFICIAL_SHA256
    paths = {name: _local_copy(name, sums[name], cache) for name in dataset.FILES}
    reasons: list[str] = []
    temporary = False
    used = "cache"
    for mirror in settings.mirrors:
        if all(paths.values()):
            break
        try:
            for name in dataset.FILES:
                if paths[name] is None:
                    paths[name] = _download(mirror, name, sums[name], cache, settings.timeout)
            used = mirror
        except _Unusable as reason:
            logger.warning("mirror %s: %s", mirror, reason)
            reasons.append(f"  {mirror}: {reason}")
            temporary |= reason.temporary
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(
            "no mirror could supply "
            + ", ".join(missing)
            + ":\n"
            + "\n".join(reasons)
            + "\nSet data.source to a folder, an http(s):// address or s3://bucket/prefix that "
            "holds the four files: " + ", ".join(dataset.FILES),
            temporary=temporary,
        )
    return _fetched(used, sums, {name: path for name, path in paths.items() if path})


def _look_at_mirrors(settings: DataSettings, cache: Path) -> str:
    sums = dataset.OFFICIAL_SHA256
    missing = [name for name in dataset.FILES if not _local_copy(name, sums[name], cache)]
    if not missing:
        return "verified copies of the four official files are here already; no mirror is needed"
    reasons = []
    for mirror in settings.mirrors:
        try:
            for name in missing:
                _see(mirror, name, settings.timeout)
        except _Unusable as reason:
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
            with _request(f"{settings.source}/{SUMS}", settings.timeout) as response:
                return response.read().decode("utf-8", "replace")
        except (_NotThere, _Forbidden):
            # Many buckets answer so for what is not there; then only the official files will do.
            return None

    def get(name: str, sha256: str) -> Path:
        return _download(settings.source, name, sha256, cache, settings.timeout)

    def see(name: str, _sha256: str) -> Path:
        _see(settings.source, name, settings.timeout)
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
            raise _Unusable(reason, temporary=error.temporary) from error

    def read_sums() -> str | None:
        found = ask(store.read, SUMS)
        return None if found is None else found.decode("utf-8", "replace")

    def get(name: str, sha256: str) -> Path:
        content = ask(store.read, name)
        if content is None:
            raise _NotThere("is not there")
        with _verified_in_cache(cache, name, sha256) as stream:
            stream.write(content)
        return _cached(name, sha256, cache)

    def see(name: str, _sha256: str) -> Path:
        if name not in ask(store.names, ""):
            raise _NotThere("is not there")
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
            raise _Unusable(f"{SUMS} cannot be read: {error.strerror}") from error

    def get(name: str, sha256: str) -> Path:
        path = folder / name
        if not path.is_file():
            raise _NotThere("is not there")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise _Unusable(f"cannot be read: {error.strerror}") from error
        if found != sha256:
            raise _WrongDigest(found, sha256)
        return path

    return _Source(str(folder), True, read_sums, get, see=get)


class _WrongDigest(_Unusable):
    """The file is there, whole as far as one can tell, but is not the expected one."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"has SHA-256 {found}, expected {expected}")
        self.found = found


def _fetch_own(origin: _Source, get: Callable[[str, str], Path], cache: Path) -> FetchedData:
    """Fetch from a user's own source, by the digests it states or else by the official ones."""
    source, name = origin.name, SUMS
    stated: dict[str, str] | None = None
    paths: dict[str, Path] = {}
    try:
        text = origin.read_sums()
        if text is not None:
            stated = parse_sums(text)
            unlisted = [file for file in dataset.FILES if file not in stated]
            if unlisted:
                raise ValueError(f"does not list {', '.join(unlisted)}")
        sums = stated or dataset.OFFICIAL_SHA256
        for name in dataset.FILES:
            cached = None if origin.is_local else _cached(name, sums[name], cache)
            copy = cached and _valid(cached, sums[name])
            paths[name] = copy or get(name, sums[name])
    except ValueError as error:
        raise DataError(f"{source}/{SUMS} {error}; write it anew: {_how_to_sum(source)}") from error
    except _WrongDigest as wrong:
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
    except _Unusable as reason:
        raise DataError(
            f"{source}/{name}: {reason}; the four files needed there are "
            + ", ".join(dataset.FILES),
            temporary=reason.temporary,
        ) from reason
    return _fetched(source, sums, paths)


def _how_to_sum(source: str) -> str:
    folder = source if "://" not in source else "the folder of the files"
    return f"in {folder}, sha256sum *-ubyte.gz > {SUMS}"


def _fetched(source: str, sums: Mapping[str, str], paths: Mapping[str, Path]) -> FetchedData:
    sha256 = {name: sums[name] for name in dataset.FILES}
    return FetchedData(
        origin=DataOrigin(source, sha256 == dataset.OFFICIAL_SHA256, sha256),
        train_images=paths[dataset.TRAIN_IMAGES],
        train_labels=paths[dataset.TRAIN_LABELS],
        test_images=paths[dataset.TEST_IMAGES],
        test_labels=paths[dataset.TEST_LABELS],
    )


# ---- the cache ----------------------------------------------------------------------------------


def _cached(name: str, sha256: str, cache: Path) -> Path:
    """Where the cache keeps the file of that digest."""
    return cache / f"{sha256[:16]}-{name}"


def _local_copy(name: str, sha256: str, cache: Path) -> Path | None:
    """A valid copy on this machine: in the cache, or in the one Keras keeps."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return _valid(_cached(name, sha256, cache), sha256) or _valid(
        keras_home / "datasets" / "fashion-mnist" / name, sha256
    )


def _valid(path: Path, sha256: str) -> Path | None:
    """The path, if a file is there whose digest is the one expected."""
    try:
        if not path.is_file():
            return None
        if sha256_of(path) == sha256:
            return path
    except OSError as error:
        logger.warning("%s cannot be read (%s): passed over", path, error.strerror)
        return None
    logger.warning("%s is damaged: passed over", path)
    return None


@contextlib.contextmanager
def _verified_in_cache(cache: Path, name: str, sha256: str) -> Iterator[IO[bytes]]:
    """A file to fill; it appears in the cache only if what was written has that digest.

    Raises:
        _WrongDigest: what was written is something else.
        DataError: the cache folder cannot be written.
    """
    with _cache_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        # Closed before it is renamed or removed, since Windows does neither to an open file.
        partial = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=cache, suffix=".part", delete=False
        )
    path = Path(partial.name)
    try:
        # Around the closing too, which writes again what could not be flushed.
        with _cache_errors(cache), partial:
            yield partial
            partial.flush()
            os.fsync(partial.fileno())
        found = sha256_of(path)
        if found != sha256:
            raise _WrongDigest(found, sha256)
        with _cache_errors(cache):
            path.chmod(0o644)
            path.replace(_cached(name, sha256, cache))
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the data cache {cache}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder"
        ) from error


def _remove_leftovers(cache: Path) -> None:
    """Delete partial files whose writer was killed: none is still being written after a day."""
    for path in cache.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                path.unlink()


# ---- HTTP ---------------------------------------------------------------------------------------


def _download(base: str, name: str, sha256: str, cache: Path, timeout: float) -> Path:
    """Download one file into the cache, going on where a dropped connection stopped.

    Raises:
        _Unusable: this address cannot supply the file; the message says why.
    """
    with _verified_in_cache(cache, name, sha256) as stream:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _receive(f"{base}/{name}", stream, timeout, name)
                break
            except _Unusable as reason:
                hopeless = not reason.temporary or isinstance(reason, _Unreachable)
                if hopeless or attempt == _ATTEMPTS:
                    raise
                pause = _PAUSE * 2 ** (attempt - 1)
                logger.info("%s: %s; trying again in %.1f s", name, reason, pause)
                time.sleep(pause)
    return _cached(name, sha256, cache)


def _see(base: str, name: str, timeout: float) -> None:
    """Ask for one file, and leave it at the beginning of the answer.

    Raises:
        _Unusable: this address cannot supply the file; the message says why.
    """
    with _request(f"{base}/{name}", timeout):
        pass


def _receive(url: str, stream: IO[bytes], timeout: float, name: str) -> None:
    """Append what is still missing of the file at `url` to `stream`."""
    received = stream.tell()
    with _request(url, timeout, start=received) as response:
        if received and not (
            response.status_code == httpx.codes.PARTIAL_CONTENT
            and response.headers.get("content-range", "").startswith(f"bytes {received}-")
        ):
            stream.seek(0)
            stream.truncate()
            received = 0
        length = response.headers.get("content-length", "")
        total = received + int(length) if length.isdigit() else 0
        began, at_start = time.monotonic(), received
        with progress.track(name, total) as advance:
            for chunk in response.iter_raw():
                stream.write(chunk)
                received += len(chunk)
                of_total = f" of {total / 1e6:.1f}" if total else ""
                advance(received, f"{received / 1e6:.1f}{of_total} MB")
                allowed = timeout + (received - at_start) / _LEAST_BYTES_PER_SECOND
                if time.monotonic() - began > allowed:
                    raise _Unusable(
                        f"too slow: {received - at_start:,} bytes in "
                        f"{time.monotonic() - began:.0f} s"
                    )
                if received > _LARGEST_DOWNLOAD:
                    raise _Unusable(f"sends more than {_LARGEST_DOWNLOAD:,} bytes")
        if total and received < total:
            raise _Unusable(
                f"connection dropped after {received:,} of {total:,} bytes", temporary=True
            )


@contextlib.contextmanager
def _request(url: str, timeout: float, start: int = 0) -> Iterator[httpx.Response]:
    """A streamed GET of `url` from byte `start`, with every failure as a reason in words."""
    # The files are gzip themselves: asking for no encoding keeps a server from wrapping them.
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    try:
        client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            follow_redirects=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise _Unusable(
            f"cannot set up a connection ({error}): check SSL_CERT_FILE, SSL_CERT_DIR and the "
            "proxy variables of the environment"
        ) from error
    try:
        with client, client.stream("GET", url, headers=headers) as response:
            status = response.status_code
            if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
                raise _NotThere(f"is not there (HTTP {status})")
            if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise _Forbidden(f"HTTP {status} {response.reason_phrase}")
            if response.is_error:
                raise _Unusable(
                    f"HTTP {status} {response.reason_phrase}",
                    temporary=status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS,
                )
            yield response
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        reason = str(error) or "no answer"
        raise _Unreachable(f"cannot connect ({reason})", temporary=True) from error
    except httpx.TimeoutException as error:
        raise _Unusable(f"no answer within {timeout:g} s", temporary=True) from error
    except httpx.RemoteProtocolError as error:
        raise _Unusable(f"connection dropped ({error})", temporary=True) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise _Unusable(f"not a usable address ({error})") from error
    except httpx.HTTPError as error:
        raise _Unusable(f"{type(error).__name__}: {error}", temporary=True) from error
