"""Random changes of training images. They depend only on images and seed, so that a run can be resumed."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.data.colors import recolor
from keras_robust.data.windows import random_window


def flip(images: Tensor, seed: Tensor) -> Tensor:
    """Mirrors each image of a batch, of any dtype, with probability 1/2."""
    count, _, width, channels = tf.unstack(tf.shape(images))
    rows = tf.reshape(images, (-1, width, channels))  # with four dimensions, TensorFlow takes 5 times as long
    mirrored = tf.reshape(tf.reverse(rows, [1]), tf.shape(images))
    chosen = tf.range(count) + tf.where(seeds.uniform((count,), seed) < 0.5, count, 0)
    return tf.ensure_shape(tf.gather(tf.concat([images, mirrored], 0), chosen), images.shape)


def flip_and_crop(images: Tensor, seed: Tensor, padding: int = 4) -> Tensor:
    """Mirrors images at random, and crops each from itself padded with zeros (He et al., 2016, for CIFAR-10).

    Args:
        images: (batch, height, width, channels), of any dtype.
        seed: int32 tensor of shape (2,).
        padding: pixels on each side, at least 0.

    Returns:
        Images of the same shape and dtype. Each is mirrored with probability 1/2, and shifted by up to `padding` pixels
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


def flip_and_recolor(images: Tensor, seed: Tensor) -> Tensor:
    """Mirrors and recolours uint8 images at random, and returns float32 in [0, 1]. See `colors.recolor`."""
    return recolor(flip(images, seeds.fold(seed, 0)), seeds.fold(seed, 1))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random draws for training images.

    Attributes:
        change: maps a batch of uint8 images and a seed to images of the same shape, uint8 or float32 in [0, 1].
        window: maps height and width of an image, (2,) int32, a seed, and the keyword `aspect` (width / height of the
            images in batches) to the window that is cut out and resized, (4,) int32. None cuts an image as in
            evaluation.
    """

    change: Callable[[Tensor, Tensor], Tensor] | None = None
    window: Callable[..., Tensor] | None = None


AUGMENTATIONS: dict[str, Augmentation] = {
    # CIFAR-10: He et al. (2016), Madry et al. (2018); with 2 pixels, the code of Shafahi et al. (2019).
    "flip_and_crop": Augmentation(flip_and_crop),
    "flip_and_crop_2_pixels": Augmentation(functools.partial(flip_and_crop, padding=2)),
    # ImageNet: the codes of Kannan et al. (2018) and of Shafahi et al. (2019); with colours, of Xie & Yuille (2020).
    "inception_crop": Augmentation(flip, random_window),
    "inception_crop_and_colors": Augmentation(flip_and_recolor, random_window),
    # Tiny ImageNet: the code of Kannan et al. (2018).
    "half_area_crop": Augmentation(window=functools.partial(random_window, smallest_area=0.5)),
}


def get_augmentation(name: str | None) -> Augmentation:
    """Returns the augmentation of a name in `AUGMENTATIONS`, or one that changes nothing for None.

    Raises:
        ValueError: if the name is unknown.
    """
    if name is None:
        return Augmentation()
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"augmentation must be one of {sorted(AUGMENTATIONS)}, or None. Received: augmentation={name!r}"
        )
    return AUGMENTATIONS[name]
