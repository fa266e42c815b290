"""Random changes of brightness, contrast, saturation and lighting, as one affine map of each image's colours."""

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor

GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in perceived brightness (ITU-R BT.601)."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of the colours of ImageNet's pixels in [0, 1], as columns, and standard deviations along them:
the numbers of fb.resnet.torch, for the method of Krizhevsky et al. (2012), section 4.1."""


def recolor(images: Tensor, seed: Tensor, strength: float = 0.4, lighting: float = 0.1) -> Tensor:
    """Changes the colours of each image at random, as Xie & Yuille (2020) train on ImageNet.

    Brightness, contrast and saturation change by factors drawn uniformly from [1 - strength, 1 + strength]. Lighting
    adds a normal draw times `lighting` along each principal component. The order of the four is drawn per image. Only
    the final result is clipped.

    Args:
        images: (batch, height, width, 3) uint8.
        seed: int32 tensor of shape (2,).
        strength: strength of the changes of brightness, contrast and saturation, in [0, 1].
        lighting: strength of the principal components.

    Returns:
        (batch, height, width, 3) float32 in [0, 1].

    Raises:
        ValueError: if the images do not have three channels.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"The images must have three channels. Received: images of shape {images.shape}")
    count = tf.shape(images)[0]
    factors = 1 + strength * (2 * seeds.uniform((count, 3), seeds.fold(seed, 0)) - 1)
    light = lighting * seeds.normal((count, 3), seeds.fold(seed, 1)) * EIGENVALUES
    light = tf.linalg.matvec(tf.constant(EIGENVECTORS), light)
    order = tf.argsort(seeds.uniform((count, 4), seeds.fold(seed, 2)))
    pixels = tf.cast(images, tf.float32) / 255.0
    matrix, shift = color_map(tf.reduce_mean(pixels, axis=(1, 2)), factors, light, order)
    changed = tf.einsum("bhwc,bdc->bhwd", pixels, matrix) + shift[:, tf.newaxis, tf.newaxis]
    return tf.clip_by_value(changed, 0.0, 1.0)


def color_map(mean: Tensor, factors: Tensor, light: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the composition of the four changes of an image: pixel -> matrix pixel + shift.

    Each change is affine. Brightness scales a pixel. Contrast scales its distance from the mean gray of the image after
    the earlier changes. Saturation scales its distance from its own gray. Lighting adds a colour.

    Args:
        mean: (batch, 3), mean colour of each image.
        factors: (batch, 3), factors of brightness, contrast and saturation.
        light: (batch, 3), the colour that lighting adds.
        order: (batch, 4) int32, permutations of brightness 0, contrast 1, saturation 2, lighting 3.

    Returns:
        Matrices (batch, 3, 3) and shifts (batch, 3).
    """
    identity, gray = tf.eye(3), tf.ones((3, 1)) * GRAY
    brightness, contrast, saturation = (factors[:, index, tf.newaxis] for index in range(3))
    matrix, shift = tf.tile(identity[tf.newaxis], [tf.shape(mean)[0], 1, 1]), tf.zeros_like(mean)
    to_gray = saturation[..., tf.newaxis] * identity + (1 - saturation[..., tf.newaxis]) * gray
    for place in range(4):
        mean_gray = tf.linalg.matvec(gray, tf.linalg.matvec(matrix, mean) + shift)
        matrices = [brightness[..., tf.newaxis] * matrix, contrast[..., tf.newaxis] * matrix, to_gray @ matrix, matrix]
        shifts = [
            brightness * shift,
            contrast * shift + (1 - contrast) * mean_gray,
            tf.linalg.matvec(to_gray, shift),
            shift + light,
        ]
        chosen = order[:, place]
        matrix = tf.gather(tf.stack(matrices, axis=1), chosen, batch_dims=1)
        shift = tf.gather(tf.stack(shifts, axis=1), chosen, batch_dims=1)
    return matrix, shift
