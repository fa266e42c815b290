"""Clean logit pairing."""

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
class CleanLogitPairing(NaturalTraining):
    """Natural training plus a penalty on the logit distance of random pairs (Kannan et al., 2018, section 4.2.2).

    In a batch of m images, image i is paired with image i + m/2:

        loss + pairing_weight * 2/m * sum_i distance(z_i, z_{i + m/2}).

    Not a defence: it hides the gradient from weak attacks and falls to strong ones (Mosbach et al., 2018: on MNIST
    from 62 % to 4 %). It is here to be measured.

    Args:
        classifier: as in `RobustModel`.
        pairing_weight: lambda, at least 0.
        pairing_loss: as in `AdversarialLogitPairing`.
        **kwargs: `input_noise` of `NaturalTraining`, on which the paper's best results relied, and those of
            `RobustModel`.

    Raises:
        ValueError: if `pairing_weight` is negative or `pairing_loss` unknown.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        *,
        pairing_weight: float = 0.5,
        pairing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("pairing_weight", pairing_weight)
        super().__init__(classifier, **kwargs)
        self.pairing_weight = pairing_weight
        self.pairing_loss = get_pairing_loss(pairing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted pairing loss; a pair has the mean of its sample weights."""
        half = (tf.shape(logits[CLEAN])[0] + 1) // 2  # of an odd batch, the image in the middle has two partners
        pair_weight = None
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, logits[CLEAN].dtype), (-1,))
            pair_weight = (weight[:half] + weight[-half:]) / 2
        pairing = self.pairing_loss(logits[CLEAN][:half], logits[CLEAN][-half:], pair_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.pairing_weight * pairing

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        pairing_loss = keras.saving.serialize_keras_object(self.pairing_loss)
        return {**super().get_config(), "pairing_weight": self.pairing_weight, "pairing_loss": pairing_loss}
