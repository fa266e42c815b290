"""Normalisation layers by name, replacing batch normalisation, and normalisation of single images."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_robust.core.keras_private import flatten_layers
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers.batch_normalization import BatchNormalization
from keras_robust.layers.mixture_batch_normalization import MixtureBatchNormalization
from keras_robust.layers.reversible_blocks import ReversibleBlocks

NORMALIZATIONS = ("batch", "synchronized_batch", "mixture_batch", "group")
LARGEST_GROUPS = 32
"""Default groups of a group normalisation (Wu & He, 2018). If they do not divide the channels, fewer are used."""


def make_normalization(normalization: str, channels: int, **options: Any) -> keras.Layer:
    """Returns a normalisation layer for images with `channels` channels.

    Args:
        normalization: "batch": statistics of each replica's share of the batch; "synchronized_batch": statistics of the
            global batch; "mixture_batch": see `MixtureBatchNormalization`; or "group".
        channels: number of channels of the input.
        **options: arguments of the layer, such as `epsilon`. `momentum` is dropped if the layer has no averages.

    Raises:
        ValueError: if `normalization` is unknown.
    """
    if normalization == "batch":
        return BatchNormalization(**options)
    if normalization == "synchronized_batch":
        return keras.layers.BatchNormalization(synchronized=True, **options)
    if normalization == "mixture_batch":
        return MixtureBatchNormalization(**options)
    if normalization != "group":
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}. Received: normalization={normalization!r}")
    options.pop("momentum", None)
    groups = next(groups for groups in range(min(LARGEST_GROUPS, channels), 0, -1) if channels % groups == 0)
    return keras.layers.GroupNormalization(**{"groups": groups, **options})


@keras.saving.register_keras_serializable(PACKAGE)
class PerImageStandardization(keras.layers.Layer):
    """Computes (x - mean) / max(deviation, 1 / sqrt(pixels)) of each image, as `tf.image.per_image_standardization`.

    The code of Madry et al. (2018) and Shafahi et al. (2019) has it in front of its CIFAR networks.
    """

    def call(self, images: Any) -> Any:
        """Returns images of the same shape, (batch, height, width, channels)."""
        pixels = images.shape[1] * images.shape[2] * images.shape[3]
        mean, variance = keras.ops.moments(images, axes=(1, 2, 3), keepdims=True)
        deviation = keras.ops.sqrt(keras.ops.maximum(variance, 1.0 / pixels))  # never the square root of 0
        return (images - mean) / deviation

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape


REPLACEMENTS = ("batch", "mixture_batch", "group")


def replace_normalization(classifier: keras.Model, normalization: str, **options: Any) -> keras.Model:
    """Returns a copy of `classifier` with every batch normalisation replaced. All other weights are copied.

    Both branches of a mixture batch normalisation start as copies of the layer that it replaces. A group normalisation
    starts with its scale and offset: train or fine-tune it.

    Args:
        classifier: a built functional or sequential model, such as one of `keras.applications`. It is not changed.
        normalization: "batch" is the toolkit's `BatchNormalization`, which computes the same faster; "mixture_batch" or
            "group".
        **options: arguments of `MixtureBatchNormalization` or `keras.layers.GroupNormalization`, such as `groups=8`.
            The default number of groups is that of `make_normalization`.

    Raises:
        ValueError: if `normalization` is unknown, there is no batch normalisation to replace, or the classifier is a
            subclassed model, which Keras cannot copy layer by layer.
    """
    if normalization not in REPLACEMENTS:
        raise ValueError(f"normalization must be one of {REPLACEMENTS}. Received: normalization={normalization!r}")
    check_functional(classifier)
    pairs: list[tuple[keras.Layer, keras.Layer]] = []

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            # A sequential model calls its layers without a mask. A functional one repeats the original calls.
            options_of_kind = {} if isinstance(layer, keras.Sequential) else {"call_function": _call_without_mask}
            return keras.models.clone_model(layer, clone_function=clone, **options_of_kind)
        if isinstance(layer, ReversibleBlocks):
            return layer.with_functions([clone(function) for function in layer.functions])
        if not isinstance(layer, keras.Layer):  # an operation of `keras.ops`, without weights
            return type(layer).from_config(layer.get_config())
        is_exchanged = isinstance(layer, keras.layers.BatchNormalization) and not (
            normalization == "batch" and isinstance(layer, BatchNormalization)
        )
        new = (
            _replacement(layer, normalization, options) if is_exchanged else type(layer).from_config(layer.get_config())
        )
        pairs.append((layer, new))
        return new

    copy = clone(classifier)
    if all(type(old) is type(new) for old, new in pairs):
        raise ValueError(
            f"The classifier has no batch normalisation to replace. Received: classifier={classifier.name!r}"
        )
    for old, new in pairs:
        if isinstance(new, MixtureBatchNormalization):
            for branch in (new.clean, new.adversarial):
                branch.set_weights(old.get_weights())
        elif type(new) is type(old) or normalization == "batch":
            set_weights(new, old.get_weights())
        else:
            new.set_weights(old.get_weights()[: len(new.weights)])  # scale and offset come first
    return copy


def _call_without_mask(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer as before, without the mask that only batch normalisation accepts. Images have no mask."""
    kwargs.pop("mask", None)
    return layer(*args, **kwargs)


def _replacement(layer: keras.layers.BatchNormalization, normalization: str, options: dict[str, Any]) -> keras.Layer:
    config = layer.get_config()
    if normalization == "group":
        config = {name: config[name] for name in ("name", "axis", "epsilon", "center", "scale", "trainable")}
    config["dtype"] = layer.dtype_policy
    return make_normalization(normalization, layer.moving_mean.shape[0], **{**config, **options})


def check_functional(classifier: Any) -> None:
    """Raises `ValueError` unless `classifier` is a functional or sequential model with a known input shape.

    Keras can copy only these layer by layer.
    """
    try:
        inputs = classifier.inputs if isinstance(classifier, keras.Model) else None
    except (AttributeError, ValueError):  # a sequential model without an input shape, a subclassed model
        inputs = None
    if not inputs:
        raise ValueError(
            "classifier must be a functional or sequential model with a known input shape. "
            f"Received: classifier={classifier!r} of type {type(classifier).__name__}"
        )


def set_weights(layer: keras.Layer, weights: Sequence[np.ndarray]) -> None:
    """Sets the weights of a layer or model like `set_weights`, and updates its `Normalization` layers.

    An adapted `keras.layers.Normalization` computes with copies of its mean and variance. Keras makes these copies when
    the layer is built, adapted or loaded, but not when its weights are set. A function that is already traced keeps the
    old copies.

    Args:
        layer: a built layer or model.
        weights: a list as from its `get_weights`.
    """
    layer.set_weights(weights)
    for part in flatten_layers(layer):
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()
