"""Labels in the two forms that Keras users have: sparse class indices, and one-hot (or soft) rows."""

from typing import Any

import tensorflow as tf

from keras_robust.core.seeds import Tensor


def as_one_hot(labels: Tensor, num_classes: int | Tensor) -> Tensor:
    """Returns float32 (batch, classes) from sparse (batch,) or (batch, 1) indices, or from one-hot rows."""
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        return tf.one_hot(as_sparse(labels), num_classes)
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
