"""Adversarial logit pairing."""

from typing import Any

import keras

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.losses import PairingLoss, get_pairing_loss
from keras_robust.methods.adversarial_training import AdversarialTraining


@keras.saving.register_keras_serializable(PACKAGE)
class AdversarialLogitPairing(AdversarialTraining):
    """Mixed-minibatch PGD plus a penalty on clean-adversarial logit distance (Kannan et al., 2018, section 4.2.1).

    Its robustness on ImageNet did not survive stronger attacks (Engstrom et al., 2018): measure it with many steps and
    restarts.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`.
        pairing_weight: lambda, at least 0; 0 is mixed-minibatch PGD. The paper used 1 on MNIST and 0.5 on SVHN.
        pairing_loss: "l2", "l1", "huber" or a `PairingLoss`. By name the distance is the mean over the classes, as in
            the original code; `PairingLoss("l2", over_classes="sum")` is the paper's formula.
        **kwargs: of `RobustModel`, and `clean_weight` of `AdversarialTraining`.

    Raises:
        ValueError: if `pairing_weight` is negative or `pairing_loss` unknown.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        pairing_weight: float = 0.5,
        pairing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("pairing_weight", pairing_weight)
        super().__init__(classifier, attack, clean_fraction=1.0, **kwargs)
        self.pairing_weight = pairing_weight
        self.pairing_loss = get_pairing_loss(pairing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss of mixed-minibatch PGD plus the weighted pairing loss."""
        pairing = self.pairing_loss(logits[CLEAN], logits[ADVERSARIAL], sample_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.pairing_weight * pairing

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        config = super().get_config()
        del config["clean_fraction"]  # always 1
        pairing_loss = keras.saving.serialize_keras_object(self.pairing_loss)
        return {**config, "pairing_weight": self.pairing_weight, "pairing_loss": pairing_loss}
