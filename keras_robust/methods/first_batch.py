"""The first batch of what is passed to `fit`, looked at before anything is trained."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.checks import check_images, check_labels, check_logits

EXAMPLES = 32
"""At most so many examples are checked by running the classifier."""


def peek(x: Any, y: Any, batch_size: int | None, held: list[Any]) -> tuple[Any, Any, Any]:
    """Returns (images, labels, x): the first batch, and `x` with nothing taken from it.

    Args:
        x: what `fit` accepts: arrays or tensors, a `tf.data.Dataset` (also a distributed one), a `PyDataset` or a
            generator of batches.
        y: labels, where `x` holds images only.
        batch_size: of `fit`, for arrays.
        held: to this list the iterator of a data set is added. Keep it until the data set was read to its end: where
            an iterator goes before, `tf.data.Dataset.cache` may take what it has seen for all that there is.
    """
    if isinstance(x, tf.data.Dataset):
        held.append(iter(x))
        batch = next(held[-1], None)
    elif isinstance(x, tf.distribute.DistributedDataset):
        held.append(iter(x))
        # The values of the first replica; `fit` is called outside the strategy's scope, so it is not known here.
        batch = tf.nest.map_structure(lambda v: getattr(v, "values", (v,))[0], next(held[-1]))
    elif isinstance(x, keras.utils.PyDataset):
        batch = x[0]
    elif isinstance(x, Iterator):
        batch = next(x, None)
        x = _put_back(batch, x)
    elif x is None or isinstance(x, dict):
        return x, y, x
    else:
        size = batch_size or EXAMPLES
        return x[:size], None if y is None else y[:size], x
    if batch is None:
        raise ValueError("There is nothing to train on. Received: a data set of 0 batches")
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return images, labels, x


def _put_back(batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Yields `batch` and the rest: a generator, the only iterator that Keras takes."""
    yield batch
    yield from rest


def check_batch(classifier: keras.Layer, images: Any, labels: Any, bounds: tuple[float, float]) -> None:
    """Checks images, labels and what the classifier makes of them.

    Raises:
        ValueError: if the images are not floats inside `bounds`, their shape is not what the classifier takes, its
            output cannot be logits, or the labels do not fit.
    """
    if isinstance(images, dict | list | tuple):
        raise ValueError(f"A robust model takes one array of images. Received: a {type(images).__name__}")
    check_images(images, bounds)
    if labels is None:
        raise ValueError("Training needs labels: pass y, or a data set of (images, labels). Received: no labels")
    check_image_shape(classifier, images.shape)
    few = tf.convert_to_tensor(images[:EXAMPLES])
    logits = classifier(few, training=False)
    check_logits(logits, len(few))
    check_labels(labels, logits.shape[1], len(images))


def check_image_shape(classifier: keras.Layer, shape: Any) -> None:
    """Raises `ValueError` if the classifier knows its input shape and a batch of images of `shape` does not fit."""
    expected = getattr(classifier, "input_shape", None)
    if isinstance(expected, tuple) and not tf.TensorShape(expected).is_compatible_with(shape):
        raise ValueError(
            f"The classifier {classifier.name!r} takes images of shape {expected[1:]}. "
            f"Received: images of shape {tuple(shape[1:])}"
        )


def check_ends_in_logits(classifier: keras.Layer) -> None:
    """Raises `ValueError` if `classifier` is no Keras layer, or its last layer is seen to be a softmax or sigmoid.

    Classifiers that cannot be looked into are checked by their output at the first batch.
    """
    if not isinstance(classifier, keras.Layer):
        raise ValueError(
            "classifier is a Keras model from images to logits. "
            f"Received: classifier of type {type(classifier).__name__}"
        )
    layers = getattr(classifier, "layers", [])
    last = layers[-1] if layers else classifier
    activation = getattr(last, "activation", None)
    names = (type(last).__name__.lower(), getattr(activation, "__name__", ""))
    if "softmax" in names or "sigmoid" in names:
        raise ValueError(
            "A classifier returns logits: remove the softmax (or sigmoid) at its end, since attacks on probabilities "
            f"are weak. Received: a classifier that ends in {last.name!r} with {names[1] or names[0]}"
        )
