"""Other networks that `build` could return: what the README promises, the tests train."""

import keras
from keras import layers

from fmnist.settings import ModelSettings


def convolutional(
    settings: ModelSettings, image_shape: tuple[int, int], classes: int
) -> keras.Model:
    images = keras.Input(image_shape)
    x = layers.Reshape((*image_shape, 1))(layers.Rescaling(1 / 255)(images))
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.LeakyReLU(settings.leaky_slope)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(settings.dropout[0])(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x))


def residual(settings: ModelSettings, image_shape: tuple[int, int], classes: int) -> keras.Model:
    """Dense blocks with shortcuts, dropout on images, and softmax as a layer of its own."""
    images = keras.Input(image_shape)
    x = layers.Dropout(0.05)(layers.Rescaling(1 / 255)(images))
    x = layers.Dense(64)(layers.Flatten()(x))
    for _ in range(2):
        y = layers.LeakyReLU()(layers.BatchNormalization()(x))
        y = layers.Dropout(settings.dropout[0])(layers.Dense(64)(y))
        x = layers.Add()([x, y])
    x = layers.Dense(classes)(layers.LayerNormalization()(x))
    return keras.Model(images, layers.Softmax()(x))


def plain(settings: ModelSettings, image_shape: tuple[int, int], classes: int) -> keras.Model:
    """Neither dropout nor normalization, and in Keras's sequential form."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            *(layers.Dense(units, activation="relu") for units in settings.hidden),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def averaged(settings: ModelSettings, image_shape: tuple[int, int], classes: int) -> keras.Model:
    """The mean of two networks' probabilities: no layer of it makes logits."""
    images = keras.Input(image_shape)
    parts = [plain(settings, image_shape, classes)(images) for _ in range(2)]
    return keras.Model(images, layers.Average()(parts))
