"""Random changes of training images: functions of images and seed alone, so that a run can be resumed."""

from collections.abc import Callable

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor


def flip_and_crop(images: Tensor, seed: Tensor, padding: int = 4) -> Tensor:
    """Mirrors images at random and cuts each out of itself padded with zeros (He et al., 2016, for CIFAR-10).

    Args:
        images: (batch, height, width, channels), of any dtype.
        seed: int32 tensor of shape (2,).
        padding: pixels on each side, at least 0.

    Returns:
        Images of the same shape and dtype: each mirrored with probability 1/2, and shifted by up to `padding` pixels
        in each direction.
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    offsets = seeds.integers((2, count, 1), seeds.fold(seed, 0), 2 * padding + 1)
    rows = tf.gather(padded, offsets[0] + tf.range(height), axis=1, batch_dims=1)
    columns = tf.range(width)
    is_mirrored = seeds.uniform((count, 1), seeds.fold(seed, 1)) < 0.5
    columns = offsets[1] + tf.where(is_mirrored, columns[::-1], columns)
    return tf.ensure_shape(tf.gather(rows, columns, axis=2, batch_dims=1), images.shape)


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"flip_and_crop": flip_and_crop}


def get_augmentation(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function of (images, seed) of a name in `AUGMENTATIONS`.

    Raises:
        ValueError: if there is none.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation is one of {sorted(AUGMENTATIONS)}, or None. Received: augmentation={name!r}")
    return AUGMENTATIONS[name]
