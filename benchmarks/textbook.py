"""The training script that a textbook would have: stock Keras, one file, nothing checked.

    python benchmarks/textbook.py FOLDER    # with the four files of the data set

`champion.py` runs it beside the job, for comparison. Its last line is the test accuracy.
"""

import gzip
import sys
from pathlib import Path
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
from sklearn.metrics import classification_report, confusion_matrix
from sklearn.model_selection import train_test_split

mpl.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns

FOLDER = Path(sys.argv[1])


def load(name: str) -> tuple[Any, Any]:
    """Flattened images scaled to 0..1, and their labels."""
    with gzip.open(FOLDER / f"{name}-images-idx3-ubyte.gz") as stream:
        images = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(FOLDER / f"{name}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    return images.astype("float32") / 255, labels


x, y = load("train")
x_test, y_test = load("t10k")
x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)

model = keras.Sequential([keras.Input((784,))])
for units, rate in ((256, 0.3), (128, 0.3), (64, 0.2)):
    model.add(keras.layers.Dense(units))
    model.add(keras.layers.LeakyReLU(0.1))
    model.add(keras.layers.BatchNormalization())
    model.add(keras.layers.Dropout(rate))
model.add(keras.layers.Dense(10, activation="softmax"))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=100,
    validation_data=(x_val, y_val),
    verbose=2,
    callbacks=[
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3),
        keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True),
    ],
)

predicted = model.predict(x_test, verbose=0).argmax(axis=1)
print(classification_report(y_test, predicted, digits=4))
figure, (losses, accuracies, heat) = plt.subplots(1, 3, figsize=(18, 5))
for axes, figures in ((losses, "loss"), (accuracies, "accuracy")):
    axes.plot(history.history[figures], label=figures)
    axes.plot(history.history[f"val_{figures}"], label=f"validation {figures}")
    axes.legend()
sns.heatmap(confusion_matrix(y_test, predicted), annot=True, fmt="d", ax=heat)
figure.savefig("report.png")
model.save("model.keras")
print(f"test accuracy {(predicted == y_test).mean():.4f}")
