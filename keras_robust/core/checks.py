"""Checks of user input. Each raises a `ValueError` that says what is wrong, what was received, and how to fix it."""

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

TOLERANCE = 1e-6
"""How far a pixel may lie outside the bounds: rounding of float32."""

BYTES = (0.0, 255.0)
"""Smallest and largest value of uint8 pixels."""

WIDE = 100.0
"""Bounds at least this far apart mean uint8 or longer integers, not images scaled to [0, 1] or [-1, 1]."""

EXAMPLES = 32
"""At most so many examples are checked by running the classifier."""

MANY_IMAGES = 32
"""At least this many images with only the pixels 0 and 1 count as scaled if the bounds are wide. Fewer may be dark."""

ONE_LOGIT = (
    "A classifier with one logit z must return the two logits [0, z]. Its labels are 0 and 1, its loss is "
    "SparseCategoricalCrossentropy(from_logits=True):\n"
    "    z = classifier.outputs[0]  # a logit: without a sigmoid\n"
    "    logits = keras.layers.Concatenate()([0 * z, z])\n"
    "    classifier = keras.Model(classifier.inputs[0], logits)\n"
    "For a subclassed model, use x = keras.Input(image_shape), z = classifier(x) and keras.Model(x, logits).\n"
)
"""The advice for a binary classifier, wherever one is refused. Probabilities and gradients stay the same."""


def check_images(images: Any, bounds: tuple[float, float]) -> None:
    """Checks that `images` are finite floats inside `bounds`.

    Args:
        images: (batch, ...) array or eager tensor.
        bounds: smallest and largest pixel value.

    Raises:
        ValueError: if they are not.
    """
    images = np.asarray(images)
    if images.ndim < 2:
        raise ValueError(f"Images must be (batch, height, width, channels). Received: an array of shape {images.shape}")
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(
            f"Images must be floats in {list(bounds)}{_how_to_convert(bounds)}. "
            f"Received: images of dtype {images.dtype}"
        )
    if not images.size:
        raise ValueError(f"Images must have at least one pixel. Received: images of shape {images.shape}")
    low, high = float(np.min(images)), float(np.max(images))
    if not (bounds[0] - TOLERANCE <= low and high <= bounds[1] + TOLERANCE):
        bytes_in = low >= 0 and 2 < high <= BYTES[1] and tuple(bounds) == (0.0, 1.0)
        hint = (
            "divide pixels from 0 to 255 by 255" if bytes_in else "normalisation belongs in a layer of the classifier"
        )
        raise ValueError(
            f"Images must be floats in bounds={list(bounds)}; {hint}. Received: images from {low:g} to {high:g}"
        )


def _how_to_convert(bounds: tuple[float, float]) -> str:
    """Returns advice on how to convert uint8 images to these bounds."""
    if tuple(bounds) == BYTES:
        return ": cast uint8 images to float32, e.g. tf.cast(images, tf.float32)"
    if tuple(bounds) == (0.0, 1.0):
        return ": cast uint8 images to float32 and divide them by 255"
    return ": cast and scale uint8 images to these bounds"


def warn_of_scale(images: np.ndarray, bounds: tuple[float, float]) -> None:
    """Warns of images scaled to [0, 1] or [-1, 1] if the bounds, and therefore epsilon, are those of uint8 images.

    There is no warning if all pixels are equal, or if fewer than 32 images have only whole numbers: a few dark uint8
    images look like that.

    Args:
        images: (batch, ...) floats inside the bounds.
        bounds: smallest and largest pixel value.

    Warns:
        UserWarning: if the bounds are at least 100 apart, and no pixel is further than 1 from 0.
    """
    images = np.asarray(images)
    if bounds[1] - bounds[0] < WIDE or not images.size:
        return
    low, high = float(images.min()), float(images.max())
    if not (-1 <= low < high <= 1):
        return
    is_whole = bool((images == np.floor(images)).all())
    if is_whole and len(images) < MANY_IMAGES:
        return
    warnings.warn(
        f"The images use a tiny part of bounds={list(bounds)}: were they divided by 255? Epsilon is in the units of "
        "the images. Either it is far too large for them, or the bounds are wrong. "
        f"Received: {len(images)} images from {low:g} to {high:g}",
        stacklevel=3,
    )


def check_labels(labels: Any, num_classes: int, batch: int) -> None:
    """Checks that `labels` are (batch,) class indices, or (batch, num_classes) one-hot or soft rows.

    Raises:
        ValueError: if rank, length, dtype or range is wrong.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf" and labels.dtype.name != "bfloat16":
        raise ValueError(
            f"Labels must be integers from 0 to {num_classes - 1}, or one-hot rows, not names: number the classes. "
            f"Received: labels of dtype {labels.dtype}"
        )
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] not in (1, num_classes)):
        raise ValueError(
            f"Labels must be (batch,) class indices or (batch, {num_classes}) one-hot rows, because the classifier has "
            f"{num_classes} logits. Received: labels of shape {labels.shape}"
        )
    if len(labels) != batch:
        raise ValueError(f"Give one label per image. Received: {len(labels)} labels for {batch} images")
    if labels.ndim == 2 and labels.shape[1] == num_classes > 1:
        sums = labels.sum(axis=1)
        if labels.min() < 0 or not np.allclose(sums, 1.0, atol=1e-3):
            raise ValueError(
                "One-hot (or soft) labels must be at least 0 and add up to 1 in each row. "
                f"Received: labels from {labels.min()} to {labels.max()}, row sums from {sums.min()} to {sums.max()}"
            )
        return
    if np.any(labels != np.floor(labels)) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"Labels must be integers from 0 to {num_classes - 1}, because the classifier has {num_classes} logits. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )


def check_targets(targets: Any, labels: Any, num_classes: int) -> np.ndarray:
    """Returns the target classes as int32 (examples,), from class indices or one-hot rows.

    Args:
        targets: (examples,) integers or (examples, classes) one-hot rows.
        labels: (examples,) or (examples, classes), checked by `check_labels`.
        num_classes: number of classes of the classifier.

    Raises:
        ValueError: if they have another form, are not one per label, or one equals the label of its example.
    """
    targets, classes = np.asarray(targets), _class_indices(labels)
    shapes = ((len(classes),), (len(classes), 1), (len(classes), num_classes))
    if targets.shape not in shapes or targets.dtype.kind not in "iuf":
        raise ValueError(
            f"targets must be one class index for each of the {len(classes)} examples, or as many one-hot rows of "
            f"length {num_classes}. Received: targets of shape {targets.shape} and dtype {targets.dtype}"
        )
    if targets.shape == shapes[2]:
        valid = np.array_equal(targets, np.eye(num_classes)[targets.argmax(axis=1)])
    else:
        valid = bool(np.all((targets >= 0) & (targets < num_classes) & (targets == np.floor(targets))))
    if not valid:
        raise ValueError(
            f"targets must be integers from 0 to {num_classes - 1}, because the classifier has {num_classes} logits, "
            f"or one-hot rows with a single 1. Received: targets from {targets.min()} to {targets.max()}"
        )
    found = _class_indices(targets)
    same = np.flatnonzero(found == classes)
    if same.size:
        raise ValueError(
            "A target must be another class than the label of its example. "
            f"Received: {same.size} targets that equal the label, the first at position {same[0]}"
        )
    return found


def _class_indices(labels: Any) -> np.ndarray:
    """Returns int32 (examples,) from class indices, (examples,) or (examples, 1), or from one-hot rows."""
    labels = np.asarray(labels)
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return (labels.argmax(axis=1) if one_hot else labels.reshape(-1)).astype(np.int32)


def check_output(output: Any) -> Any:
    """Returns the output of a classifier, if it is one tensor or array.

    Raises:
        ValueError: if it is a dictionary, or a list or tuple of outputs.
    """
    if isinstance(output, Mapping | list | tuple):
        received = f"the keys {sorted(map(str, output))}" if isinstance(output, Mapping) else f"{len(output)} outputs"
        raise ValueError(
            "A classifier must return one tensor of logits, (batch, classes). Wrap it so that it returns only this. "
            f"Received: a {type(output).__name__} of {received}"
        )
    return output


def check_logits(logits: Any, batch: int) -> None:
    """Checks that the output of a classifier can be logits: of shape (batch, classes), and no probabilities.

    Raises:
        ValueError: if there are several outputs, the shape is wrong, or all rows are non-negative and add up to 1.
    """
    logits = np.asarray(check_output(logits), np.float64)
    if logits.shape in ((batch,), (batch, 1)):
        raise ValueError(
            f"The classifier must return at least two logits per image. {ONE_LOGIT}"
            "A function must return tf.concat([0 * z, z], axis=1), with z of shape (batch, 1). "
            f"Received: an output of shape {logits.shape}"
        )
    if logits.ndim != 2 or len(logits) != batch:
        raise ValueError(
            f"The classifier must map {batch} images to logits of shape ({batch}, classes). "
            f"Received: an output of shape {logits.shape}"
        )
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "The classifier must return logits. Remove the softmax at its end: attacks on probabilities are weak. "
            f"Received: outputs from {logits.min():g} to {logits.max():g} that add up to 1 in each row"
        )


def check_weights(weights: Iterable[tuple[str, Any]], owner: str) -> None:
    """Checks that the weights of a classifier are finite, and the moving variances not negative.

    The logits do not show it: on CPU, TensorFlow runs a convolution and the ReLU after it as one operation that turns
    NaN into 0, so that the classifier returns finite logits. So it is with batch normalisation that is folded into the
    convolution.

    Args:
        weights: (path, array) of each weight.
        owner: the classifier, for the message.

    Raises:
        ValueError: if a weight has a value that is not finite, or a variance that is negative; the message gives its
            path.
    """
    for path, values in weights:
        array = np.asarray(values)
        if array.dtype.kind not in "fV":  # V is bfloat16
            continue
        wrong = int(np.sum(~np.isfinite(array)))
        if wrong:
            raise ValueError(
                f"The weights of a classifier must be finite; training may have diverged. Received: {owner}, whose "
                f"weight {path!r} has {wrong} of {array.size} values that are NaN or infinite"
            )
        if "moving_variance" in path and (array < 0).any():
            raise ValueError(
                "The moving variances of batch normalisation must not be negative: their square root is not a number. "
                f"Set them to the variances of a batch. Received: {owner}, whose weight {path!r} has the least value "
                f"{array.min():g}"
            )


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}. Received: {name}={value!r}")


def check_weight(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0. Received: {name}={value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number above 0. Received: {name}={value!r}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is None or an instance of `kind`."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} must be of type {kind.__name__}, or None. Received: {name}={value!r}")


def check_batch(
    classifier: keras.Layer, images: Any, labels: Any, bounds: tuple[float, float], all_labels: Any = None
) -> None:
    """Checks the first batch: images, labels, and the outputs of the classifier for some of the images.

    Args:
        classifier: maps images to logits (batch, classes).
        images: (batch, height, width, channels).
        labels: (batch,) class indices, or (batch, classes) one-hot or soft rows.
        bounds: smallest and largest pixel value.
        all_labels: the labels of all batches, to check them all. None, or no labels: only `labels` are checked.

    Raises:
        ValueError: if the images are not floats inside `bounds`, the classifier takes another image shape, its output
            cannot be logits, or the labels do not fit the images or the classes.
    """
    if isinstance(images, dict):
        raise ValueError(
            "Images must be one array, and batches of a data set must be pairs (images, labels). Turn the dictionaries "
            "of TensorFlow Datasets into pairs: dataset.map(lambda batch: (batch['image'], batch['label'])). "
            f"Received: a dict with the keys {sorted(map(str, images))}"
        )
    if isinstance(images, list | tuple):
        raise ValueError(f"Images must be one array. Received: a {type(images).__name__}")
    check_images(images, bounds)
    warn_of_scale(images, bounds)
    if labels is None:
        raise ValueError("Training needs labels. Pass y, or a data set of (images, labels). Received: no labels")
    check_image_shape(classifier, images.shape)
    few = tf.convert_to_tensor(images[:EXAMPLES])
    logits = check_output(classifier(few, training=False))
    check_logits(logits, len(few))
    check_labels(labels, logits.shape[1], len(images))
    if all_labels is not None and len(all_labels):
        check_labels(all_labels, logits.shape[1], len(all_labels))


def check_image_shape(classifier: keras.Layer, shape: Any) -> None:
    """Raises `ValueError` if the classifier knows its input shape and a batch of images of `shape` does not fit."""
    expected = getattr(classifier, "input_shape", None)
    if isinstance(expected, tuple) and not tf.TensorShape(expected).is_compatible_with(shape):
        raise ValueError(
            f"Images for the classifier {classifier.name!r} must have the shape {expected[1:]}. "
            f"Received: images of shape {tuple(shape[1:])}"
        )


def check_ends_in_logits(classifier: keras.Layer) -> None:
    """Raises `ValueError` unless `classifier` is a Keras layer with one input that ends in at least two logits.

    It looks at the layers. A classifier whose layers are unknown passes; `check_batch` checks its outputs later.
    """
    if not isinstance(classifier, keras.Layer):
        raise ValueError(
            "classifier must be a Keras model from images to logits. "
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
        raise ValueError(f"The classifier must return at least two logits per image. {ONE_LOGIT}{ends_in} and 1 output")
    if "softmax" in names or "sigmoid" in names:
        raise ValueError(
            "The classifier must return logits. Remove the softmax or sigmoid at its end: attacks on probabilities are "
            f"weak. {ends_in}"
        )


def _number_of_logits(classifier: keras.Layer, last: keras.Layer) -> int | None:
    """Returns the number of outputs per image of a classifier, or None if it is not known."""
    outputs = getattr(classifier, "outputs", None)
    if outputs and len(outputs[0].shape) == 2:
        return outputs[0].shape[1]
    return getattr(last, "units", None) if isinstance(classifier, keras.Sequential) else None


def check_one_in_one_out(classifier: keras.Layer) -> None:
    """Raises `ValueError` if a Keras model has several inputs or outputs."""
    for kind, meaning in (("inputs", "one batch of images"), ("outputs", "one tensor of logits")):
        tensors = getattr(classifier, kind, None)
        if isinstance(tensors, list | tuple) and len(tensors) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ValueError(
                f"The {kind} of a classifier must be {meaning}. Make a model with one input and one output, such as "
                "keras.Model(model.inputs[0], model.outputs[0]). "
                f"Received: {classifier.name!r} with {len(tensors)} {kind} of shapes {shapes}"
            )
