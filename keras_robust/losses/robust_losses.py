"""Losses of robust training: the divergence of two predictions, and the boosted cross-entropy."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.objectives import as_sparse, cross_entropy, kl_divergence
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

DIRECTIONS = ("forward", "reverse")


@keras.saving.register_keras_serializable(PACKAGE)
class DivergenceLoss(keras.losses.Loss):
    """The mean over examples of the Kullback-Leibler divergence between the predictions of paired logits, in nats.

    Called as a Keras loss, `divergence(clean_logits, adversarial_logits, sample_weight)`, it is scaled under a strategy
    as Keras scales the classification loss. Gradients flow into both.

    Args:
        direction: "forward" is KL(clean || adversarial), as in TRADES and virtual adversarial training. "reverse" is
            KL(adversarial || clean).
        name: name of the loss.
        **kwargs: arguments of `keras.losses.Loss`.

    Raises:
        ValueError: if `direction` is unknown.
    """

    def __init__(self, direction: str = "forward", name: str = "divergence", **kwargs: Any) -> None:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}. Received: direction={direction!r}")
        super().__init__(name=name, **kwargs)
        self.direction = direction

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the divergence per pair, (batch,), of logits (batch, classes)."""
        first, second = (y_true, y_pred) if self.direction == "forward" else (y_pred, y_true)
        return kl_divergence(first, second)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the loss."""
        return {**super().get_config(), "direction": self.direction}


def boosted_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns -log p_y - log(1 - max_{k != y} p_k) with p = softmax(z) (Wang et al., 2020, equation 8), (batch,).

    Args:
        labels: (batch,) integers or (batch, classes) one-hot.
        logits: (batch, classes).
    """
    is_label = tf.one_hot(as_sparse(labels), tf.shape(logits)[1], True, False)
    probabilities = tf.nn.softmax(logits)
    others = tf.reduce_max(tf.where(is_label, tf.zeros_like(probabilities), probabilities), axis=1)
    # As in the authors' code, 1.0001 keeps the logarithm finite if a wrong class has probability one.
    return cross_entropy(labels, logits) - tf.math.log(1.0001 - others)


@keras.saving.register_keras_serializable(PACKAGE)
class BoostedCrossEntropy(keras.losses.Loss):
    """The mean over examples of `boosted_cross_entropy`, of labels and logits."""

    def __init__(self, name: str = "boosted_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss per example, (batch,)."""
        return boosted_cross_entropy(y_true, y_pred)
