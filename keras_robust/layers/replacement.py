"""Exchanges the batch normalisation of an existing classifier."""

from typing import Any

import keras

from keras_robust.core.normalization import set_weights
from keras_robust.layers.inspection import check_functional
from keras_robust.layers.mixture_batch_normalization import MixtureBatchNormalization
from keras_robust.layers.normalization import make_normalization
from keras_robust.layers.reversible_blocks import ReversibleBlocks

REPLACEMENTS = ("mixture_batch", "group")


def replace_normalization(classifier: keras.Model, normalization: str, **options: Any) -> keras.Model:
    """Returns a copy of `classifier` with every batch normalisation exchanged; all other weights are copied.

    A mixture batch normalisation starts with both branches as the one that it replaces. A group normalisation starts
    with its scale and offset: train or fine-tune it.

    Args:
        classifier: a built functional or sequential model, such as one of `keras.applications`; left as it is.
        normalization: "mixture_batch", or "group".
        **options: of `MixtureBatchNormalization` or `keras.layers.GroupNormalization`, such as `groups=8`; without, the
            number of groups is that of `make_normalization`.

    Raises:
        ValueError: if `normalization` is unknown, there is no batch normalisation to exchange, or the classifier is a
            subclassed model, which Keras cannot copy layer by layer.
    """
    if normalization not in REPLACEMENTS:
        raise ValueError(f"normalization is one of {REPLACEMENTS}. Received: normalization={normalization!r}")
    check_functional(classifier)
    pairs: list[tuple[keras.Layer, keras.Layer]] = []

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            # A sequential model calls its layers without a mask; a functional one repeats the calls of the original.
            options_of_kind = {} if isinstance(layer, keras.Sequential) else {"call_function": _call_without_mask}
            return keras.models.clone_model(layer, clone_function=clone, **options_of_kind)
        if isinstance(layer, ReversibleBlocks):
            return layer.with_functions([clone(function) for function in layer.functions])
        if not isinstance(layer, keras.Layer):  # an operation of `keras.ops`, without weights
            return type(layer).from_config(layer.get_config())
        is_exchanged = isinstance(layer, keras.layers.BatchNormalization)
        new = (
            _replacement(layer, normalization, options) if is_exchanged else type(layer).from_config(layer.get_config())
        )
        pairs.append((layer, new))
        return new

    copy = clone(classifier)
    if all(type(old) is type(new) for old, new in pairs):
        raise ValueError(f"There is no batch normalisation to exchange. Received: classifier={classifier.name!r}")
    for old, new in pairs:
        if isinstance(new, MixtureBatchNormalization):
            for branch in (new.clean, new.adversarial):
                branch.set_weights(old.get_weights())
        elif type(new) is type(old):
            set_weights(new, old.get_weights())
        else:
            new.set_weights(old.get_weights()[: len(new.weights)])  # scale and offset come first
    return copy


def _call_without_mask(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer as it was called, without the mask that only batch normalisation takes: images have none."""
    kwargs.pop("mask", None)
    return layer(*args, **kwargs)


def _replacement(layer: keras.layers.BatchNormalization, normalization: str, options: dict[str, Any]) -> keras.Layer:
    config = layer.get_config()
    if normalization == "group":
        config = {name: config[name] for name in ("name", "axis", "epsilon", "center", "scale", "trainable")}
    config["dtype"] = layer.dtype_policy
    return make_normalization(normalization, layer.moving_mean.shape[0], **{**config, **options})
