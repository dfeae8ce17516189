"""Where data and stores may be: the addresses that settings accept, and the kinds of store.

A check returns the value in its usual form, or raises `ValueError` with what is wrong with it.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

# The kinds of store by the scheme of their URL; "" is a folder. To add one, write its class in a
# file beside these and name it here. Names, not imports, so that a folder does not load boto3.
STORES = {"": "fmnist.store.folder:FolderStore", "s3": "fmnist.store.s3:S3Store"}


def expand_home(folder: Path | None) -> Path | None:
    """The folder with a leading `~` replaced by the user's home."""
    try:
        return folder.expanduser() if folder else None
    except RuntimeError as error:
        raise ValueError("starts with the home of an unknown user") from error


def check_location(value: str) -> str:
    """Accept a folder, an http(s) address or the URL of a store."""
    if not value.strip():
        raise ValueError("must not be empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not contain control characters")
    scheme, separator, rest = value.partition("://")
    if not separator and re.match(r"[A-Za-z0-9+]{2,}:/", value):
        raise ValueError("has one slash too few after its scheme")
    if not separator:
        expand_home(Path(value))
        return value
    # Anywhere, not just before the first slash: a secret key may have slashes of its own.
    if "@" in rest:
        raise ValueError("must not contain credentials: give them through the environment")
    parts = urlsplit(value)
    if scheme not in (*STORES, "http", "https"):
        raise ValueError(f"has the unknown scheme '{scheme}://'")
    if not parts.netloc:
        raise ValueError("names no bucket or host")
    if parts.query or parts.fragment:
        raise ValueError("must not contain '?' or '#'")
    if ".." in parts.path.split("/"):
        raise ValueError("must not contain '..'")
    return value.rstrip("/")


def check_mirror(value: str) -> str:
    """Accept an http(s) address."""
    checked = check_location(value)
    if not checked.startswith(("http://", "https://")):
        raise ValueError("must be http(s):// addresses; other places go into data.source")
    return checked


def check_store_url(value: str) -> str:
    """Accept what `check_location` does, except http(s), which cannot be written to."""
    if value.startswith(("http://", "https://")):
        urls = " or ".join(f"{scheme}://bucket/prefix" for scheme in STORES if scheme)
        raise ValueError(
            f"must be a folder or {urls}; a server's address goes into AWS_ENDPOINT_URL_S3"
        )
    return check_location(value)
