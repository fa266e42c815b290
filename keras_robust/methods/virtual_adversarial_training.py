"""Virtual adversarial training."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.methods.divergence_training import DivergenceTraining


@keras.saving.register_keras_serializable(PACKAGE)
class VirtualAdversarialTraining(DivergenceTraining):
    """Natural loss plus the divergence from a fixed clean prediction (Miyato et al., 2017, equation 8).

        loss(clean) + divergence_weight * mean_i KL(p(x_i) || p(x_adv_i)), with no gradient through p(x_i)

    The paper's attack is `VirtualAdversarial(L2(epsilon))`. Kannan et al. (2018, section 6) compared it, and the other
    direction of the divergence, with logit pairing on MNIST and found both weaker. Made for learning from few
    labels, it is no defence. The authors' code attacks in training mode (`attack_in_training_mode=True`).

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` that was given no objective climbs the divergence too; another objective is
            warned of.
        divergence_weight: at least 0; 1 in the paper.
        **kwargs: of `DivergenceTraining`.

    Raises:
        ValueError: if `divergence_weight` is negative or `direction` unknown.
    """

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, divergence_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(classifier, attack, divergence_weight=divergence_weight, **kwargs)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted divergence."""
        natural = self.classification_loss(labels, logits[CLEAN], sample_weight)
        fixed = tf.stop_gradient(logits[CLEAN])
        return natural + self.divergence_weight * self.divergence(fixed, logits[ADVERSARIAL], sample_weight)
