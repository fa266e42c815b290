"""Labels in the two forms that Keras users have: sparse class indices, and one-hot (or soft) rows."""

from typing import Any

import tensorflow as tf

from keras_robust.core.seeds import Tensor

SUM_TOLERANCE = 1e-3
"""By how much the sum of a soft label may differ from 1."""


def as_one_hot(labels: Tensor, num_classes: int | Tensor) -> Tensor:
    """Returns float32 (batch, classes) from sparse (batch,) or (batch, 1) indices, or from one-hot rows.

    An index that is no class gives a row of NaN, where `tf.one_hot` has zeros: nothing is trained on it in silence.
    """
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        sparse = as_sparse(labels)
        is_class = (sparse >= 0) & (sparse < num_classes)
        return tf.where(is_class[:, None], tf.one_hot(sparse, num_classes), float("nan"))
    return tf.cast(labels, tf.float32)


def as_sparse(labels: Tensor) -> Tensor:
    """Returns int32 class indices (batch,) from sparse or one-hot labels (the largest entry of soft ones)."""
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        return tf.cast(tf.reshape(labels, (-1,)), tf.int32)
    return tf.argmax(labels, axis=1, output_type=tf.int32)


def is_sparse(labels: Any) -> bool:
    """Returns whether `labels`, of known rank, are class indices: of shape (batch,) or (batch, 1)."""
    return labels.shape.rank == 1 or labels.shape[-1] == 1


def labels_are_valid(labels: Tensor, num_classes: int | Tensor) -> Tensor:
    """Returns for each label whether it is one of the classes, or a row of numbers >= 0 that add up to 1: (batch,)."""
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        values = tf.cast(tf.reshape(labels, (-1,)), tf.float32)
        return (values >= 0) & (values < tf.cast(num_classes, tf.float32)) & (tf.floor(values) == values)
    rows = tf.cast(labels, tf.float32)
    return tf.reduce_all(rows >= 0, axis=1) & (tf.abs(tf.reduce_sum(rows, axis=1) - 1.0) <= SUM_TOLERANCE)
