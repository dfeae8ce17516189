"""Verified files on this machine, named by their digest."""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import platformdirs
import pooch

from fmnist.data.sources import Interrupted, Unusable, WrongDigest, chunks
from fmnist.errors import DataError, writing
from fmnist.settings import DataSettings

logger = logging.getLogger(__name__)

_PARTIAL = ".download-"
_LEFTOVER_AGE = 24 * 3600
_RETRIES = 3


def cache_folder(settings: DataSettings) -> Path:
    """Where verified downloads are kept."""
    return settings.cache or platformdirs.user_cache_path("fmnist") / "data"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_copy(settings: DataSettings, name: str, sha256: str) -> Path | None:
    """A valid copy on this machine: in the cache, or in the one that Keras keeps."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    cached = _cached(settings, name, sha256)
    for path in (cached, keras_home / "datasets" / "fashion-mnist" / name):
        try:
            if path.is_file():
                if sha256_of(path) == sha256:
                    return path
                logger.info("skipping %s, which is not the expected file", path)
        except OSError as error:
            logger.warning("skipping %s, which cannot be read (%s)", path, error.strerror)
    return None


def download(settings: DataSettings, base: str, name: str, sha256: str) -> Path:
    """Fill a file below `base` into the cache; it gets its name once it is verified and on disk.

    What the source cannot supply is `Unusable`.
    """

    def write(url: str, output_file: str, _pooch: object) -> None:
        try:
            arriving = closing(chunks(base, name, settings.timeout))
            with arriving as content, Path(output_file).open("wb") as stream:
                stream.writelines(content)
                stream.flush()
                os.fsync(stream.fileno())
        except Interrupted as reason:
            logger.info("%s: %s", url, reason)
            raise

    cache = cache_folder(settings)
    pooch.get_logger().setLevel(logging.WARNING)
    with writing(cache, "set data.cache to another folder", DataError):
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=cache) as folder:
            files = pooch.create(folder, base, registry={name: sha256}, retry_if_failed=_RETRIES)
            try:
                path = Path(files.fetch(name, downloader=write))
            except Unusable:
                raise
            except ValueError as error:
                raise WrongDigest(str(error).partition(". ")[0]) from error
            path.chmod(0o644)
            return path.replace(_cached(settings, name, sha256))


def _cached(settings: DataSettings, name: str, sha256: str) -> Path:
    return cache_folder(settings) / f"{sha256[:16]}-{name}"


def _remove_leftovers(cache: Path) -> None:
    """Delete what killed downloads left; nothing a day old is still being written."""
    for folder in cache.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - written > _LEFTOVER_AGE:
                shutil.rmtree(folder)
