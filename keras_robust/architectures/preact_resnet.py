"""The pre-activation ResNet-18 of the CIFAR-10 literature."""

import keras

from keras_robust.architectures import parts
from keras_robust.architectures.parts import Parts


def PreActResNet18(  # noqa: N802
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
    final_normalization: bool = True,
) -> keras.Model:
    """Returns the network of Wong et al. (2020): 4 stages of 2 pre-activation blocks with 64, 128, 256, 512 filters.

    If the shape changes, the shortcut is a convolution of the input before the activation, as in their code. It has
    11,172,170 trained weights. The network normalises images with CIFAR-10's mean and variance.

    Args:
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.
        final_normalization: whether normalisation and ReLU follow the last block, as in He et al. (2016, Identity
            mappings in deep residual networks). The classifier that Wong et al. published, "Wong2020Fast" in
            RobustBench, does not have them; it has 11,171,146 weights.

    Raises:
        ValueError: if `normalization` is unknown.
    """
    make = Parts(weight_decay, normalization)
    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.CIFAR10_MEAN, parts.CIFAR10_VARIANCE)
    x = make.convolve(x, 64, 3)
    for filters in (64, 128, 256, 512):
        for index in range(2):
            x = _block(make, x, filters, 2 if filters > 64 and index == 0 else 1)
    if final_normalization:
        x = make.activate(x)
    return keras.Model(inputs, make.classify(x, num_classes), name="preact_resnet18")


def _block(make: Parts, x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    shortcut = x if x.shape[-1] == filters else make.convolve(x, filters, 1, strides)
    x = make.convolve(make.activate(x), filters, 3, strides)
    x = make.convolve(make.activate(x), filters, 3, ends_block=True)
    return keras.layers.Add()([x, shortcut])
