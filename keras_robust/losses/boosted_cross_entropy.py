"""Cross-entropy plus a margin: the adversarial term of MART."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.labels import as_sparse
from keras_robust.core.objectives import cross_entropy
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE


def boosted_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns -log p_y - log(1 - max_{k != y} p_k) with p = softmax(z) (Wang et al., 2020, equation 8), (batch,).

    Args:
        labels: (batch,) integers or (batch, classes) one-hot.
        logits: (batch, classes).
    """
    is_label = tf.one_hot(as_sparse(labels), tf.shape(logits)[1], True, False)
    probabilities = tf.nn.softmax(logits)
    others = tf.reduce_max(tf.where(is_label, tf.zeros_like(probabilities), probabilities), axis=1)
    # As in the authors' code, 1.0001 keeps the logarithm finite where a wrong class has probability one.
    return cross_entropy(labels, logits) - tf.math.log(1.0001 - others)


@keras.saving.register_keras_serializable(PACKAGE)
class BoostedCrossEntropy(keras.losses.Loss):
    """The mean over examples of `boosted_cross_entropy`, of labels and logits."""

    def __init__(self, name: str = "boosted_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss per example, (batch,)."""
        return boosted_cross_entropy(y_true, y_pred)
