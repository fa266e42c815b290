"""The input gradient of a classifier's loss."""

from keras_robust.attacks.attack import ModelFn
from keras_robust.attacks.input_gradient import value_and_gradient
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
    return value_and_gradient(lambda points: cross_entropy(labels, model_fn(points)), points)[1]
