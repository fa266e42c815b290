"""Weights of models that normalise their images."""

from collections.abc import Sequence

import keras
import numpy as np


def set_weights(layer: keras.Layer, weights: Sequence[np.ndarray]) -> None:
    """Sets the weights of a layer or model as its own `set_weights`, and has its normalisation follow them.

    An adapted `keras.layers.Normalization` computes with copies of its mean and variance, which Keras makes when the
    layer is built, adapted or loaded, but not when its weights are set. A function that was traced before keeps the
    copies of then.

    Args:
        layer: built.
        weights: as of its `get_weights`.
    """
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()
