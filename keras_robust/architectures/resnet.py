"""Residual networks for small images (He et al., 2016, section 4.2)."""

import keras

from keras_robust.architectures import parts


def _block(
    x: keras.KerasTensor, filters: int, strides: int, regularizer: object, normalization: str
) -> keras.KerasTensor:
    layers = keras.layers
    shortcut = parts.pad_channels(x, filters, strides) if strides > 1 else x  # option A of the paper
    x = parts.normalize(parts.convolve(x, filters, 3, strides, regularizer), normalization)
    x = parts.normalize(parts.convolve(layers.ReLU()(x), filters, 3, 1, regularizer), normalization)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def ResNet20(  # noqa: N802
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str = "batch",
) -> keras.Model:
    """Returns the ResNet with 20 layers for CIFAR-10: 3 stages of 3 blocks with 16, 32 and 64 filters.

    Identity shortcuts without parameters (option A), batch normalisation, 269,722 trainable weights. The images are
    normalised inside with CIFAR-10's mean and variance.

    Args:
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: of `make_normalization`.

    Raises:
        ValueError: if `normalization` is unknown.
    """
    regularizer = parts.decay_of(weight_decay)
    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.CIFAR10_MEAN, parts.CIFAR10_VARIANCE)
    x = parts.normalize(parts.convolve(x, 16, 3, 1, regularizer), normalization)
    x = keras.layers.ReLU()(x)
    for filters in (16, 32, 64):
        for index in range(3):
            x = _block(x, filters, 2 if filters > 16 and index == 0 else 1, regularizer, normalization)
    return keras.Model(inputs, parts.classify(x, num_classes, regularizer), name="resnet20")
