"""A first convolution with a faster gradient with respect to the images."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.execution import custom_gradient
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

BLOCK = 4
"""Height and width of the blocks of pixels whose gradients are computed together."""


@keras.saving.register_keras_serializable(PACKAGE)
class ImageConvolution(keras.layers.Conv2D):
    """A `Conv2D` with stride 1 and "same" padding, whose gradient with respect to its input is fast for few channels.

    An attack needs this gradient in every step. It is a convolution with as many filters as the images have channels.
    With so few filters a matrix product is slow: for a single channel, TensorFlow on CPU takes 3 to 4 times as long as
    for the forward pass. This layer computes the gradients of 4 x 4 pixels as 16 filters of a convolution with stride
    4. The result is exact, and 3 times as fast in spite of its zeros. Weights, outputs and saved config equal those of
    `Conv2D`.

    Args:
        filters: number of output channels.
        kernel_size: height and width, or one integer for both.
        padding: must be "same".
        **kwargs: arguments of `keras.layers.Conv2D`.

    Raises:
        ValueError: if strides, padding, dilation, groups or data format have other values, or images no static size.
    """

    def __init__(self, filters: int, kernel_size: Any, *, padding: str = "same", **kwargs: Any) -> None:
        super().__init__(filters, kernel_size, padding=padding, **kwargs)
        options = {
            "strides": (self.strides, (1, 1)),
            "padding": (self.padding, "same"),
            "dilation_rate": (self.dilation_rate, (1, 1)),
            "groups": (self.groups, 1),
            "data_format": (self.data_format, "channels_last"),
        }
        for name, (given, supported) in options.items():
            if given != supported:
                raise ValueError(
                    f"An ImageConvolution must have {name}={supported!r}; use Conv2D otherwise. "
                    f"Received: {name}={given!r}"
                )

    def build(self, input_shape: Any) -> None:
        """Creates the weights for images (batch, height, width, channels)."""
        if None in input_shape[1:]:
            raise ValueError(f"An ImageConvolution needs images of one size. Received: input_shape={input_shape}")
        super().build(input_shape)

    def convolution_op(self, inputs: Tensor, kernel: Any) -> Tensor:
        """Returns (batch, height, width, filters) for images (batch, height, width, channels)."""
        return convolve_images(tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel))


@custom_gradient
def convolve_images(images: Tensor, kernel: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Returns the convolution of an `ImageConvolution`, and the function of its gradients."""

    def gradients(upstream: Tensor) -> tuple[Tensor, Tensor]:
        of_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=images, filter_sizes=kernel.shape, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
        )
        return _image_gradient(upstream, kernel), of_kernel

    return tf.nn.conv2d(images, kernel, strides=1, padding="SAME"), gradients


def _image_gradient(upstream: Tensor, kernel: Tensor) -> Tensor:
    """Returns the gradient of the images, (batch, height, width, channels), from the gradient of the outputs.

    It is the convolution of `upstream`, (batch, height, width, filters), with the flipped kernel.
    """
    rows, columns = kernel.shape[:2]
    height, width = upstream.shape[1:3]
    flipped = tf.transpose(tf.reverse(kernel, axis=[0, 1]), [0, 1, 3, 2])
    # The kernel shifts with the position of the pixel in the block.
    shifted = [
        tf.pad(flipped, [[row, BLOCK - 1 - row], [column, BLOCK - 1 - column], [0, 0], [0, 0]])
        for row in range(BLOCK)
        for column in range(BLOCK)
    ]
    # The margins of "same" padding, reversed, and padding up to whole blocks.
    margins = [[size // 2, (size - 1) // 2 + -length % BLOCK] for size, length in ((rows, height), (columns, width))]
    padded = tf.pad(upstream, [[0, 0], *margins, [0, 0]])
    blocks = tf.nn.conv2d(padded, tf.concat(shifted, axis=-1), strides=BLOCK, padding="VALID")
    return tf.nn.depth_to_space(blocks, BLOCK)[:, :height, :width]
