"""What TRADES, MART and virtual adversarial training have in common."""

from typing import Any

import keras

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.losses import DivergenceLoss
from keras_robust.methods.robust_model import RobustModel


class DivergenceTraining(RobustModel):
    """Training on clean images and on the divergence of the attacked from the clean prediction; a base class.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`.
        divergence_weight: at least 0.
        direction: of `DivergenceLoss`.
        joint_pass: as in `RobustModel`; the authors of all three run clean and attacked images one after the other.
        **kwargs: of `RobustModel`.

    Raises:
        ValueError: if `divergence_weight` is negative or `direction` unknown.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        divergence_weight: float,
        direction: str = "forward",
        joint_pass: bool = False,
        **kwargs: Any,
    ) -> None:
        check_weight("divergence_weight", divergence_weight)
        divergence = DivergenceLoss(direction)
        super().__init__(classifier, attack, joint_pass=joint_pass, **kwargs)
        self.divergence_weight = divergence_weight
        self.direction = direction
        self.divergence = divergence

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns clean and attacked images."""
        return {CLEAN: images, ADVERSARIAL: adversarial}

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        return {**super().get_config(), "divergence_weight": self.divergence_weight, "direction": self.direction}
