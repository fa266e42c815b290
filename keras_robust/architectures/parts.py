"""The layers that the convolutional networks share."""

import dataclasses
from typing import Any

import keras

from keras_robust.core.execution import full_precision
from keras_robust.layers import make_normalization

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of the training images of CIFAR-10 per channel, in [0, 1]."""
CIFAR10_VARIANCE = (0.2470**2, 0.2435**2, 0.2616**2)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_VARIANCE = (0.229**2, 0.224**2, 0.225**2)
FAN_OUT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}
"""He et al. (2015) by the number of outputs, as in the code of Gomez et al. (2017) and Xie & Yuille (2020)."""


def standardize(images: keras.KerasTensor, mean: tuple[float, ...], variance: tuple[float, ...]) -> keras.KerasTensor:
    """Normalises coloured images with the mean and variance of a data set. Other images stay as they are."""
    if images.shape[-1] != 3:
        return images
    return keras.layers.Normalization(mean=mean, variance=variance)(images)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The layers of one network, with its weight decay and its normalisation.

    Without normalisation, convolutions have biases, and the last convolution of a residual block starts at 0, so that
    the block starts as its shortcut. Otherwise the variance of the activations would double with each block (Zhang et
    al., 2019, Fixup initialization).

    Args:
        weight_decay: coefficient of the sum of squared kernel weights in the loss.
        normalization: a name of `layers.make_normalization`, or None.
        momentum: momentum of the normalisation's averages, if it has any.
        epsilon: epsilon of the normalisation.
        initializer: initializer of the kernels of convolutions. The default is He et al. (2015).
        logits_initializer: initializer of the kernel of the last layer.
    """

    weight_decay: float
    normalization: str | None
    momentum: float = 0.9
    epsilon: float = 1e-5
    initializer: Any = "he_normal"
    logits_initializer: Any = "glorot_uniform"

    @property
    def regularizer(self) -> keras.Regularizer | None:
        """The regularizer that adds `weight_decay` times the sum of squares to the loss."""
        return keras.regularizers.L2(self.weight_decay) if self.weight_decay else None

    def convolve(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int | tuple[int, int],
        strides: int = 1,
        *,
        ends_block: bool = False,
        initializer: Any = None,
        padding: str = "same",
    ) -> keras.KerasTensor:
        """Returns a convolution.

        Args:
            x: (batch, height, width, channels).
            filters: number of output channels.
            size: height and width of the kernel.
            strides: strides in both directions.
            ends_block: whether it is the last convolution of a residual block.
            initializer: initializer of the kernel. None is that of the network.
            padding: "same" or "valid".
        """
        normalized = self.normalization is not None
        initializer = self.initializer if initializer is None else initializer
        return keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding=padding,
            use_bias=not normalized,
            kernel_initializer=initializer if normalized or not ends_block else "zeros",
            kernel_regularizer=self.regularizer,
        )(x)

    def normalize(self, x: keras.KerasTensor, **options: Any) -> keras.KerasTensor:
        """Returns `x` normalised. `options` are arguments of the layer."""
        if self.normalization is None:
            return x
        options = {"momentum": self.momentum, "epsilon": self.epsilon, **options}
        return make_normalization(self.normalization, x.shape[-1], **options)(x)

    def activate(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Returns `x` normalised, behind a ReLU."""
        return keras.layers.ReLU()(self.normalize(x))

    def classify(self, x: keras.KerasTensor, num_classes: int, dropout: float = 0.0) -> keras.KerasTensor:
        """Returns logits, in full precision, of the mean over all pixels. Training drops a share `dropout` of it."""
        x = keras.layers.GlobalAveragePooling2D()(x)
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
        return keras.layers.Dense(
            num_classes,
            kernel_initializer=self.logits_initializer,
            kernel_regularizer=self.regularizer,
            name="logits",
            dtype=full_precision(),
        )(x)


def pad_channels(x: keras.KerasTensor, filters: int, strides: int, size: int = 1) -> keras.KerasTensor:
    """Returns a shortcut without parameters: the mean over `size` x `size` pixels, and zeros for new channels."""
    x = keras.layers.AveragePooling2D(size, strides, padding="valid")(x) if strides > 1 else x
    missing = (filters - x.shape[-1]) // 2
    return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (missing, missing)))


def check_version(version: int) -> None:
    """Raises `ValueError` unless `version`, of a residual network, is 1, or 2 (with pre-activation)."""
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2. Received: version={version!r}")
