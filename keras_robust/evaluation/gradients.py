"""The input gradient of a classifier's loss."""

import tensorflow as tf

from keras_robust.attacks.attack import ModelFn, gradient_at
from keras_robust.core.objectives import cross_entropy
from keras_robust.core.seeds import Tensor


def loss_gradient(model_fn: ModelFn, points: Tensor, labels: Tensor) -> Tensor:
    """Returns the gradient of each example's cross-entropy with respect to its image, of the shape of `points`.

    Args:
        model_fn: maps images to logits (batch, classes).
        points: (batch, height, width, channels) float32.
        labels: sparse (batch,) or one-hot (batch, classes).

    Raises:
        ValueError: if the classifier is not differentiable in its images.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        loss = tf.reduce_sum(cross_entropy(labels, model_fn(points)))
    return gradient_at(points, loss, tape)
