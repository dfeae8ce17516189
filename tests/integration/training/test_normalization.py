import keras
import numpy as np
import pytest
import tensorflow as tf

from fmnist.training.normalization import FusedNormalization


def test_it_does_what_the_layer_of_keras_does() -> None:
    """Outputs, gradients and moving averages are the same, over several batches."""
    generator = np.random.default_rng(0)
    batches = [tf.constant(generator.normal(2, 3, (32, 5)), tf.float32) for _ in range(3)]
    weights = [generator.normal(size=5).astype(np.float32) for _ in range(2)]
    found = []
    for replaced in (False, True):
        layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=0.01)
        layer.build((None, 5))
        layer.set_weights([*weights, *layer.get_weights()[2:]])
        normalize = FusedNormalization(layer) if replaced else layer
        results = []
        for batch in batches:
            with tf.GradientTape() as tape:
                tape.watch(batch)
                outputs = normalize(batch, training=True)
                total = tf.reduce_sum(outputs**3)
            sources = [batch, layer.gamma.value, layer.beta.value]
            results += [outputs, *tape.gradient(total, sources)]
        results += [normalize(batches[0], training=False), *layer.get_weights()]
        found.append([np.asarray(result) for result in results])
    for theirs, ours in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
