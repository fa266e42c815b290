"""Feature denoising blocks (Xie et al., 2019)."""

import math

import keras

from keras_robust.architectures.parts import Parts
from keras_robust.core.execution import full_precision

DENOISING = ("embedded_gaussian", "gaussian", "dot_product")


def denoise(make: Parts, x: keras.KerasTensor, kind: str) -> keras.KerasTensor:
    """Returns `x` plus a 1x1 convolution of its non-local means (Xie et al., 2019, section 4).

    Each pixel becomes a mean over all n pixels, weighted by the similarity of their c features:

        embedded_gaussian: softmax over j of theta(x_i) phi(x_j) / sqrt(c), with 1x1 convolutions to c / 2 channels;
        gaussian: the same without the convolutions;
        dot_product: x_i x_j / n.

    The scale of the normalisation after the convolution starts at 0, so the block starts as the identity.

    Args:
        make: the `Parts` of the network.
        x: (batch, height, width, channels).
        kind: one of these three names.
    """
    height, width, channels = x.shape[1:]
    theta = phi = x
    if kind == "embedded_gaussian":
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        theta = make.convolve(x, channels // 2, 1, initializer=initializer)
        phi = make.convolve(x, channels // 2, 1, initializer=initializer)
    theta, phi, values = (keras.layers.Reshape((height * width, -1))(each) for each in (theta, phi, x))
    phi = keras.ops.transpose(phi, (0, 2, 1))
    if kind == "dot_product":
        # This order avoids a matrix of all pairs of pixels.
        means = keras.ops.matmul(theta, keras.ops.matmul(phi, values) / (height * width))
    else:
        alike = keras.ops.matmul(theta / math.sqrt(theta.shape[-1]), phi)
        weights = keras.ops.softmax(keras.ops.cast(alike, full_precision(alike.dtype)))
        means = keras.ops.matmul(keras.ops.cast(weights, values.dtype), values)
    means = keras.layers.Reshape((height, width, channels))(means)
    means = make.normalize(make.convolve(means, channels, 1, ends_block=True), gamma_initializer="zeros")
    return keras.layers.Add()([x, means])


def check_denoising(denoising: str | None) -> None:
    """Raises `ValueError` unless `denoising` is None or one of `DENOISING`."""
    if denoising is not None and denoising not in DENOISING:
        raise ValueError(f"denoising must be one of {DENOISING} or None. Received: denoising={denoising!r}")
