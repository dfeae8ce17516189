"""Train, judge and publish an image classifier for Fashion-MNIST.

Importing the package, or any module of it, has no effect: no seed, folder, client or
environment is touched, and TensorFlow is imported only by the modules that compute with it.
"""

from typing import Any


def load_champion(url: str) -> Any:
    """Load the champion of the store at `url` (a folder or `s3://bucket/prefix`) as a Keras model.

    The model takes raw images `(n, height, width)` of 0..255 and returns probabilities
    `(n, classes)`. The file is checked by the digests that lead to it from `champion.json`; code
    hidden in it is refused, not run.

    Raises:
        SettingsError: the URL cannot be a store.
        DamagedError: `champion.json`, the manifest or the file is damaged, missing or swapped.
        StoreError: there is no champion, or the store cannot be read.
    """
    from pydantic import ValidationError

    from fmnist.configure import describe_faults
    from fmnist.errors import SettingsError
    from fmnist.registry import keys
    from fmnist.registry.champion import read_champion
    from fmnist.settings import StoreSettings
    from fmnist.store.base import open_store
    from fmnist.tensorflow_import import quiet_tensorflow_import

    try:
        settings = StoreSettings(url=url)
    except ValidationError as error:
        raise SettingsError(f"the URL of a store {describe_faults(error)[0]}") from error
    _, files = read_champion(open_store(settings.url), keys.MODEL)
    with quiet_tensorflow_import():
        from fmnist.training.model_file import load_model_bytes
    return load_model_bytes(files[keys.MODEL])
