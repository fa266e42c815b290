"""Images normalised one by one."""

from typing import Any

import keras

from keras_robust.core.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class PerImageStandardization(keras.layers.Layer):
    """(x - mean) / max(deviation, 1 / sqrt(pixels)) of each image, as `tf.image.per_image_standardization`.

    The code of Madry et al. (2018) and Shafahi et al. (2019) has it in front of its networks for CIFAR.
    """

    def call(self, images: Any) -> Any:
        """Returns images of the same shape, (batch, height, width, channels)."""
        pixels = images.shape[1] * images.shape[2] * images.shape[3]
        mean, variance = keras.ops.moments(images, axes=(1, 2, 3), keepdims=True)
        deviation = keras.ops.sqrt(keras.ops.maximum(variance, 1.0 / pixels))  # never the square root of 0
        return (images - mean) / deviation

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape
