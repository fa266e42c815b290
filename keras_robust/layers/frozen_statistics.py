"""Training with the moving averages of batch normalisation instead of batch statistics."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


@contextlib.contextmanager
def frozen_statistics(classifier: keras.Layer, frozen: bool = True) -> Iterator[None]:
    """Lets the batch normalisations of `classifier` use, and not change, their moving averages in training, too.

    Scale and offset are trained on. (`layer.trainable = False` would freeze them as well.) It acts on what is called or
    traced inside.

    Args:
        classifier: any model.
        frozen: whether to do so at all.
    """
    layers = [layer for layer in classifier._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not frozen:
        layers = []
    for layer in layers:
        layer.__dict__["call"] = _in_inference_mode(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def _in_inference_mode(call: Callable[..., Any]) -> Callable[..., Any]:
    def frozen_call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        del training
        return call(inputs, training=False, mask=mask)

    return frozen_call
