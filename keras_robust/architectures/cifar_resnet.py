"""Residual networks for small images (He et al., 2016, section 4.2)."""

import keras

from keras_robust.architectures import parts
from keras_robust.architectures.parts import Parts

STAGES = (16, 32, 64)
"""Filters of the stages. Each stage except the first halves the resolution."""


def CifarResNet(  # noqa: N802
    depth: int = 20,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
    version: int = 1,
) -> keras.Model:
    """Returns a ResNet with 6 n + 2 layers for CIFAR-10: 3 stages of n blocks with 16, 32 and 64 filters.

    Shortcuts have no parameters (option A), so both versions have the same number of trained weights: 269,722 at depth
    20, 1,727,962 at depth 110. Version 1 applies the ReLU to sums. Version 2 is the pre-activation network of He et al.
    (2016, Identity mappings in deep residual networks). The network normalises images with CIFAR-10's mean and
    variance.

    Args:
        depth: 6 n + 2: 20, 32, 44, 56 and 110 in the paper.
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.
        version: 1 or 2.

    Raises:
        ValueError: if `depth`, `version` or `normalization` has another value.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"The depth of a ResNet for CIFAR must be 6 n + 2, such as 20. Received: depth={depth!r}")
    parts.check_version(version)
    make = Parts(weight_decay, normalization)
    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.CIFAR10_MEAN, parts.CIFAR10_VARIANCE)
    x = make.activate(make.convolve(x, 16, 3))
    for filters in STAGES:
        for index in range((depth - 2) // 6):
            strides = 2 if filters > 16 and index == 0 else 1
            if version == 1:
                x = _post_activation(make, x, filters, strides)
            else:
                x = _pre_activation(make, x, filters, strides, is_active=filters == 16 and index == 0)
    if version == 2:
        x = make.activate(x)
    suffix = "" if version == 1 else "_v2"
    return keras.Model(inputs, make.classify(x, num_classes), name=f"resnet{depth}{suffix}")


def ResNet20(  # noqa: N802
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
) -> keras.Model:
    """Returns the ResNet with 20 layers. The arguments are those of `CifarResNet`."""
    return CifarResNet(20, num_classes, input_shape, weight_decay, normalization)


def _post_activation(make: Parts, x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    shortcut = parts.pad_channels(x, filters, strides) if strides > 1 else x
    x = make.activate(make.convolve(x, filters, 3, strides))
    x = make.normalize(make.convolve(x, filters, 3, ends_block=True))
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _pre_activation(
    make: Parts, x: keras.KerasTensor, filters: int, strides: int, is_active: bool
) -> keras.KerasTensor:
    """Returns a block of version 2. If `x` is already activated, the shortcut starts behind the activation as well."""
    shortcut = parts.pad_channels(x, filters, strides) if strides > 1 else x
    x = make.convolve(x if is_active else make.activate(x), filters, 3, strides)
    x = make.convolve(make.activate(x), filters, 3, ends_block=True)
    return keras.layers.Add()([x, shortcut])
