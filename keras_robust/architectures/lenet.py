"""The LeNet of Madry et al. (2018) for MNIST, which Kannan et al. (2018, section 5.1) use too."""

import keras


def LeNet(  # noqa: N802
    num_classes: int = 10, input_shape: tuple[int, int, int] = (28, 28, 1), initialization: str = "glorot"
) -> keras.Model:
    """Returns two 5x5 convolutions of 32 and 64 filters, each with a 2x2 max pooling, and a hidden layer of 1024.

    Args:
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1].
        initialization: "glorot", as Keras does, which trains faster; or "madry", as the code of Madry et al. (2018):
            weights from a normal distribution of deviation 0.1, truncated at two deviations, and biases 0.1.

    Raises:
        ValueError: if `initialization` is unknown.
    """
    if initialization not in ("glorot", "madry"):
        raise ValueError(f"initialization is 'glorot' or 'madry'. Received: initialization={initialization!r}")
    options = {}
    if initialization == "madry":
        options["kernel_initializer"] = keras.initializers.TruncatedNormal(stddev=0.1)
        options["bias_initializer"] = keras.initializers.Constant(0.1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(32, 5, padding="same", activation="relu", **options),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, padding="same", activation="relu", **options),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(1024, activation="relu", **options),
            layers.Dense(num_classes, name="logits", **options),
        ],
        name="lenet",
    )
