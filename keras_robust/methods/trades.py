"""TRADES."""

from typing import Any

import keras

from keras_robust.attacks import Attack
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.methods.divergence_training import DivergenceTraining


@keras.saving.register_keras_serializable(PACKAGE)
class TRADES(DivergenceTraining):
    """Natural loss plus the divergence of the attacked from the clean prediction (Zhang et al., 2019, equation 5).

        loss(clean) + divergence_weight * mean_i KL(p(x_i) || p(x_adv_i))

    Its attack climbs the same divergence from a Gaussian start, as in the paper and the authors' code. On MNIST theirs
    is `PGD(Linf(0.3), steps=40, step_size=0.01)`.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` that was given no objective climbs "kl_divergence", and one that was given
            no random start has the "normal" one; another objective that was asked for is trained with, with a warning.
        divergence_weight: beta, or 1 / lambda in the paper, at least 0: 6 on CIFAR-10, 1 in the authors' MNIST code.
        **kwargs: of `DivergenceTraining`.

    Raises:
        ValueError: if `divergence_weight` is negative, or the attack starts at the clean image, where the divergence
            has no gradient (`FGSM`, `BIM`).
    """

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, divergence_weight: float = 6.0, **kwargs: Any
    ) -> None:
        super().__init__(classifier, attack, divergence_weight=divergence_weight, **kwargs)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted divergence, with gradients through both predictions."""
        natural = self.classification_loss(labels, logits[CLEAN], sample_weight)
        return natural + self.divergence_weight * self.divergence(logits[CLEAN], logits[ADVERSARIAL], sample_weight)
