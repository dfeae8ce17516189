"""Train, judge and publish an image classifier for Fashion-MNIST.

Importing the package, or any module of it, has no effect: no seed, folder, client or
environment is touched, and TensorFlow is imported only by the modules that compute with it.
"""

from typing import Any


def load_champion(url: str) -> Any:
    """The champion of the store at `url` (a folder or `s3://bucket/prefix`), as a Keras model.

    It takes raw images `(n, 28, 28)` of 0..255 and gives probabilities `(n, 10)`. Its file is
    checked by the digests that lead to it from `champion.json`; code in it is refused, not run.

    Raises:
        SettingsError: the URL cannot be that of a store.
        DamagedError: `champion.json`, the manifest or the file is damaged, missing or swapped.
        StoreError: there is no champion, or the store cannot be read.
    """
    from pydantic import ValidationError

    from fmnist import cli, model, registry
    from fmnist.config import StoreSettings
    from fmnist.errors import SettingsError
    from fmnist.store import open_store

    try:
        settings = StoreSettings(url=url)
    except ValidationError as error:
        raise SettingsError(f"the URL of a store {cli.describe_faults(error)[0]}") from error
    _, files = registry.read_champion(open_store(settings.url), registry.MODEL)
    return model.load_bytes(files[registry.MODEL])
