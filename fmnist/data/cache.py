"""Verified files on this machine.

The cache is addressed by digest. A download is written under a temporary name, and gets its real
one only once it is complete, verified and flushed to disk.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import platformdirs

from fmnist.errors import DataError
from fmnist.settings import DataSettings

logger = logging.getLogger(__name__)

_LEFTOVER_AGE = 24 * 3600


class Unusable(Exception):
    """A source, or one file of it, cannot be used; the message is the reason."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.retryable = retryable


class NotThere(Unusable):
    """The source answered that it has no such file."""


class Forbidden(Unusable):
    """The source answered that this file is not for us."""


class Unreachable(Unusable):
    """Nobody answers at this address: the next one is tried at once."""


def cache_folder(settings: DataSettings) -> Path:
    """Where verified downloads are kept."""
    return settings.cache or platformdirs.user_cache_path("fmnist") / "data"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class WrongDigest(Unusable):
    """The file is there, whole as far as one can tell, but is not the expected one."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"has SHA-256 {found}, expected {expected}")
        self.found = found


def cached_path(name: str, sha256: str, cache: Path) -> Path:
    """Where the cache keeps the file of that digest."""
    return cache / f"{sha256[:16]}-{name}"


def local_copy(name: str, sha256: str, cache: Path) -> Path | None:
    """A valid copy on this machine: in the cache, or in the one Keras keeps."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return valid_copy(cached_path(name, sha256, cache), sha256) or valid_copy(
        keras_home / "datasets" / "fashion-mnist" / name, sha256
    )


def valid_copy(path: Path, sha256: str) -> Path | None:
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
def verified_in_cache(cache: Path, name: str, sha256: str) -> Iterator[IO[bytes]]:
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
            raise WrongDigest(found, sha256)
        with _cache_errors(cache):
            path.chmod(0o644)
            path.replace(cached_path(name, sha256, cache))
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
