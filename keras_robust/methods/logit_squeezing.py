"""Logit squeezing."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import CLEAN
from keras_robust.losses import PairingLoss, get_pairing_loss
from keras_robust.methods.natural_training import NaturalTraining


@keras.saving.register_keras_serializable(PACKAGE)
class LogitSqueezing(NaturalTraining):
    """Natural training plus a penalty on the size of the logits (Kannan et al., 2018, section 4.2.3).

        loss + squeezing_weight * 1/m * sum_i distance(z_i, 0)

    Not a defence: it hides the gradient from weak attacks and falls to strong ones (Mosbach et al., 2018: on MNIST
    from 71 % to 5 %, with the norm of the logits instead of its square). It is here to be measured.

    Args:
        classifier: as in `RobustModel`.
        squeezing_weight: lambda, at least 0.
        squeezing_loss: "l2", "l1", "huber" or a `PairingLoss`, of the distance of the logits from zero.
        **kwargs: `input_noise` of `NaturalTraining`, on which the paper's results relied, and those of `RobustModel`.

    Raises:
        ValueError: if `squeezing_weight` is negative or `squeezing_loss` unknown.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        *,
        squeezing_weight: float = 0.5,
        squeezing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("squeezing_weight", squeezing_weight)
        super().__init__(classifier, **kwargs)
        self.squeezing_weight = squeezing_weight
        self.squeezing_loss = get_pairing_loss(squeezing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted size of the logits."""
        size = self.squeezing_loss(tf.zeros_like(logits[CLEAN]), logits[CLEAN], sample_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.squeezing_weight * size

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        squeezing_loss = keras.saving.serialize_keras_object(self.squeezing_loss)
        return {**super().get_config(), "squeezing_weight": self.squeezing_weight, "squeezing_loss": squeezing_loss}
