"""The examples of an evaluation, checked and held as arrays."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.core.checks import check_images, warn_of_scale
from keras_robust.data.decoding import naming_bad_images
from keras_robust.evaluation.subject import Subject

IMAGE, LABEL = "image", "label"
"""The keys of TFDS."""


def load_examples(dataset: Any, bounds: tuple[float, float], subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images, labels) of a whole data set, in memory.

    Args:
        dataset: a batched `tf.data.Dataset` of (images, labels), or of dictionaries of them with the keys "image" and
            "label" as TFDS has them; or a pair, or such a dictionary, of arrays.
        bounds: smallest and largest pixel value.
        subject: the classifier, for the shape of its images.

    Returns:
        float32 (examples, ...), and the labels as they came.

    Warns:
        UserWarning: as `warn_of_scale`, if the images look divided by 255 and the bounds do not.

    Raises:
        ValueError: if a batch of images is not float or not inside bounds or of the wrong shape, there are no
            examples or no end of them, or the data set ends early, is not batched or something else.
    """
    if isinstance(dataset, tf.data.Dataset):
        with naming_bad_images():
            batches = list(_batches(dataset, subject))
    elif isinstance(dataset, Mapping) or (isinstance(dataset, list | tuple) and len(dataset) == 2):
        images, labels = _as_pair(dataset)
        batches = [(np.asarray(images), np.asarray(labels))]
    else:
        raise ValueError(
            "dataset is a batched tf.data.Dataset of (images, labels) or a pair of arrays. "
            f"Received: dataset of type {type(dataset).__name__}"
        )
    batches = [(images, labels) for images, labels in batches if images.ndim == 0 or len(images)]
    if not batches:
        raise ValueError("There is nothing to evaluate. Received: a data set of 0 examples")
    for images, labels in batches:
        check_images(images, bounds)
        check_shape(images, subject)
        count = len(labels) if labels.ndim else 0
        if len(images) != count:
            raise ValueError(f"There is one label per image. Received: {count} labels for {len(images)} images")
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    warn_of_scale(images, bounds)
    return images.astype(np.float32, copy=False), labels


def _batches(dataset: tf.data.Dataset, subject: Subject) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    spec = dataset.element_spec
    parts = _as_pair(spec)[:2] if isinstance(spec, tuple | Mapping) else ()
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
        images, labels, *_ = _as_pair(batch)
        yield images, labels
    if expected != tf.data.UNKNOWN_CARDINALITY and read != expected:
        raise ValueError(
            f"Every batch of the data set is evaluated. Received: {read} batches of {expected}. A cache() may hold the "
            "first part alone where an iterator was dropped before its end: make the data set anew"
        )


def _as_pair(batch: Any) -> Any:
    """Returns images and labels of a dictionary with the keys of TFDS, and anything else as it is.

    Raises:
        ValueError: if it is a dictionary with other keys.
    """
    if not isinstance(batch, Mapping):
        return batch
    if not {IMAGE, LABEL} <= set(batch):
        raise ValueError(
            f"A dictionary of images and labels has the keys {IMAGE!r} and {LABEL!r}: of others make pairs, e.g. with "
            "dataset.map(lambda batch: (batch['pixels'], batch['class'])). "
            f"Received: a dictionary with the keys {sorted(map(str, batch))}"
        )
    return batch[IMAGE], batch[LABEL]


def check_shape(images: np.ndarray, subject: Subject) -> None:
    """Raises `ValueError` if the classifier is known to take images of another shape."""
    expected = subject.image_shape
    if expected is not None and not tf.TensorShape(expected).is_compatible_with(images.shape[1:]):
        raise ValueError(
            f"The classifier {subject.description!r} takes images of shape {expected}. "
            f"Received: images of shape {images.shape[1:]}"
        )
