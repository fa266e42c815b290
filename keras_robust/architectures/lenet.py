"""The LeNet of Madry et al. (2018) for MNIST, which Kannan et al. (2018, section 5.1) also use."""

from collections.abc import Callable

import keras

from keras_robust.core.execution import full_precision
from keras_robust.layers import ImageConvolution, make_normalization


def LeNet(  # noqa: N802
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    initialization: str = "glorot",
    normalization: str | None = None,
) -> keras.Model:
    """Returns a network of two 5x5 convolutions (32 and 64 filters), each with 2x2 max pooling, and a layer of 1024.

    The first convolution is an `ImageConvolution`, a `Conv2D` that is faster under attack.

    Args:
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        initialization: "glorot", the default of Keras, trains faster. "madry", as the code of Madry et al. (2018),
            draws weights from a normal distribution with deviation 0.1, truncated at two deviations, and sets biases to
            0.1.
        normalization: None, as in the paper, or a name of `layers.make_normalization`, after each convolution.

    Raises:
        ValueError: if `initialization` or `normalization` is unknown.
    """
    if initialization not in ("glorot", "madry"):
        raise ValueError(f"initialization must be 'glorot' or 'madry'. Received: initialization={initialization!r}")
    options = {}
    if initialization == "madry":
        options["kernel_initializer"] = keras.initializers.TruncatedNormal(stddev=0.1)
        options["bias_initializer"] = keras.initializers.Constant(0.1)
    layers = keras.layers

    def convolution(make: Callable[..., keras.Layer], filters: int) -> list[keras.Layer]:
        if normalization is None:
            return [make(filters, 5, padding="same", activation="relu", **options)]
        convolution = make(filters, 5, padding="same", **options)
        return [convolution, make_normalization(normalization, filters, momentum=0.9), layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input(input_shape),
            *convolution(ImageConvolution, 32),
            layers.MaxPooling2D(2),
            *convolution(layers.Conv2D, 64),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(1024, activation="relu", name="hidden", **options),
            layers.Dense(num_classes, name="logits", dtype=full_precision(), **options),
        ],
        name="lenet",
    )
