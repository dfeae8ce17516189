"""The network, from raw pixels to class probabilities."""

import keras

from fmnist.settings import ModelSettings

_LARGEST_PIXEL = 255


def build(settings: ModelSettings, image_shape: tuple[int, int], classes: int) -> keras.Model:
    """The untrained network: raw images `(n, *image_shape)` of 0..255 to `(n, classes)`.

    Scaling and flattening are its first two layers, so the published model carries them. Each
    hidden block is Dense, BatchNormalization, LeakyReLU, Dropout; a softmax layer ends it.

    To train another network, return it here: any functional or sequential Keras model from such
    images to probabilities will do.
    """
    images = keras.Input(image_shape, name="images")
    x = keras.layers.Rescaling(1 / _LARGEST_PIXEL, name="scale")(images)
    x = keras.layers.Flatten(name="flatten")(x)
    for number, (units, rate) in enumerate(
        zip(settings.hidden, settings.dropout, strict=True), start=1
    ):
        x = keras.layers.Dense(units, kernel_initializer="he_normal", name=f"dense_{number}")(x)
        x = keras.layers.BatchNormalization(name=f"normalization_{number}")(x)
        x = keras.layers.LeakyReLU(settings.leaky_slope, name=f"leaky_relu_{number}")(x)
        x = keras.layers.Dropout(rate, name=f"dropout_{number}")(x)
    probabilities = keras.layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(images, probabilities, name="fmnist")
