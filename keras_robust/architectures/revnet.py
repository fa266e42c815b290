"""Reversible residual networks (Gomez et al., 2017)."""

from collections.abc import Sequence

import keras

from keras_robust.architectures import parts
from keras_robust.architectures.parts import Parts
from keras_robust.layers import ReversibleBlocks


def RevNet(  # noqa: N802
    depth: int = 38,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
    filters: tuple[int, int, int, int] | None = None,
    recompute: bool = True,
) -> keras.Model:
    """Returns the RevNet with 12 n + 2 layers for CIFAR: 3 stages of n pre-activation blocks on halves of channels.

    The backward pass recomputes activations instead of storing them (see `ReversibleBlocks`), except in the first
    blocks of the second and third stage, which halve the resolution. The memory of activations therefore does not grow
    with the depth. RevNet-38 and RevNet-110 have 464,890 and 1,729,194 trained weights. The network normalises images
    with CIFAR-10's mean and variance.

    Kannan et al. (2018) train a "RevNet-9" on SVHN without describing it, and no RevNet with 3 stages has 9 layers.
    Here a depth of 9 is the network with 9 blocks, 3 in each stage, which is the smallest one that Gomez et al.
    published: RevNet-38.

    Args:
        depth: 12 n + 2: 38 and 110 in the paper; or 9.
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss; 1e-4 in the authors' code.
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.
        filters: filters of the first convolution and of the stages: multiples of 4 that do not decrease. None is the
            paper's choice: (32, 32, 64, 112) at depths 9 and 38, otherwise (32, 32, 64, 128).
        recompute: False stores all activations, as other networks do.

    Raises:
        ValueError: if `depth`, `filters` or `normalization` has another value.
    """
    if filters is None:
        filters = (32, 32, 64, 112) if depth in (9, 38) else (32, 32, 64, 128)
    _check(depth, filters)
    blocks = 3 if depth == 9 else (depth - 2) // 12
    make = Parts(weight_decay, normalization, momentum=0.99, epsilon=1e-3, initializer=parts.FAN_OUT)
    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.CIFAR10_MEAN, parts.CIFAR10_VARIANCE)
    x = make.activate(make.convolve(x, filters[0], 3))
    for stage in (1, 2, 3):
        is_reversible = stage == 1 and filters[0] == filters[1]
        if not is_reversible:
            x = _transition(make, x, filters[stage], strides=1 if stage == 1 else 2, is_active=stage == 1)
        functions = []
        for index in range(blocks if is_reversible else blocks - 1):
            functions += [_function(make, x, is_active=is_reversible and index == 0), _function(make, x)]
        if functions:
            x = ReversibleBlocks(functions, recompute)(x)
    return keras.Model(inputs, make.classify(make.activate(x), num_classes), name=f"revnet{depth}")


def _check(depth: int, filters: Sequence[int]) -> None:
    if depth != 9 and (depth < 14 or depth % 12 != 2):
        raise ValueError(f"The depth of a RevNet must be 12 n + 2, or 9. Received: depth={depth!r}")
    if len(filters) != 4 or any(each % 4 for each in filters) or list(filters) != sorted(filters):
        raise ValueError(f"filters must be four multiples of 4 that do not decrease. Received: filters={filters!r}")


def _residual(
    make: Parts, x: keras.KerasTensor, filters: int, strides: int = 1, is_active: bool = False
) -> keras.KerasTensor:
    """Returns a residual function of `x`, after normalisation and ReLU unless `x` is already activated."""
    x = make.convolve(x if is_active else make.activate(x), filters, 3, strides)
    return make.convolve(make.activate(x), filters, 3, ends_block=True)


def _function(make: Parts, x: keras.KerasTensor, is_active: bool = False) -> keras.Model:
    """Returns a residual function of one half of the channels of `x`, as a model."""
    half = x.shape[-1] // 2
    inputs = keras.Input((*x.shape[1:-1], half))
    return keras.Model(inputs, _residual(make, inputs, half, is_active=is_active))


def _transition(make: Parts, x: keras.KerasTensor, filters: int, strides: int, is_active: bool) -> keras.KerasTensor:
    """Returns a block that changes the shape, which cannot be reversed."""
    x1, x2 = keras.ops.split(x, 2, axis=-1)
    half = filters // 2
    shortcut1, shortcut2 = (parts.pad_channels(each, half, strides, size=2) for each in (x1, x2))
    y1 = keras.layers.Add()([shortcut1, _residual(make, x2, half, strides, is_active)])
    y2 = keras.layers.Add()([shortcut2, _residual(make, y1, half)])
    return keras.layers.Concatenate()([y1, y2])
