"""Residual networks for ImageNet (He et al., 2016, section 4.1)."""

import keras

from keras_robust.architectures import parts

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""By depth: how many blocks each stage has (He et al., 2016, table 1; 200: He et al., 2016, identity mappings)."""
EXPANSION = 4
"""Filters at the end of a bottleneck, per filter in it."""


def ResNet(  # noqa: N802
    depth: int = 50,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    weight_decay: float = 0.0,
    normalization: str = "batch",
) -> keras.Model:
    """Returns a ResNet-v1 with projections as shortcuts, as Xie & Yuille (2020) train it.

    Basic blocks at depth 18, bottlenecks else, which reduce the resolution in their 3x3 convolution, and whose last
    scale is initialised at 0 (Goyal et al., 2017). ResNet-50 has 25,557,032 weights that are trained.

    Args:
        depth: 18, 50, 101, 152 or 200.
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1], normalised inside with ImageNet's mean and variance.
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: of `make_normalization`.

    Raises:
        ValueError: if `depth` or `normalization` is unknown.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth is one of {sorted(BLOCKS)}. Received: depth={depth!r}")
    regularizer = parts.decay_of(weight_decay)
    layers = keras.layers

    def block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
        # (filters, size, strides) of the convolutions
        if depth == 18:
            convolutions = [(filters, 3, strides), (filters, 3, 1)]
        else:
            convolutions = [(filters, 1, 1), (filters, 3, strides), (EXPANSION * filters, 1, 1)]
        shortcut, last = x, convolutions[-1]
        if strides > 1 or x.shape[-1] != last[0]:
            shortcut = parts.normalize(parts.convolve(x, last[0], 1, strides, regularizer), normalization)
        for convolution in convolutions[:-1]:
            x = layers.ReLU()(parts.normalize(parts.convolve(x, *convolution, regularizer), normalization))
        x = parts.normalize(parts.convolve(x, *last, regularizer), normalization, gamma_initializer="zeros")
        return layers.ReLU()(layers.Add()([x, shortcut]))

    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.IMAGENET_MEAN, parts.IMAGENET_VARIANCE)
    x = layers.ReLU()(parts.normalize(parts.convolve(x, 64, 7, 2, regularizer), normalization))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, blocks in enumerate(BLOCKS[depth]):
        for index in range(blocks):
            x = block(x, 64 * 2**stage, 2 if stage > 0 and index == 0 else 1)
    return keras.Model(inputs, parts.classify(x, num_classes, regularizer), name=f"resnet{depth}")
