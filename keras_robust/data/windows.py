"""Windows of images of any size, (top, left, height, width) in pixels: the central window and random windows."""

import math

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor

ATTEMPTS = 10
"""Largest number of draws until a window fits into the image, as in all implementations of Szegedy et al. (2015)."""
WIDEST = 4 / 3
"""Largest ratio of width and height, or of height and width (Szegedy et al., 2015, section 6)."""


def central_window(image_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the window for evaluation.

    It is in the centre, has the shape of `size`, and is 7/8 as large as the largest window of this shape. For a square
    this equals resizing the shorter side to 256 and cropping the central 224. An image that already has the size is
    taken whole.

    Args:
        image_size: (2,) int32, height and width.
        size: height and width of the result.

    Returns:
        (4,) int32.
    """
    height, width = tf.unstack(image_size)
    largest = tf.stack([tf.minimum(height, width * size[0] // size[1]), tf.minimum(width, height * size[1] // size[0])])
    part = tf.maximum((7 * largest + 4) // 8, 1)
    window = tf.where(tf.reduce_all(image_size == size), image_size, part)
    return tf.concat([(image_size - window) // 2, window], 0)


def random_window(image_size: Tensor, seed: Tensor, smallest_area: float = 0.08, aspect: float = 1.0) -> Tensor:
    """Draws a window of an image (Szegedy et al., 2015, section 6; Goyal et al., 2017, section 4).

    Its share of the image's area is uniform between `smallest_area` and 1. The logarithm of width / height is uniform
    between those of 3/4 and 4/3 times `aspect`. Its place is uniform inside the image. The first of `ATTEMPTS` draws
    that fits is taken. If none fits, the largest window of such a shape is taken.

    Args:
        image_size: (2,) int32, height and width.
        seed: int32 tensor of shape (2,).
        smallest_area: smallest share of the area of the image, in (0, 1].
        aspect: width / height of the size that the window is resized to.

    Returns:
        (4,) int32.
    """
    limits = tf.cast(image_size, tf.float32)
    draws = seeds.uniform((2, ATTEMPTS), seeds.fold(seed, 0))
    area = (smallest_area + (1 - smallest_area) * draws[0]) * tf.reduce_prod(limits)
    ratio = aspect * tf.exp((2 * draws[1] - 1) * math.log(WIDEST))
    drawn = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], axis=1)))
    largest = tf.minimum(limits, tf.floor(WIDEST * limits[::-1] * tf.stack([1 / aspect, aspect])))
    candidates = tf.concat([drawn, largest[tf.newaxis]], 0)
    fits = tf.reduce_all(candidates <= limits, axis=1)
    window = tf.cast(tf.maximum(candidates[tf.argmax(tf.cast(fits, tf.int32))], 1.0), tf.int32)
    return tf.concat([seeds.integers((2,), seeds.fold(seed, 1), image_size - window + 1), window], 0)
