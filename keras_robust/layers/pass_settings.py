"""Settings of the layers in one pass: frozen statistics, and repeating an earlier call with its settings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_robust.core.keras_private import flatten_layers, own_call, replace_call
from keras_robust.layers.mixture_batch_normalization import current_branch, use_branch


@contextlib.contextmanager
def frozen_statistics(classifier: keras.Layer, frozen: bool = True) -> Iterator[None]:
    """Makes the batch normalisations of `classifier` use their moving averages in training, without changing them.

    Scale and offset are still trained. (`layer.trainable = False` would freeze them as well.) It acts on layers that
    are called or traced inside.

    Args:
        classifier: any model.
        frozen: False does nothing.
    """
    layers = [layer for layer in flatten_layers(classifier) if isinstance(layer, keras.layers.BatchNormalization)]
    if not frozen:
        layers = []
    for layer in layers:
        replace_call(layer, _in_inference_mode(layer.call))
    try:
        yield
    finally:
        for layer in layers:
            replace_call(layer, None)


def _in_inference_mode(call: Callable[..., Any]) -> Callable[..., Any]:
    def frozen_call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        del training
        return call(inputs, training=False, mask=mask)

    return frozen_call


def remember_settings(layer: keras.Layer) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Returns a function that makes contexts in which `layer` is called with its present settings.

    `use_branch`, `frozen_statistics` and an attack's `compute_dtype` act on calls inside them. A backward pass that
    recomputes activations calls the layers after these contexts have ended.

    Args:
        layer: the layer. Settings of the layers in it are included.
    """
    branch = current_branch.get()
    settings = [(each, _settings_of(each)) for each in flatten_layers(layer)]

    @contextlib.contextmanager
    def as_then() -> Iterator[None]:
        changed = [(each, then, _settings_of(each)) for each, then in settings if then != _settings_of(each)]
        for each, then, _ in changed:
            _set(each, *then)
        try:
            with use_branch(branch):
                yield
        finally:
            for each, _, now in changed:
                _set(each, *now)

    return as_then


def _settings_of(layer: keras.Layer) -> tuple[keras.DTypePolicy, Callable[..., Any] | None]:
    """Returns the precision of `layer`, and its call if `frozen_statistics` has replaced it."""
    return layer.dtype_policy, own_call(layer)


def _set(layer: keras.Layer, dtype_policy: keras.DTypePolicy, call: Callable[..., Any] | None) -> None:
    layer.dtype_policy = dtype_policy
    replace_call(layer, call)
