"""Batches that do not reach every replica: the last one of a data set, with 33 images in batches of 32 on two.

A replica without images computes with an image that is not its own, and drops what comes of it: no images have no batch
statistics, and not every kernel takes them. Losses, gradients and metrics are those of no images.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robust.core.seeds import Tensor


def on_any_share(function: Callable[..., Any], training: bool, images: Tensor, *others: Tensor) -> Any:
    """Returns `function(images, *others)`, a nest of tensors (batch, ...), also for this replica's share of no images.

    In training the image that stands in is the first one of the first replica, since batch statistics, and the moving
    averages with them, are those of what went through the classifier. Elsewhere it is black.

    Args:
        function: calls a classifier.
        training: whether that computes batch statistics that are kept.
        images: (batch, height, width, channels).
        *others: (batch, ...), such as labels; zeros stand in.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or images.shape[0] is not None:
        return function(images, *others)
    count = tf.shape(images)[0]
    stand_in = tf.reduce_sum(images[:1], axis=0)  # zeros where there are no images
    if training:
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        of_first = tf.where(is_first, stand_in, tf.zeros_like(stand_in))
        stand_in = tf.stop_gradient(context.all_reduce(tf.distribute.ReduceOp.SUM, of_first))
    padded = [_with(images, stand_in), *(_with(values, tf.reduce_sum(values[:1], axis=0)) for values in others)]
    return tf.nest.map_structure(lambda output: output[:count], function(*padded))


def _with(values: Tensor, stand_in: Tensor) -> Tensor:
    """Returns `values`, or `stand_in` as the only one where there are none."""
    missing = tf.cast(tf.equal(tf.shape(values)[0], 0), tf.int32)
    return tf.concat([values, tf.repeat(stand_in[None], missing, axis=0)], axis=0)
