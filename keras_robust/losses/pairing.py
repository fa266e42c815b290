"""Logit pairing: how far apart two sets of logits are (Kannan et al., 2018, section 4.2)."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE


def squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """Returns (a - b)^2 elementwise."""
    return tf.math.squared_difference(first, second)


def absolute_difference(first: Tensor, second: Tensor) -> Tensor:
    """Returns |a - b| elementwise."""
    return tf.abs(first - second)


def huber_difference(first: Tensor, second: Tensor) -> Tensor:
    """Returns the Huber function with delta 1 of a - b elementwise: d^2 / 2 up to |d| = 1, then |d| - 1/2."""
    distance = tf.abs(first - second)
    return tf.where(distance <= 1.0, 0.5 * distance**2, distance - 0.5)


DIFFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": squared_difference,
    "l1": absolute_difference,
    "huber": huber_difference,
}


@keras.saving.register_keras_serializable(PACKAGE)
class PairingLoss(keras.losses.Loss):
    """The mean over examples of the distance between paired logits.

    Called as a Keras loss, `pairing(clean_logits, adversarial_logits, sample_weight)`, it is scaled under a strategy
    as Keras scales the classification loss.

    Args:
        kind: "l2" (squared difference), "l1" or "huber".
        over_classes: "mean", as in the original code, or "sum", as in the paper's formula. With 10 classes, "sum"
            has 10 times the weight.
        name: name of the loss.
        **kwargs: arguments of `keras.losses.Loss`.

    Raises:
        ValueError: if `kind` or `over_classes` is unknown.
    """

    def __init__(self, kind: str = "l2", over_classes: str = "mean", name: str = "pairing", **kwargs: Any) -> None:
        if not isinstance(kind, str) or kind not in DIFFERENCES:
            raise ValueError(f"A pairing loss must be one of {sorted(DIFFERENCES)}. Received: {kind!r}")
        if over_classes not in ("mean", "sum"):
            raise ValueError(f"over_classes must be 'mean' or 'sum'. Received: over_classes={over_classes!r}")
        super().__init__(name=name, **kwargs)
        self.kind = kind
        self.over_classes = over_classes

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the distance per pair, (batch,), of logits (batch, classes)."""
        reduce = tf.reduce_mean if self.over_classes == "mean" else tf.reduce_sum
        return reduce(DIFFERENCES[self.kind](y_true, y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the loss."""
        return {**super().get_config(), "kind": self.kind, "over_classes": self.over_classes}


def get_pairing_loss(pairing_loss: Any) -> PairingLoss:
    """Returns a `PairingLoss` as it is, or the one of a kind such as "l2".

    Raises:
        ValueError: if it is neither.
    """
    return pairing_loss if isinstance(pairing_loss, PairingLoss) else PairingLoss(pairing_loss)
