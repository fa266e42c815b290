"""From encoded images to pixels: JPEGs exactly as Pillow decodes them, and windows without what is outside them."""

from collections.abc import Callable

import tensorflow as tf

from keras_robust.core.seeds import Tensor

EXACT = "INTEGER_ACCURATE"
"""TensorFlow's default is fast: off by 1 of 255 on average, 5 at most, in a thousand images of Tiny ImageNet."""
Decode = Callable[[Tensor], Tensor]


def decode(contents: Tensor, decode_other: Decode, shape: tuple[int | None, int | None, int]) -> Tensor:
    """Decodes an image.

    Args:
        contents: () string, an encoded image.
        decode_other: from it to (height, width, channels) uint8, for what is no JPEG.
        shape: (height, width, channels); height and width may be None.

    Returns:
        `shape` uint8.
    """

    def from_jpeg() -> Tensor:
        return tf.io.decode_jpeg(contents, channels=shape[2], dct_method=EXACT)

    image = tf.cond(tf.io.is_jpeg(contents), from_jpeg, lambda: decode_other(contents))
    return tf.ensure_shape(image, shape)


def cut(contents: Tensor, decode_other: Decode, window_of: Decode, shape: tuple[int, int, int]) -> Tensor:
    """Decodes a window of an image and resizes it; of a JPEG, nothing outside the window is decoded.

    The resize is bilinear with antialiasing, as Pillow's: a window that has the size asked for is not changed.

    Args:
        contents: () string, an encoded image.
        decode_other: as of `decode`.
        window_of: from height and width, (2,) int32, to a window (top, left, height, width), (4,) int32.
        shape: (height, width, channels) asked for.

    Returns:
        `shape` uint8.
    """

    def from_jpeg() -> Tensor:
        window = window_of(tf.io.extract_jpeg_shape(contents)[:2])
        return tf.io.decode_and_crop_jpeg(contents, window, channels=shape[2], dct_method=EXACT)

    def from_other() -> Tensor:
        image = decode_other(contents)
        top, left, height, width = tf.unstack(window_of(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    part = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_other)
    resized = tf.image.resize(part, shape[:2], antialias=True)
    return tf.ensure_shape(tf.cast(tf.round(resized), tf.uint8), shape)
