"""The examples of an evaluation, checked and held as arrays."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.core.checks import check_images
from keras_robust.evaluation.subject import Subject


def load_examples(dataset: Any, bounds: tuple[float, float], subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images, labels) of a whole data set, in memory.

    Args:
        dataset: a batched `tf.data.Dataset` of (images, labels), or a pair of arrays.
        bounds: smallest and largest pixel value.
        subject: the classifier, for the shape of its images.

    Returns:
        float32 (examples, height, width, channels), and the labels as they came.

    Raises:
        ValueError: if a batch of images is not float or not inside bounds or of the wrong shape, there are no
            examples or no end of them, or the data set ends early, is not batched or something else.
    """
    if isinstance(dataset, tf.data.Dataset):
        batches = list(_batches(dataset, subject))
    elif isinstance(dataset, list | tuple) and len(dataset) == 2:
        batches = [(np.asarray(dataset[0]), np.asarray(dataset[1]))]
    else:
        raise ValueError(
            "dataset is a batched tf.data.Dataset of (images, labels) or a pair of arrays. "
            f"Received: dataset of type {type(dataset).__name__}"
        )
    if not batches or not len(batches[0][0]):
        raise ValueError("There is nothing to evaluate. Received: a data set of 0 examples")
    for images, labels in batches:
        check_images(images, bounds)
        _check_shape(images, subject)
        if len(images) != len(labels):
            raise ValueError(f"There is one label per image. Received: {len(labels)} labels for {len(images)} images")
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images.astype(np.float32, copy=False), labels


def _batches(dataset: tf.data.Dataset, subject: Subject) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    spec = dataset.element_spec
    parts = spec[:2] if isinstance(spec, tuple) else ()
    ranks = [part.shape.rank for part in parts if isinstance(part, tf.TensorSpec)]
    of_one_image = None if subject.image_shape is None else len(subject.image_shape)
    if len(ranks) < 2 or ranks[1] == 0 or ranks[0] in (0, 1, of_one_image):
        raise ValueError(f"dataset yields batches of (images, labels): call batch() on it. Received: elements {spec}")
    expected = int(dataset.cardinality())
    if expected == tf.data.INFINITE_CARDINALITY:
        raise ValueError("dataset comes to an end: call repeat() on it only for training. Received: a repeated dataset")
    read = 0
    for batch in dataset.as_numpy_iterator():
        read += 1
        yield batch[0], batch[1]
    if expected != tf.data.UNKNOWN_CARDINALITY and read != expected:
        raise ValueError(
            f"Every batch of the data set is evaluated. Received: {read} batches of {expected}. A cache() may hold the "
            "first part alone where an iterator was dropped before its end: make the data set anew"
        )


def _check_shape(images: np.ndarray, subject: Subject) -> None:
    expected = subject.image_shape
    if expected is not None and not tf.TensorShape(expected).is_compatible_with(images.shape[1:]):
        raise ValueError(
            f"The classifier {subject.description!r} takes images of shape {expected}. "
            f"Received: images of shape {images.shape[1:]}"
        )
