"""Batches for training, resumable at any step, and for evaluation: float32 images in [0, 1]."""

import os

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.data.augmentation import get_augmentation
from keras_robust.data.loading import DatasetInfo, describe, load_split

AUGMENTATION_DRAWS = 2  # 0 and 1 are those of `methods.robust_model`, from the same seed
MAX_SHUFFLE_BUFFER = 100_000  # examples; above MNIST's 60,000, SVHN's 73,257 and Tiny ImageNet's 100,000


def training_batches(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: str | None = None,
    one_hot: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    shuffle_buffer: int | None = None,
    cache: bool = True,
) -> tf.data.Dataset:
    """An endless stream of shuffled batches, a pure function of its arguments.

    Each epoch is a new order of the split, without its last num_examples % batch_size examples; the order depends on
    (seed, epoch) alone, not on TensorFlow's global seed. The stream from `start_step` equals, bit for bit, the stream
    from 0 after `start_step` batches, so that an interrupted training sees the batches it would have seen. Iterating
    the data set again starts again from `start_step`.

    Args:
        name: data set, as of `load_split`.
        split: split, as of `load_split`.
        batch_size: global batch size, at least 1 and at most the number of examples.
        seed: seed of the orders.
        start_step: number of batches already consumed, at least 0.
        augmentation: of the images, a name in `augmentation.AUGMENTATIONS` or None; its draws depend on (seed, step).
        one_hot: whether labels are one-hot.
        data_dir: as of `load_split`.
        download: as of `load_split`.
        shuffle_buffer: number of examples to shuffle among; None means the whole split, at most `MAX_SHUFFLE_BUFFER`.
        cache: whether to keep the decoded uint8 images in memory.

    Returns:
        Batches of infinite cardinality and static shapes: images (batch_size, height, width, channels) float32 in
        [0, 1] and labels (batch_size,) int64 or (batch_size, num_classes) one-hot float32.

    Raises:
        ValueError: as `describe`, if `batch_size`, `start_step` or `shuffle_buffer` is out of its range, or the
            augmentation is unknown.
    """
    augment = None if augmentation is None else get_augmentation(augmentation)
    info = describe(name, split, data_dir=data_dir, download=download)
    _check_training_arguments(info, batch_size, start_step, shuffle_buffer)
    buffer = shuffle_buffer or min(info.num_examples, MAX_SHUFFLE_BUFFER)
    examples = load_split(name, split, data_dir=data_dir)
    if cache:
        examples = examples.cache()

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        # tf.data mixes the global seed into a shuffle; here this pins it, for this function's graph only.
        tf.random.set_seed(1)
        shuffled = examples.shuffle(buffer, seed=_epoch_seed(seed, epoch), reshuffle_each_iteration=False)
        return shuffled.batch(batch_size, drop_remainder=True)

    first_epoch, batches_to_skip = divmod(start_step, info.num_examples // batch_size)
    batches = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_batches).skip(batches_to_skip)
    batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    if augment is not None:

        def augmented(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = batch
            return augment(images, seeds.fold(seeds.as_seed(seed), AUGMENTATION_DRAWS, step)), labels

        steps = tf.data.Dataset.counter(start_step)
        batches = tf.data.Dataset.zip(steps, batches).map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(batches, info.num_classes if one_hot else None)


def evaluation_batches(
    name: str,
    split: str,
    *,
    batch_size: int,
    one_hot: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> tf.data.Dataset:
    """All examples of a split once, in the order of its files, decoded once and kept in memory as uint8.

    Args:
        name: data set, as of `load_split`.
        split: split, as of `load_split`.
        batch_size: global batch size, at least 1.
        one_hot: whether labels are one-hot.
        data_dir: as of `load_split`.
        download: as of `load_split`.

    Returns:
        Batches, the last one perhaps smaller: images (batch, height, width, channels) float32 in [0, 1] and labels
        (batch,) int64 or (batch, num_classes) one-hot float32.

    Raises:
        ValueError: as `describe`, and if `batch_size` is below 1.
    """
    info = describe(name, split, data_dir=data_dir, download=download)
    if batch_size < 1:
        raise ValueError(f"Expected a batch size of at least 1. Received: batch_size={batch_size}")
    batches = load_split(name, split, data_dir=data_dir).cache().batch(batch_size)
    return _finish(batches, info.num_classes if one_hot else None)


def check_batch_size(batch_size: int, replicas: int) -> None:
    """Checks that a global batch divides evenly among the replicas.

    Args:
        batch_size: global batch size.
        replicas: number of replicas.

    Raises:
        ValueError: if either is below 1, or `batch_size` is not a multiple of `replicas`.
    """
    if batch_size < 1 or replicas < 1 or batch_size % replicas:
        raise ValueError(
            "Expected a global batch size that is a positive multiple of the number of replicas. Received: "
            f"batch_size={batch_size}, replicas={replicas}"
        )


def _check_training_arguments(info: DatasetInfo, batch_size: int, start_step: int, shuffle_buffer: int | None) -> None:
    if not 1 <= batch_size <= info.num_examples:
        raise ValueError(
            f"Expected a batch size between 1 and {info.num_examples}, the number of examples in {info.split!r} of "
            f"{info.name!r}. Received: batch_size={batch_size}"
        )
    if start_step < 0:
        raise ValueError(f"Expected a start step of at least 0. Received: start_step={start_step}")
    if shuffle_buffer is not None and shuffle_buffer < 1:
        raise ValueError(f"Expected a shuffle buffer of at least 1. Received: shuffle_buffer={shuffle_buffer}")


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """A seed for `shuffle`, () int64, that is a pure function of `seed` and `epoch`: () int64."""
    pair = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.stateless_uniform([], pair, minval=None, maxval=None, dtype=tf.int64, alg="philox")


def _finish(batches: tf.data.Dataset, one_hot_classes: int | None) -> tf.data.Dataset:
    """Converts uint8 batches to float32 in [0, 1], and the labels to one-hot if a number of classes is given."""

    def convert(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32) / 255.0
        return images, labels if one_hot_classes is None else tf.one_hot(labels, one_hot_classes, dtype=tf.float32)

    options = tf.data.Options()
    options.deterministic = True
    # Workers share each global batch; sharding by file would give each worker other examples than one worker has.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    converted = batches.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return converted.prefetch(tf.data.AUTOTUNE).with_options(options)
