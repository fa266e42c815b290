"""Wide residual networks (Zagoruyko & Komodakis, 2016)."""

import keras

from keras_robust.architectures import parts
from keras_robust.architectures.parts import Parts
from keras_robust.layers import PerImageStandardization

LEAK = 0.1
"""Slope of the leaky ReLU in the code of Madry et al. (2018) and Shafahi et al. (2019)."""


def WideResNet(  # noqa: N802
    depth: int = 34,
    width: int = 10,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
) -> keras.Model:
    """Returns a network of 3 stages of n pre-activation blocks with 16, 32 and 64 times `width` filters.

    A depth of 6 n + 4 is the network of the paper. Its shortcuts are convolutions where the shape changes. WRN-28-10
    and WRN-34-10 have 36,479,194 and 46,160,474 trainable weights. A depth of 6 n + 2 is the network in the code of
    Madry et al. (2018) and Shafahi et al. (2019). Their "w32-10" has shortcuts without parameters, leaky ReLUs, 1e-3 as
    the epsilon of batch normalisation, and standardises each image.

    Args:
        depth: 6 n + 4 or 6 n + 2.
        width: factor of the number of filters, at least 1.
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.

    Raises:
        ValueError: if `depth`, `width` or `normalization` has another value.
    """
    if depth < 8 or depth % 6 not in (2, 4) or width < 1:
        raise ValueError(
            "The depth of a wide ResNet must be 6 n + 4, or 6 n + 2 without convolutions as shortcuts, and its width "
            f"at least 1. Received: depth={depth!r}, width={width!r}"
        )
    original = depth % 6 == 4
    make = Parts(weight_decay, normalization, epsilon=1e-5 if original else 1e-3)

    def activate(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.ReLU(negative_slope=0.0 if original else LEAK)(make.normalize(x))

    def block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
        changes = x.shape[-1] != filters
        active = activate(x)
        if not changes:
            shortcut = x
        elif original:
            shortcut = make.convolve(active, filters, 1, strides)
        else:
            # As in that code, the shortcut starts behind the activation only at the beginning of the network.
            start = active if strides == 1 else x
            shortcut = parts.pad_channels(start, filters, strides, size=strides)
        out = make.convolve(active, filters, 3, strides)
        out = make.convolve(activate(out), filters, 3, ends_block=True)
        return keras.layers.Add()([out, shortcut])

    inputs = keras.Input(input_shape)
    if original:
        x = parts.standardize(inputs, parts.CIFAR10_MEAN, parts.CIFAR10_VARIANCE)
    else:
        x = PerImageStandardization()(inputs)
    x = make.convolve(x, 16, 3)
    for stage, filters in enumerate((16 * width, 32 * width, 64 * width)):
        for index in range((depth - 2) // 6):
            x = block(x, filters, 2 if stage > 0 and index == 0 else 1)
    outputs = make.classify(activate(x), num_classes)
    return keras.Model(inputs, outputs, name=f"wide_resnet{depth}_{width}")
