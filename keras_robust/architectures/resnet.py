"""Residual networks for small images (He et al., 2016, section 4.2)."""

import keras

from keras_robust.layers import make_normalization

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of the training images of CIFAR-10 per channel, in [0, 1]."""
CIFAR10_VARIANCE = (0.2470**2, 0.2435**2, 0.2616**2)


def _convolution(x: keras.KerasTensor, filters: int, size: int, strides: int, regularizer: object) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        filters,
        size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=regularizer,
    )(x)


def _normalize(x: keras.KerasTensor, normalization: str) -> keras.KerasTensor:
    return make_normalization(normalization, x.shape[-1], momentum=0.9, epsilon=1e-5)(x)


def _block(
    x: keras.KerasTensor, filters: int, strides: int, regularizer: object, normalization: str
) -> keras.KerasTensor:
    layers = keras.layers
    shortcut = x
    if strides > 1:  # option A of the paper: subsampled identity, zeros for the new channels
        shortcut = layers.AveragePooling2D(1, strides)(x)
        missing = (filters - x.shape[-1]) // 2
        shortcut = keras.ops.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing, missing)))
    x = _normalize(_convolution(x, filters, 3, strides, regularizer), normalization)
    x = _normalize(_convolution(layers.ReLU()(x), filters, 3, 1, regularizer), normalization)
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
    regularizer = keras.regularizers.L2(weight_decay) if weight_decay else None
    inputs = keras.Input(input_shape)
    x = inputs
    if input_shape[-1] == 3:
        x = keras.layers.Normalization(mean=CIFAR10_MEAN, variance=CIFAR10_VARIANCE)(x)
    x = _normalize(_convolution(x, 16, 3, 1, regularizer), normalization)
    x = keras.layers.ReLU()(x)
    for filters in (16, 32, 64):
        for index in range(3):
            x = _block(x, filters, 2 if filters > 16 and index == 0 else 1, regularizer, normalization)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(num_classes, kernel_regularizer=regularizer, name="logits", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="resnet20")
