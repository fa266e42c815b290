"""What residual networks are made of."""

from typing import Any

import keras

from keras_robust.layers import make_normalization

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of the training images of CIFAR-10 per channel, in [0, 1]."""
CIFAR10_VARIANCE = (0.2470**2, 0.2435**2, 0.2616**2)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_VARIANCE = (0.229**2, 0.224**2, 0.225**2)


def standardize(images: keras.KerasTensor, mean: tuple[float, ...], variance: tuple[float, ...]) -> keras.KerasTensor:
    """Normalises coloured images with the mean and variance of a data set; others are left as they are."""
    if images.shape[-1] != 3:
        return images
    return keras.layers.Normalization(mean=mean, variance=variance)(images)


def decay_of(weight_decay: float) -> keras.Regularizer | None:
    """Returns the regularizer that adds `weight_decay` times the sum of squares to the loss."""
    return keras.regularizers.L2(weight_decay) if weight_decay else None


def convolve(
    x: keras.KerasTensor, filters: int, size: int, strides: int = 1, regularizer: Any = None
) -> keras.KerasTensor:
    """Returns a convolution without bias, initialised as He et al. (2015)."""
    return keras.layers.Conv2D(
        filters,
        size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=regularizer,
    )(x)


def normalize(x: keras.KerasTensor, normalization: str, **options: Any) -> keras.KerasTensor:
    """Returns a normalisation of `make_normalization` with momentum 0.9 and epsilon 1e-5."""
    return make_normalization(normalization, x.shape[-1], **{"momentum": 0.9, "epsilon": 1e-5, **options})(x)


def pad_channels(x: keras.KerasTensor, filters: int, strides: int, size: int = 1) -> keras.KerasTensor:
    """Returns a shortcut without parameters: mean over `size` x `size` pixels, zeros for the new channels."""
    x = keras.layers.AveragePooling2D(size, strides, padding="valid")(x) if strides > 1 else x
    missing = (filters - x.shape[-1]) // 2
    return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (missing, missing)))


def classify(x: keras.KerasTensor, num_classes: int, regularizer: Any) -> keras.KerasTensor:
    """Returns float32 logits of the mean over all pixels."""
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dense(num_classes, kernel_regularizer=regularizer, name="logits", dtype="float32")(x)
