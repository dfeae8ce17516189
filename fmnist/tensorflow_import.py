"""Import TensorFlow quietly, and only where it is needed."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from fmnist.errors import StoreError
from fmnist.process import uninterrupted


@contextmanager
def quiet_tensorflow_import() -> Iterator[None]:
    """Silence standard error for an import of modules that need TensorFlow.

    Use it as late as possible: the import takes seconds, for which nobody who asks for help or
    misspells a setting should wait. As TensorFlow loads, its native code complains of missing GPUs,
    whatever log level is set; so the stream itself is redirected.

    Raises:
        StoreError: there is no folder for temporary files, which the import looks for.
    """
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise StoreError(
            f"no temporary file can be written: {error.strerror}; free some space, or set TMPDIR to "
            "a folder that this user may write to"
        ) from error
    # TensorFlow and Keras read these when they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        # Interrupted, native code may end its import by another error than KeyboardInterrupt.
        with uninterrupted():
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
