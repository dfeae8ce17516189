"""Verified files on this machine, named by their digest."""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path

import platformdirs
import pooch

from fmnist.errors import DataError, without_credentials
from fmnist.settings import DataSettings

logger = logging.getLogger(__name__)

Chunks = Callable[[str], Generator[bytes, None, None]]
_PARTIAL = ".download-"
_LEFTOVER_AGE = 24 * 3600
_RETRIES = 3


class Unusable(Exception):
    """A source, or one of its files, cannot be used; the message is the reason."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(without_credentials(reason))
        self.retryable = retryable


class NotThere(Unusable):
    """The source has no such file, or does not show it to us."""


class WrongDigest(Unusable):
    """The file is not the expected one."""


class Interrupted(Unusable, ValueError):
    """Worth another attempt at once, which pooch makes after a `ValueError`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, retryable=True)


def cache_folder(settings: DataSettings) -> Path:
    """Where verified downloads are kept."""
    return settings.cache or platformdirs.user_cache_path("fmnist") / "data"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_copy(name: str, sha256: str, cache: Path) -> Path | None:
    """A valid copy on this machine: in the cache, or in the one that Keras keeps."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    for path in (_cached(name, sha256, cache), keras_home / "datasets" / "fashion-mnist" / name):
        try:
            if path.is_file():
                if sha256_of(path) == sha256:
                    return path
                logger.info("skipping %s, which is not the expected file", path)
        except OSError as error:
            logger.warning("skipping %s, which cannot be read (%s)", path, error.strerror)
    return None


def download_to_cache(base: str, name: str, sha256: str, cache: Path, chunks: Chunks) -> Path:
    """Fill a file below `base` into the cache; it gets its name once it is verified and on disk.

    Raises:
        Unusable: the source cannot supply the file; the message says why.
        DataError: the cache folder cannot be written.
    """

    def write(url: str, output_file: str, _pooch: object) -> None:
        try:
            with closing(chunks(name)) as arriving, Path(output_file).open("wb") as stream:
                stream.writelines(arriving)
                stream.flush()
                os.fsync(stream.fileno())
        except Interrupted as reason:
            logger.info("%s: %s", url, reason)
            raise

    target = _cached(name, sha256, cache)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=cache) as folder:
            files = pooch.create(folder, base, registry={name: sha256}, retry_if_failed=_RETRIES)
            path = Path(files.fetch(name, downloader=write))
            path.chmod(0o644)
            path.replace(target)
    except Unusable:
        raise
    except ValueError as error:
        raise WrongDigest(str(error).partition(". ")[0]) from error
    except OSError as error:
        raise DataError(
            f"cannot write to the data cache {cache}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder"
        ) from error
    return target


def _cached(name: str, sha256: str, cache: Path) -> Path:
    return cache / f"{sha256[:16]}-{name}"


def _remove_leftovers(cache: Path) -> None:
    """Delete what killed downloads left; nothing a day old is still being written."""
    for folder in cache.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - written > _LEFTOVER_AGE:
                shutil.rmtree(folder)
