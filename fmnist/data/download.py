"""Download one file over HTTP."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx

from fmnist.data.cache import (
    Forbidden,
    NotThere,
    Unreachable,
    Unusable,
    cached_path,
    verified_in_cache,
)
from fmnist.progress import track

logger = logging.getLogger(__name__)

_ATTEMPTS = 4
_PAUSE = 0.5
_CONNECT_TIMEOUT = 10.0
_LEAST_BYTES_PER_SECOND = 10_000
_LARGEST_DOWNLOAD = 2**31


def download(base: str, name: str, sha256: str, cache: Path, timeout: float) -> Path:
    """Download one file into the cache, going on where a dropped connection stopped.

    Raises:
        _Unusable: this address cannot supply the file; the message says why.
    """
    with verified_in_cache(cache, name, sha256) as stream:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _receive(f"{base}/{name}", stream, timeout, name)
                break
            except Unusable as reason:
                hopeless = not reason.retryable or isinstance(reason, Unreachable)
                if hopeless or attempt == _ATTEMPTS:
                    raise
                pause = _PAUSE * 2 ** (attempt - 1)
                logger.info("%s: %s; trying again in %.1f s", name, reason, pause)
                time.sleep(pause)
    return cached_path(name, sha256, cache)


def see_remote(base: str, name: str, timeout: float) -> None:
    """Ask for one file, and leave it at the beginning of the answer.

    Raises:
        _Unusable: this address cannot supply the file; the message says why.
    """
    with request(f"{base}/{name}", timeout):
        pass


def _receive(url: str, stream: IO[bytes], timeout: float, name: str) -> None:
    """Append what is still missing of the file at `url` to `stream`."""
    received = stream.tell()
    with request(url, timeout, start=received) as response:
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
        with track(name, total) as advance:
            for chunk in response.iter_raw():
                stream.write(chunk)
                received += len(chunk)
                of_total = f" of {total / 1e6:.1f}" if total else ""
                advance(received, f"{received / 1e6:.1f}{of_total} MB")
                allowed = timeout + (received - at_start) / _LEAST_BYTES_PER_SECOND
                if time.monotonic() - began > allowed:
                    raise Unusable(
                        f"too slow: {received - at_start:,} bytes in "
                        f"{time.monotonic() - began:.0f} s"
                    )
                if received > _LARGEST_DOWNLOAD:
                    raise Unusable(f"sends more than {_LARGEST_DOWNLOAD:,} bytes")
        if total and received < total:
            raise Unusable(
                f"connection dropped after {received:,} of {total:,} bytes", retryable=True
            )


@contextlib.contextmanager
def request(url: str, timeout: float, start: int = 0) -> Iterator[httpx.Response]:
    """A streamed GET of `url` from byte `start`, with every failure as a reason in words."""
    # The files are gzip themselves: asking for no encoding keeps a server from wrapping them.
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    try:
        client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            follow_redirects=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise Unusable(
            f"cannot set up a connection ({error}): check SSL_CERT_FILE, SSL_CERT_DIR and the "
            "proxy variables of the environment"
        ) from error
    try:
        with client, client.stream("GET", url, headers=headers) as response:
            status = response.status_code
            if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
                raise NotThere(f"is not there (HTTP {status})")
            if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise Forbidden(f"HTTP {status} {response.reason_phrase}")
            if response.is_error:
                raise Unusable(
                    f"HTTP {status} {response.reason_phrase}",
                    retryable=status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS,
                )
            yield response
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        reason = str(error) or "no answer"
        raise Unreachable(f"cannot connect ({reason})", retryable=True) from error
    except httpx.TimeoutException as error:
        raise Unusable(f"no answer within {timeout:g} s", retryable=True) from error
    except httpx.RemoteProtocolError as error:
        raise Unusable(f"connection dropped ({error})", retryable=True) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise Unusable(f"not a usable address ({error})") from error
    except httpx.HTTPError as error:
        raise Unusable(f"{type(error).__name__}: {error}", retryable=True) from error
