"""The first batch of what is passed to `fit`, looked at before anything is trained."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.checks import (
    ONE_LOGIT,
    check_images,
    check_labels,
    check_logits,
    check_output,
    warn_of_scale,
)
from keras_robust.core.objectives import is_sparse

EXAMPLES = 32
"""At most so many examples are checked by running the classifier."""

Held = list[tuple[list[tf.data.Dataset], Any]]
"""Iterators, with the caches that they read from."""


def peek(x: Any, y: Any, batch_size: int | None, goes_on: bool, held: Held) -> tuple[Any, Any, Any]:
    """Returns (images, labels, x): the first batch, and `x` with nothing taken from it.

    A data set is read by an iterator that goes on with its first epoch, first batch included: so it is read once, in
    the order that it has by itself, and no second pipeline is in memory. Where that is not possible, another iterator
    looks at it and is given up, unless something is cached.

    Args:
        x: what `fit` accepts: arrays or tensors, a `tf.data.Dataset` (also a distributed one), a `PyDataset` or a
            generator of batches.
        y: labels, where `x` holds images only.
        batch_size: of `fit`, for arrays.
        goes_on: whether Keras iterates over the data set that it is given itself. It does not under a strategy, which
            distributes it, nor with class weights.
        held: to this list an iterator is added that must not be given up before the data set was read to its end, with
            the caches in it: `tf.data.Dataset.cache` may take what it has seen for all that there is, for good.
    """
    if isinstance(x, tf.data.Dataset):
        iterator = iter(_with_first_twice(x) if goes_on else x)
        batch = next(iterator, None)
        if caches := _caches(x):
            held.append((caches, iterator))
        if goes_on:
            x = _Begun(x, iterator)
    elif isinstance(x, tf.distribute.DistributedDataset):
        iterator = iter(x)
        held.append(([], iterator))
        # The values of the first replica; `fit` is called outside the strategy's scope, so it is not known here.
        batch = tf.nest.map_structure(lambda v: getattr(v, "values", (v,))[0], next(iterator))
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


class _Begun(tf.data.Dataset):
    """A data set whose first iterator is one that there is already.

    Args:
        data: the data set.
        iterator: over its elements.
    """

    def __init__(self, data: tf.data.Dataset, iterator: Iterator[Any]) -> None:
        self._data = data
        self._iterator: Iterator[Any] | None = iterator
        super().__init__(data._variant_tensor)  # the rest of tf.data takes it for `data`

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._data]

    @property
    def element_spec(self) -> Any:
        return self._data.element_spec

    def __iter__(self) -> Iterator[Any]:
        iterator, self._iterator = self._iterator, None
        return iter(self._data) if iterator is None else iterator


def _with_first_twice(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the elements of `data`, of which the first can be looked at before it comes again."""

    def repeated(index: Any, element: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(element).repeat(tf.where(tf.equal(index, 0), tf.constant(2, tf.int64), 1))

    return data.enumerate().flat_map(repeated)


@contextlib.contextmanager
def whole_after_errors(held: Held) -> Iterator[None]:
    """Leaves cached data sets whole that were looked at where there is an error inside, for the next try."""
    try:
        yield
    except Exception:
        for caches, iterator in held:
            for cache in caches:
                vars(cache)["_looked_at_by"] = iterator  # which then lives as long as the cache
        raise


def _caches(data: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns every `Dataset.cache` in it."""
    own = [data] if type(data).__name__ == "CacheDataset" else []
    return own + [cache for each in data._inputs() for cache in _caches(each)]


def _put_back(batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Yields `batch` and the rest: a generator, the only iterator that Keras takes."""
    yield batch
    yield from rest


def counting_labels(labels: Any, sample_weight: Any) -> Any:
    """Returns the labels that are given as one array, but those of weight 0, which may be anything; None where not."""
    if labels is None or sample_weight is None:
        return labels
    return np.asarray(labels)[np.asarray(sample_weight).reshape(-1) != 0]


def check_batch(
    classifier: keras.Layer, images: Any, labels: Any, bounds: tuple[float, float], all_labels: Any = None
) -> None:
    """Checks images, labels and what the classifier makes of them.

    Args:
        classifier: maps images to logits.
        images: the first batch.
        labels: of it.
        bounds: smallest and largest pixel value.
        all_labels: those of all batches, where they are at hand.

    Raises:
        ValueError: if the images are not floats inside `bounds`, their shape is not what the classifier takes, its
            output cannot be logits, or the labels do not fit.
    """
    if isinstance(images, dict):
        raise ValueError(
            "A robust model takes one array of images, and data sets are of pairs (images, labels): of TFDS's "
            "dictionaries make pairs with dataset.map(lambda batch: (batch['image'], batch['label'])). "
            f"Received: a dict with the keys {sorted(map(str, images))}"
        )
    if isinstance(images, list | tuple):
        raise ValueError(f"A robust model takes one array of images. Received: a {type(images).__name__}")
    check_images(images, bounds)
    warn_of_scale(images, bounds)
    if labels is None:
        raise ValueError("Training needs labels: pass y, or a data set of (images, labels). Received: no labels")
    check_image_shape(classifier, images.shape)
    few = tf.convert_to_tensor(images[:EXAMPLES])
    logits = check_output(classifier(few, training=False))
    check_logits(logits, len(few))
    check_labels(labels, logits.shape[1], len(images))
    if all_labels is not None and len(all_labels):
        check_labels(all_labels, logits.shape[1], len(all_labels))


def check_binary_loss(loss: Any, labels: Any) -> None:
    """Raises `ValueError` if a loss on one logit per label is used with class indices: Keras has it for binary labels.

    With one-hot labels it is a loss of one class against the others, for each class.
    """
    losses = loss if isinstance(loss, list | tuple) else [loss]
    if any(is_binary(each) for each in losses) and is_sparse(tf.convert_to_tensor(labels)):
        raise ValueError(
            f"Class indices go with SparseCategoricalCrossentropy(from_logits=True). {ONE_LOGIT}Received: loss={loss!r}"
        )


def is_binary(loss: Any) -> bool:
    """Returns whether a loss is one of Keras's on one logit (or probability) per label."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return str(name).lower().replace("_", "") in ("binarycrossentropy", "binaryfocalcrossentropy")


def check_image_shape(classifier: keras.Layer, shape: Any) -> None:
    """Raises `ValueError` if the classifier knows its input shape and a batch of images of `shape` does not fit."""
    expected = getattr(classifier, "input_shape", None)
    if isinstance(expected, tuple) and not tf.TensorShape(expected).is_compatible_with(shape):
        raise ValueError(
            f"The classifier {classifier.name!r} takes images of shape {expected[1:]}. "
            f"Received: images of shape {tuple(shape[1:])}"
        )


def check_ends_in_logits(classifier: keras.Layer) -> None:
    """Raises `ValueError` unless `classifier` is a Keras layer of one input, which ends in two logits or more.

    Classifiers that cannot be looked into are checked by their output at the first batch.
    """
    if not isinstance(classifier, keras.Layer):
        raise ValueError(
            "classifier is a Keras model from images to logits. "
            f"Received: classifier of type {type(classifier).__name__}"
        )
    check_one_in_one_out(classifier)
    layers = getattr(classifier, "layers", [])
    last = layers[-1] if layers else classifier
    activation = getattr(last, "activation", None)
    names = (type(last).__name__.lower(), getattr(activation, "__name__", ""))
    count = _number_of_logits(classifier, last)
    ends_in = f"Received: a classifier that ends in {last.name!r} with {names[1] or names[0]}"
    if count == 1:
        raise ValueError(f"A classifier returns two logits per image or more. {ONE_LOGIT}{ends_in} and 1 output")
    if "softmax" in names or "sigmoid" in names:
        raise ValueError(
            "A classifier returns logits: remove the softmax (or sigmoid) at its end, since attacks on probabilities "
            f"are weak. {ends_in}"
        )


def _number_of_logits(classifier: keras.Layer, last: keras.Layer) -> int | None:
    """Returns how many outputs per image a classifier has, or None where that is not seen."""
    outputs = getattr(classifier, "outputs", None)
    if outputs and len(outputs[0].shape) == 2:
        return outputs[0].shape[1]
    return getattr(last, "units", None) if isinstance(classifier, keras.Sequential) else None


def check_one_in_one_out(classifier: keras.Layer) -> None:
    """Raises `ValueError` if a Keras model is seen to have several inputs or outputs."""
    for kind, meaning in (("inputs", "one batch of images"), ("outputs", "one tensor of logits")):
        tensors = getattr(classifier, kind, None)
        if isinstance(tensors, list | tuple) and len(tensors) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ValueError(
                f"A classifier has {meaning} as its {kind}: make a model of the one that is meant, such as "
                "keras.Model(model.inputs[0], model.outputs[0]). "
                f"Received: {classifier.name!r} with {len(tensors)} {kind} of shapes {shapes}"
            )
