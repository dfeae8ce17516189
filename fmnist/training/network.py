"""The network, from raw pixels to class probabilities."""

import keras

from fmnist.data.records import CLASSES, IMAGE_SHAPE
from fmnist.settings import ModelSettings

_LARGEST_PIXEL = 255


def build(settings: ModelSettings) -> keras.Model:
    """The untrained network: raw `(n, 28, 28)` images of 0..255 in, `(n, 10)` probabilities out.

    Scaling to 0..1 and flattening to 784 are its first two layers, and nowhere else. Each hidden
    block is Dense, BatchNormalization, LeakyReLU, Dropout; a softmax layer ends it.
    """
    images = keras.Input(IMAGE_SHAPE, name="images")
    x = keras.layers.Rescaling(1 / _LARGEST_PIXEL, name="scale")(images)
    x = keras.layers.Flatten(name="flatten")(x)
    for number, (units, rate) in enumerate(
        zip(settings.hidden, settings.dropout, strict=True), start=1
    ):
        x = keras.layers.Dense(units, kernel_initializer="he_normal", name=f"dense_{number}")(x)
        x = keras.layers.BatchNormalization(name=f"normalization_{number}")(x)
        x = keras.layers.LeakyReLU(settings.leaky_slope, name=f"leaky_relu_{number}")(x)
        x = keras.layers.Dropout(rate, name=f"dropout_{number}")(x)
    probabilities = keras.layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(images, probabilities, name="fmnist")
