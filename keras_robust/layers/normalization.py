"""Normalisation by name, for architectures."""

from typing import Any

import keras

from keras_robust.layers.mixture_batch_normalization import MixtureBatchNormalization

NORMALIZATIONS = ("batch", "synchronized_batch", "mixture_batch", "group")
LARGEST_GROUPS = 32
"""Groups of a group normalisation (Wu & He, 2018), or the largest smaller number that divides the channels."""


def make_normalization(normalization: str, channels: int, **options: Any) -> keras.Layer:
    """Returns a normalisation layer for images of `channels` channels.

    Args:
        normalization: "batch", whose statistics are those of each replica's share of the batch; "synchronized_batch",
            whose statistics are those of the global batch; "mixture_batch" (see `MixtureBatchNormalization`) or
            "group".
        channels: of its input.
        **options: of the layer, such as `epsilon`; `momentum` is dropped where there are no averages.

    Raises:
        ValueError: if `normalization` is unknown.
    """
    if normalization == "batch":
        return keras.layers.BatchNormalization(**options)
    if normalization == "synchronized_batch":
        return keras.layers.BatchNormalization(synchronized=True, **options)
    if normalization == "mixture_batch":
        return MixtureBatchNormalization(**options)
    if normalization != "group":
        raise ValueError(f"normalization is one of {NORMALIZATIONS}. Received: normalization={normalization!r}")
    options.pop("momentum", None)
    groups = next(groups for groups in range(min(LARGEST_GROUPS, channels), 0, -1) if channels % groups == 0)
    return keras.layers.GroupNormalization(**{"groups": groups, **options})
