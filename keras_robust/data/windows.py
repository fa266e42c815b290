"""Windows of images of any size, (top, left, height, width) in pixels: the central one, and random ones."""

import math

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor

ATTEMPTS = 10
"""Windows drawn until one fits into the image (as Szegedy et al., 2015, are implemented everywhere)."""
WIDEST = 4 / 3
"""Largest ratio of width and height, or of height and width (Szegedy et al., 2015, section 6)."""


def central_window(image_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the window that a classifier is evaluated on.

    It is in the centre, has the shape asked for, and is 7/8 as large as the largest of that shape: of a square, what is
    left of a resize of the shorter side to 256 and a central crop of 224. An image that already has the size asked for
    is taken as it is.

    Args:
        image_size: (2,) int32, height and width.
        size: height and width asked for.

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

    Its part of the image's area is uniform between `smallest_area` and 1, the logarithm of width over height uniform
    between those of 3/4 and 4/3 times `aspect`, and its place uniform among those inside the image. Of `ATTEMPTS` draws
    the first that fits is taken; where none does, the largest window of such a shape.

    Args:
        image_size: (2,) int32, height and width.
        seed: int32 tensor of shape (2,).
        smallest_area: part of the area of the image, in (0, 1].
        aspect: width over height of what the window is resized to.

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
