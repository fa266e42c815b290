"""Batches for training, resumable at any step, and for evaluation: float32 images in [0, 1]."""

import math
import os
import socket
import urllib.parse

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.checks import check_integer
from keras_robust.data.augmentation import Augmentation, get_augmentation
from keras_robust.data.source import DataFunction, DatasetInfo, FunctionSource, ImageSize, Source, open_split
from keras_robust.data.stream import Stream

MAX_CACHE_BYTES = 2 * 2**30  # above the 1.9e9 of SVHN with its extra images, below the 1.6e10 of ImageNet at 64 x 64
MAX_SHUFFLE_BUFFER = 16_384  # encoded images: 1.9 GB of ImageNet, whose training images are 147.9 GB
SECONDS_TO_ANSWER = 10  # for a tf.data service


def training_batches(
    name: str | DataFunction,
    split: str,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    image_size: ImageSize = 0,
    augmentation: str | None = None,
    one_hot: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    shuffle_buffer: int | None = None,
    cache: bool | None = None,
    data_service: str | None = None,
    on_bad_image: str = "error",
) -> tf.data.Dataset:
    """Returns an endless stream of shuffled batches that depends only on its arguments.

    Each epoch is a new order of the split, without its last num_examples % batch_size examples. The order depends only
    on (seed, epoch), not on TensorFlow's global seed. The stream from `start_step` equals, bit for bit, the stream from
    0 after `start_step` batches, so that a resumed training sees the batches that it would have seen. Iterating the
    data set again starts from `start_step` again. Images of consumed batches are not decoded, unless all images are
    kept in memory.

    Args:
        name: data set, see `load_split`.
        split: split, see `load_split`.
        batch_size: global batch size, at least 1 and at most the number of examples.
        seed: seed of the orders and of the augmentation, in [0, 2**31).
        start_step: number of batches already consumed, at least 0.
        image_size: (height, width) of the images, or one number for both. Images are cropped and resized to it: at
            random if the augmentation does so, otherwise as in `evaluation_batches`. 0 leaves images of one size as
            they are.
        augmentation: a name in `augmentation.AUGMENTATIONS`, or None. Its draws depend on (seed, step).
        one_hot: whether labels are one-hot.
        data_dir: see `load_split`.
        download: see `load_split`.
        shuffle_buffer: number of examples to shuffle among. None means the whole split if the images are kept in memory
            or are separate files, otherwise at most `MAX_SHUFFLE_BUFFER`. If the buffer is smaller than the split and
            the images are not kept, the order of the files is drawn as well.
        cache: whether to keep the decoded uint8 images in memory. None keeps them if they are not cropped at random and
            take at most `MAX_CACHE_BYTES`.
        data_service: address of a tf.data service that prepares the batches. `through_service` says what is then still
            reproducible.
        on_bad_image: see `load_split`.

    Returns:
        Batches of infinite cardinality and static shapes: images (batch_size, height, width, channels) float32 in
        [0, 1] and labels (batch_size,) int64 or (batch_size, num_classes) one-hot float32.

    Raises:
        ValueError: in the cases of `load_split`; if `batch_size`, `seed`, `start_step`, `image_size` or
            `shuffle_buffer` is out of its range; if images differ in size and there is no `image_size`; if the
            augmentation is unknown; or if randomly cropped images are to be kept.
    """
    draws = get_augmentation(augmentation)
    check_integer("seed", seed, 0)
    seeds.as_seed(seed)  # checks that it is below 2**31
    source = open_split(name, split, data_dir, download, on_bad_image=on_bad_image)
    shape = source.info.shape_at(image_size)
    _check_training_arguments(source.info, batch_size, start_step, shuffle_buffer)
    if cache and draws.window is not None:
        raise ValueError(
            "Randomly cropped images cannot be cached, because each epoch decodes them anew. "
            f"Received: cache=True, augmentation={augmentation!r}"
        )
    kept = _may_be_kept(source, draws, shape) if cache is None else cache
    images = _still_images(source, shape).cache() if kept else None
    if augmentation is not None and isinstance(source, FunctionSource):
        _check_uint8(source, augmentation)
    stream = Stream(source, shape, draws, batch_size, seed)
    examples = stream.epochs(start_step, shuffle_buffer or _default_buffer(source, kept), images)
    if images is None:
        examples = examples.map(stream.read, num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(batch_size, drop_remainder=True).map(stream.change, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    if data_service is not None:
        batches = through_service(batches, data_service)
    return _finish(batches, _classes(source) if one_hot else None)


def evaluation_batches(
    name: str | DataFunction,
    split: str,
    *,
    batch_size: int,
    image_size: ImageSize = 0,
    one_hot: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    order: str = "tfds",
    on_bad_image: str = "error",
) -> tf.data.Dataset:
    """Returns all examples of a split once, in a fixed order.

    They are decoded once and kept in memory as uint8 if they take at most `MAX_CACHE_BYTES`.

    Args:
        name: data set, see `load_split`.
        split: split, see `load_split`.
        batch_size: global batch size, at least 1.
        image_size: (height, width) of the images, or one number for both. The central part of this shape, 7/8 of the
            largest that fits (for a square, 7/8 of the shorter side), is resized to it. An image that has this size
            stays as it is. 0 leaves all images as they are; they must then have one size.
        one_hot: whether labels are one-hot.
        data_dir: see `load_split`.
        download: see `load_split`.
        order: see `load_split`.
        on_bad_image: see `load_split`.

    Returns:
        Batches, of which the last may be smaller: images (batch, height, width, channels) float32 in [0, 1] and labels
        (batch,) int64 or (batch, num_classes) one-hot float32.

    Raises:
        ValueError: in the cases of `load_split`; if `batch_size` is below 1 or `image_size` is not a size; or if images
            differ in size and there is no `image_size`.
    """
    source = open_split(name, split, data_dir, download, order, on_bad_image)
    shape = source.info.shape_at(image_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: batch_size={batch_size}")
    images = _still_images(source, shape)
    if _fits_in_memory(source.info, shape):
        images = images.cache()
    return _finish(images.batch(batch_size), _classes(source) if one_hot else None)


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
            "The global batch size must be a positive multiple of the number of replicas. Received: "
            f"batch_size={batch_size}, replicas={replicas}"
        )


def through_service(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Returns the batches of an endless stream of epochs, prepared by the workers of a tf.data service.

    Each worker takes the next epoch that no worker has taken. With one worker the stream equals the local one, bit for
    bit, and a run resumes in it. With several workers, the batches of as many epochs arrive when they are ready. Each
    batch is one of `training_batches`, but the order differs in every run, and a resumed run prepares the epochs again
    that it had begun. Workers must find the data set under the same path as the process that trains.

    Args:
        batches: a stream whose outermost source is the numbers of the epochs.
        address: grpc://HOST:PORT of the dispatcher.

    Raises:
        ValueError: if the address has another form, or nothing answers there.
    """
    parts = urllib.parse.urlsplit(address)
    try:
        if parts.scheme != "grpc" or not parts.hostname or not parts.port:
            raise OSError("another form")
        # Without an answer, TensorFlow would wait forever.
        socket.create_connection((parts.hostname, parts.port), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:  # ValueError: the port is not a number
        raise ValueError(
            "data_service must be the running dispatcher of a tf.data service, grpc://HOST:PORT. "
            f"Received: data_service={address!r} ({error})"
        ) from None
    service = tf.data.experimental.service
    mode = service.ShardingPolicy.DYNAMIC
    return batches.apply(service.distribute(processing_mode=mode, service=address))


def _check_training_arguments(info: DatasetInfo, batch_size: int, start_step: int, shuffle_buffer: int | None) -> None:
    if not 1 <= batch_size <= info.num_examples:
        raise ValueError(
            f"batch_size must be between 1 and {info.num_examples}, the number of examples in {info.split!r} of "
            f"{info.name!r}. Received: batch_size={batch_size}"
        )
    if start_step < 0:
        raise ValueError(f"start_step must be at least 0. Received: start_step={start_step}")
    if shuffle_buffer is not None and shuffle_buffer < 1:
        raise ValueError(f"shuffle_buffer must be at least 1. Received: shuffle_buffer={shuffle_buffer}")


def _fits_in_memory(info: DatasetInfo, shape: tuple[int, int, int]) -> bool:
    return info.num_examples * math.prod(shape) <= MAX_CACHE_BYTES


def _may_be_kept(source: Source, draws: Augmentation, shape: tuple[int, int, int]) -> bool:
    """Returns whether decoded images may be kept: not where each epoch has others, as it may of a function."""
    return draws.window is None and not isinstance(source, FunctionSource) and _fits_in_memory(source.info, shape)


def _check_uint8(source: Source, augmentation: str) -> None:
    dtype = source.records(None).element_spec[0].dtype
    if dtype != tf.uint8:
        raise ValueError(
            "augmentation needs uint8 images in [0, 255]. Return these from the function of the data set, or augment "
            f"the images there. Received: augmentation={augmentation!r} for {dtype.name} images of "
            f"{source.info.name!r}"
        )


def _classes(source: Source) -> int:
    """Returns the number of classes.

    Raises:
        ValueError: if it is not known.
    """
    if source.info.num_classes is None:
        raise ValueError(
            "Label smoothing and some methods, such as mixup, need one-hot labels. Return these from the function "
            f"of the data set, (classes,) float32. Received: numbers as labels from {source.info.name!r}"
        )
    return source.info.num_classes


def _default_buffer(source: Source, kept: bool) -> int:
    count = source.info.num_examples
    return count if kept or source.are_names else min(count, MAX_SHUFFLE_BUFFER)


def _still_images(source: Source, shape: tuple[int, int, int]) -> tf.data.Dataset:
    """Returns pairs of image and label in the order of the files, with images as in evaluation.

    The count is asserted, because these pairs may be cached. If an iterator is dropped before its end, TensorFlow's
    parallel `map` can end as if it had read everything. The cache would then hold only the first part.
    """
    images = source.records(None).map(
        lambda record, label: (source.image(record, shape), label), num_parallel_calls=tf.data.AUTOTUNE
    )
    return images.apply(tf.data.experimental.assert_cardinality(source.info.num_examples))


def _finish(batches: tf.data.Dataset, one_hot_classes: int | None) -> tf.data.Dataset:
    """Converts uint8 images to float32 in [0, 1], and labels to one-hot if a number of classes is given."""

    def convert(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) / 255.0
        return images, labels if one_hot_classes is None else tf.one_hot(labels, one_hot_classes, dtype=tf.float32)

    options = tf.data.Options()
    options.deterministic = True
    # Workers share each global batch. Sharding by file would give them other examples than a single worker.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    converted = batches.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return converted.prefetch(tf.data.AUTOTUNE).with_options(options)
