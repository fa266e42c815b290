"""Weights of classifiers that were adapted to their images."""

import keras
import numpy as np

from keras_robust.layers.normalization import set_weights


def test_an_adapted_normalization_follows_its_weights(batch):
    """Nested as well; one whose mean was given has no weights."""
    images, _ = batch(shape=(4, 4, 1))
    inner = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Normalization()])
    given = keras.layers.Normalization(mean=0.5, variance=4.0)
    model = keras.Sequential([keras.Input((4, 4, 1)), inner, given])
    inner.layers[0].adapt(images)
    copy = keras.models.clone_model(model)
    set_weights(copy, model.get_weights())
    expected = ((images - images.mean()) / images.std() - 0.5) / 2
    np.testing.assert_allclose(copy(images), expected, rtol=1e-4, atol=1e-4)
