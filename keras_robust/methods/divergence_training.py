"""TRADES, MART and virtual adversarial training: a divergence of the attacked from the clean prediction."""

import warnings
from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_weight
from keras_robust.core.objectives import as_one_hot
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.losses import BoostedCrossEntropy, DivergenceLoss
from keras_robust.methods.robust_model import RobustModel


class DivergenceTraining(RobustModel):
    """Training on clean images and on the divergence of the attacked from the clean prediction; a base class.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` that was given no objective or no random start takes those of the method's
            authors; one that was given another objective is warned of.
        divergence_weight: at least 0.
        direction: of `DivergenceLoss`.
        joint_pass: as in `RobustModel`; the authors of all three run clean and attacked images one after the other.
        **kwargs: of `RobustModel`.

    Raises:
        ValueError: if `divergence_weight` is negative or `direction` unknown, or the attack starts at the clean image,
            where its objective has no gradient.
    """

    OBJECTIVE: ClassVar[str] = "kl_divergence"
    """What the attack of the authors climbs, from `PGD`'s "normal" start."""

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
        attack = self._published(attack)
        super().__init__(classifier, attack, joint_pass=joint_pass, **kwargs)
        self.divergence_weight = divergence_weight
        self.direction = direction
        self.divergence = divergence

    def _published(self, attack: Any) -> Any:
        """Returns the attack with the defaults of the method; warns where it climbs something else."""
        name = type(self).__name__
        try:
            if isinstance(attack, Attack):
                attack = attack.with_defaults(objective=self.OBJECTIVE, random_start="normal")
        except ValueError as error:
            raise ValueError(
                f"The attack of {name} climbs {self.OBJECTIVE} where it is given no objective. {error}. Leave its "
                "start to the default, or give it an objective of your own."
            ) from error
        given = getattr(attack, "resolved_objective", None)
        if given is not None and given.name != self.OBJECTIVE:
            warnings.warn(
                f"The attack of {name} climbs {self.OBJECTIVE} in the paper and in the authors' code. It is trained "
                "with the one that was asked for; leave the objective to the default for that of the authors. "
                f"Received: an attack with objective={given.name!r}",
                stacklevel=4,
            )
        return attack

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns clean and attacked images."""
        return {CLEAN: images, ADVERSARIAL: adversarial}

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        return {**super().get_config(), "divergence_weight": self.divergence_weight, "direction": self.direction}


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
