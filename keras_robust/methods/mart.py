"""MART: misclassification-aware adversarial training."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.objectives import as_one_hot
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.losses import BoostedCrossEntropy
from keras_robust.methods.divergence_training import DivergenceTraining


@keras.saving.register_keras_serializable(PACKAGE)
class MART(DivergenceTraining):
    """Boosted loss on attacked images, and a divergence that counts most where the clean image is misclassified.

        mean_i BCE(y_i, x_adv_i) + divergence_weight * mean_i KL(p(x_i) || p(x_adv_i)) (1 - p_y(x_i))

    Wang et al. (2020), equation 11. The compiled loss is not trained on; it is what validation logs.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`; the authors' is a `PGD` on the cross-entropy. One that was given no random start
            has theirs, the "normal" one; another objective is warned of.
        divergence_weight: lambda, at least 0; 5 in the paper, 6 the default in the authors' code.
        **kwargs: of `DivergenceTraining`.

    Raises:
        ValueError: if `divergence_weight` is negative, or, in `compile`, the loss has label smoothing.
    """

    OBJECTIVE = "cross_entropy"

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, divergence_weight: float = 5.0, **kwargs: Any
    ) -> None:
        super().__init__(classifier, attack, divergence_weight=divergence_weight, **kwargs)
        self.boosted = BoostedCrossEntropy()

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any) -> None:
        """Configures training as `RobustModel.compile`."""
        if isinstance(loss, keras.losses.Loss) and loss.get_config().get("label_smoothing"):
            raise ValueError(
                f"MART trains on a loss of its own, which has no label smoothing. Received: loss={loss.get_config()}"
            )
        super().compile(optimizer, loss, *args, **kwargs)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss above, with gradients through everything in it."""
        clean, adversarial = logits[CLEAN], logits[ADVERSARIAL]
        of_label = tf.cast(as_one_hot(labels, tf.shape(clean)[1]), clean.dtype)
        doubt = 1.0 - tf.reduce_sum(of_label * tf.nn.softmax(clean), axis=1)
        if sample_weight is not None:
            doubt *= tf.reshape(tf.cast(sample_weight, doubt.dtype), (-1,))
        divergence = self.divergence(clean, adversarial, doubt)
        boosted = self.boosted(labels, adversarial, sample_weight)
        return boosted + self.divergence_weight * divergence + self.weight_decay()
