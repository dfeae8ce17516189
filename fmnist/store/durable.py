"""Write files and folders so that they survive a power cut."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder of a store and its parents, so that they survive a power cut.

    Existing ones are flushed too: whoever created them may have died before doing so.
    """
    branch = (folder, *folder.parents)
    doubtful = [path for path in branch if root in path.parents or not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(doubtful):
        flush_folder(path.parent)


@contextlib.contextmanager
def whole_file(target: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside the target, flushed to disk, to be moved into place in the block.

    Afterwards its folder is flushed too. If an error interrupts this, no partial file is left.
    """
    written = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write_flushed(written, content)
        yield written
        flush_folder(target.parent)
    finally:
        # The error that led here matters more than a file that is not an object.
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a new file that survives a power cut once its folder is flushed too."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename or link in the folder survive a power cut."""
    if os.name == "nt":  # Windows cannot open folders, and flushes their changes itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(descriptor)
