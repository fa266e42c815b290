"""How far apart two predictions are."""

from typing import Any

import keras

from keras_robust.core.objectives import kl_divergence
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

DIRECTIONS = ("forward", "reverse")


@keras.saving.register_keras_serializable(PACKAGE)
class DivergenceLoss(keras.losses.Loss):
    """The mean over examples of the Kullback-Leibler divergence between the predictions of paired logits, in nats.

    Called as a Keras loss, `divergence(clean_logits, adversarial_logits, sample_weight)`, it is scaled under a strategy
    as Keras scales the classification loss. Gradients flow to both.

    Args:
        direction: "forward" is KL(clean || adversarial), as TRADES and virtual adversarial training have it; "reverse"
            is KL(adversarial || clean).
        name: of the loss.
        **kwargs: of `keras.losses.Loss`.

    Raises:
        ValueError: if `direction` is unknown.
    """

    def __init__(self, direction: str = "forward", name: str = "divergence", **kwargs: Any) -> None:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction is one of {DIRECTIONS}. Received: direction={direction!r}")
        super().__init__(name=name, **kwargs)
        self.direction = direction

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the divergence per pair: (batch, classes) twice gives (batch,)."""
        first, second = (y_true, y_pred) if self.direction == "forward" else (y_pred, y_true)
        return kl_divergence(first, second)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the loss."""
        return {**super().get_config(), "direction": self.direction}
