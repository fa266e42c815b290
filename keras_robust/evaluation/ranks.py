"""How many classes a classifier ranks above the right one: 0 is right, below k is right among the top k."""

import tensorflow as tf

from keras_robust.core.seeds import Tensor

NOT_A_CLASS = -1
"""The prediction where a logit is not finite."""


def classify(logits: Tensor) -> Tensor:
    """Returns the predicted classes, int32 (batch,), or `NOT_A_CLASS` where a logit is not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where(finite, tf.argmax(logits, axis=1, output_type=tf.int32), NOT_A_CLASS)


def rank_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns how many classes come before the label, int32 (batch,): of equal logits the first comes first.

    Where a logit is not finite, all classes do.

    Args:
        logits: (batch, classes).
        labels: sparse (batch,).
    """
    classes = tf.shape(logits)[1]
    own = tf.gather(logits, labels, batch_dims=1)[:, None]
    before = tf.range(classes)[None, :] < labels[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)
    return tf.where(tf.reduce_all(tf.math.is_finite(logits), axis=1), rank, classes)
