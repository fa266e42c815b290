"""Checks of what users pass in. Each raises a `ValueError` that names what was received."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

TOLERANCE = 1e-6
"""By how much a pixel may leave the bounds: the rounding of float32."""


def check_images(images: Any, bounds: tuple[float, float]) -> None:
    """Checks that `images` are floats inside `bounds`, and finite.

    Args:
        images: (batch, ...) array or eager tensor.
        bounds: smallest and largest pixel value.

    Raises:
        ValueError: if they are not.
    """
    images = np.asarray(images)
    if images.ndim < 2:
        raise ValueError(f"Images are (batch, height, width, channels). Received: an array of shape {images.shape}")
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(
            f"Images are floats in {list(bounds)}; divide uint8 images by 255. Received: images of dtype {images.dtype}"
        )
    low, high = float(np.min(images)), float(np.max(images))
    if not (bounds[0] - TOLERANCE <= low and high <= bounds[1] + TOLERANCE):
        raise ValueError(
            f"Images are floats in bounds={list(bounds)}; normalisation belongs in a layer of the classifier. "
            f"Received: images from {low:g} to {high:g}"
        )


def check_labels(labels: Any, num_classes: int, batch: int) -> None:
    """Checks that `labels` are `batch` class indices below `num_classes`, or as many one-hot (or soft) rows.

    Raises:
        ValueError: if rank, length, dtype or range is wrong.
    """
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] not in (1, num_classes)):
        raise ValueError(
            f"Labels are (batch,) class indices or (batch, {num_classes}) one-hot rows, as the classifier has "
            f"{num_classes} logits. Received: labels of shape {labels.shape}"
        )
    if len(labels) != batch:
        raise ValueError(f"There is one label per image. Received: {len(labels)} labels for {batch} images")
    if labels.ndim == 2 and labels.shape[1] == num_classes > 1:
        sums = labels.sum(axis=1)
        if labels.min() < 0 or not np.allclose(sums, 1.0, atol=1e-3):
            raise ValueError(
                "One-hot (or soft) labels are at least 0 and add up to 1 in each row. "
                f"Received: labels from {labels.min()} to {labels.max()}, row sums from {sums.min()} to {sums.max()}"
            )
        return
    if np.any(labels != np.floor(labels)) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"Labels are integers from 0 to {num_classes - 1}, as the classifier has {num_classes} logits. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )


def check_targets(targets: Any, labels: Any, num_classes: int) -> np.ndarray:
    """Returns the classes to be reached as int32 (examples,), from class indices or one-hot rows.

    Args:
        targets: (examples,) integers or (examples, classes) one-hot rows.
        labels: as `check_labels` takes them, checked.
        num_classes: of the classifier.

    Raises:
        ValueError: if they are neither, are not one for each label, or one is the label of its example.
    """
    targets, classes = np.asarray(targets), _class_indices(labels)
    shapes = ((len(classes),), (len(classes), 1), (len(classes), num_classes))
    if targets.shape not in shapes or targets.dtype.kind not in "iuf":
        raise ValueError(
            f"targets are a class index for each of the {len(classes)} examples, or as many one-hot rows of "
            f"{num_classes}. Received: targets of shape {targets.shape} and dtype {targets.dtype}"
        )
    if targets.shape == shapes[2]:
        valid = np.array_equal(targets, np.eye(num_classes)[targets.argmax(axis=1)])
    else:
        valid = bool(np.all((targets >= 0) & (targets < num_classes) & (targets == np.floor(targets))))
    if not valid:
        raise ValueError(
            f"targets are integers from 0 to {num_classes - 1}, as the classifier has {num_classes} logits, or one-hot "
            f"rows of a single 1. Received: targets from {targets.min()} to {targets.max()}"
        )
    found = _class_indices(targets)
    same = np.flatnonzero(found == classes)
    if same.size:
        raise ValueError(
            "A target is another class than the label: an example is not attacked towards what it is. "
            f"Received: {same.size} targets that are the label, the first at position {same[0]}"
        )
    return found


def _class_indices(labels: Any) -> np.ndarray:
    """Returns int32 (examples,) from class indices, (examples,) or (examples, 1), or from one-hot rows."""
    labels = np.asarray(labels)
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return (labels.argmax(axis=1) if one_hot else labels.reshape(-1)).astype(np.int32)


def check_logits(logits: Any, batch: int) -> None:
    """Checks that what a classifier returned can be logits: (batch, classes), and not probabilities.

    Raises:
        ValueError: if the shape is wrong, or all rows are non-negative and add up to 1.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 2:
        raise ValueError(
            f"A classifier maps {batch} images to logits of shape ({batch}, classes) with two classes or more. "
            f"Received: an output of shape {logits.shape}"
        )
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "A classifier returns logits: remove the softmax at its end, since attacks on probabilities are weak. "
            f"Received: outputs from {logits.min():g} to {logits.max():g} that add up to 1 in each row"
        )


def check_weights(weights: Iterable[tuple[str, Any]], owner: str) -> None:
    """Checks that the weights of a classifier are finite.

    A pass does not show it: on CPU TensorFlow runs a convolution with the ReLU after it as one operation, which makes
    0 of NaN, so that such a classifier returns finite logits.

    Args:
        weights: (path, array) of each.
        owner: the classifier, for the message.

    Raises:
        ValueError: if one has a value that is not finite; the message names the first by its path.
    """
    for path, values in weights:
        array = np.asarray(values)
        if array.dtype.kind not in "fV":  # V is bfloat16
            continue
        wrong = int(np.sum(~np.isfinite(array)))
        if wrong:
            raise ValueError(
                f"The weights of a classifier are finite; training may have diverged. Received: {owner}, whose weight "
                f"{path!r} has {wrong} of {array.size} values that are NaN or infinite"
            )


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is an integer of at least {least}. Received: {name}={value!r}")


def check_weight(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} is a finite number of at least 0. Received: {name}={value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} is a finite number above 0. Received: {name}={value!r}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raises `ValueError` unless `value`, of the argument `name`, is None or an instance of `kind`."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} is of type {kind.__name__}, or None. Received: {name}={value!r}")
