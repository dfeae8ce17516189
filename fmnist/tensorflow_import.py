"""Import TensorFlow quietly, and only where it is needed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_tensorflow_import() -> Iterator[None]:
    """Import modules that need TensorFlow inside this block, as late as possible.

    The import takes seconds, which help texts and rejected settings should not cost. TensorFlow's
    native code notes missing GPUs on the standard error stream as it loads, whatever log level is
    set, so that stream is silenced for the duration.
    """
    # TensorFlow and Keras read these as they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
