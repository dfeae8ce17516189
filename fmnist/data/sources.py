"""The bytes of a file, wherever it is: in a folder, on a web server, or in a store of any kind.

Everything here raises `Unusable` for what cannot be supplied, with the reason as its message.
"""

import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx

from fmnist.errors import StoreError, without_credentials
from fmnist.progress import track
from fmnist.store.base import open_store

_CONNECT_TIMEOUT = 10.0
_MIN_BYTES_PER_SECOND = 10_000
_MAX_BYTES = 2**31


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


def chunks(base: str, name: str, timeout: float) -> Generator[bytes, None, None]:
    """The bytes of a file below a folder or address, as they arrive."""
    if base.startswith(("http://", "https://")):
        yield from _http_chunks(f"{base}/{name}", timeout)
    elif "://" in base:
        with _store_reasons():
            content = open_store(base).read(name)
        if content is None:
            raise NotThere("is not there")
        yield content
    else:
        with folder_reasons(Path(base)):
            content = (Path(base) / name).read_bytes()
        yield content


def find(base: str, name: str, timeout: float) -> None:
    """Make sure that a file is below an address, without downloading it."""
    if base.startswith(("http://", "https://")):
        with contextlib.closing(chunks(base, name, timeout)) as beginning:
            next(beginning, None)
    else:
        with _store_reasons():
            if name not in open_store(base).list_names(""):
                raise NotThere("is not there")


@contextlib.contextmanager
def folder_reasons(folder: Path) -> Iterator[None]:
    """Turn what reading a file of a folder raises into a reason in words."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = "is not there" if folder.is_dir() else f"there is no folder {folder}"
        raise NotThere(reason) from error
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _store_reasons() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        # The store's advice names its own setting.
        reason = str(error).replace("store.url", "data.source")
        raise Unusable(reason, retryable=error.retryable) from error


def _http_chunks(url: str, timeout: float) -> Generator[bytes, None, None]:
    """The bytes at `url`, neither too slowly nor too many.

    pooch's own downloader waits until a block is full, however slowly its bytes arrive, so it
    cannot bound the time; nor does it keep a server from unpacking the files on the way.
    """
    request = httpx.stream(
        "GET",
        url,
        timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        follow_redirects=True,
        # The files are gzip themselves: asking for no encoding keeps a server from wrapping them.
        headers={"accept-encoding": "identity"},
    )
    with _http_reasons(timeout), request as response:
        _check_status(response)
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdigit() else 0
        of_total = f" of {total / 1e6:.1f}" if total else ""
        began = time.monotonic()
        with track(url.rpartition("/")[2], total) as advance:
            for chunk in response.iter_raw():
                yield chunk
                received, elapsed = response.num_bytes_downloaded, time.monotonic() - began
                advance(received, f"{received / 1e6:.1f}{of_total} MB")
                if elapsed > timeout + received / _MIN_BYTES_PER_SECOND:
                    raise Unusable(f"too slow: {received:,} bytes in {elapsed:.0f} s")
                if received > _MAX_BYTES:
                    raise Unusable(f"sends more than {_MAX_BYTES:,} bytes")


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    answer = f"HTTP {status} {response.reason_phrase}"
    if status in (401, 403):  # the answer of many buckets for a file that does not exist
        raise NotThere(f"is refused ({answer})")
    if status in (404, 410):
        raise NotThere(f"is not there ({answer})")
    if status >= 500 or status == 429:
        raise Interrupted(answer)
    if response.is_error:
        raise Unusable(answer)


@contextlib.contextmanager
def _http_reasons(timeout: float) -> Iterator[None]:
    try:
        yield
    except Unusable:
        raise
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        # Not tried again at once, since the next mirror is the better choice.
        raise Unusable(f"cannot connect ({str(error) or 'no answer'})", retryable=True) from error
    except httpx.TimeoutException as error:
        raise Interrupted(f"no answer within {timeout:g} s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise Unusable(f"not a usable address ({error})") from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise Interrupted(f"connection dropped ({reason})") from error
    except (OSError, ImportError, ValueError) as error:
        raise Unusable(
            f"cannot set up a connection ({error}): check SSL_CERT_FILE, SSL_CERT_DIR and the "
            "proxy variables of the environment"
        ) from error
