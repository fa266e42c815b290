"""TRADES, MART and virtual adversarial training: a divergence between clean and attacked predictions in the loss."""

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
    """The base class of methods whose loss has a divergence between the predictions for clean and attacked images.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` without an objective, or without a random start, takes that of the method's
            authors. With another objective it runs as given, with a warning.
        divergence_weight: weight of the divergence in the loss, at least 0.
        direction: "forward" or "reverse", as in `DivergenceLoss`.
        joint_pass: as in `RobustModel`. The default is False, because the authors of all three methods run clean and
            attacked images one after the other.
        **kwargs: arguments of `RobustModel`.

    Raises:
        ValueError: if `divergence_weight` is negative, `direction` is unknown, or the attack maximises the divergence
            from the clean image, where the divergence has no gradient; see also `RobustModel`.

    Warns:
        UserWarning: if the attack has another objective than that of the authors.
    """

    OBJECTIVE: ClassVar[str] = "kl_divergence"
    """The objective of the authors' attack. It starts at `PGD`'s "normal" start."""

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
        """Returns the attack with the defaults of the method. Warns if it has another objective."""
        name = type(self).__name__
        try:
            if isinstance(attack, Attack):
                attack = attack.with_defaults(objective=self.OBJECTIVE, random_start="normal")
        except ValueError as error:
            raise ValueError(
                f"The attack of {name} maximises {self.OBJECTIVE} if it is given no objective. {error}. Leave the "
                "start of the attack at its default, or give it another objective."
            ) from error
        given = getattr(attack, "resolved_objective", None)
        if given is not None and given.name != self.OBJECTIVE:
            warnings.warn(
                f"The attack of {name} maximises {self.OBJECTIVE} in the paper and in the authors' code. Training uses "
                "the objective that was given. For that of the authors, give no objective. "
                f"Received: an attack with objective={given.name!r}",
                stacklevel=4,
            )
        return attack

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns both clean and attacked images."""
        return {CLEAN: images, ADVERSARIAL: adversarial}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        return {**super().get_config(), "divergence_weight": self.divergence_weight, "direction": self.direction}


@keras.saving.register_keras_serializable(PACKAGE)
class TRADES(DivergenceTraining):
    """Natural loss plus the divergence between clean and attacked predictions (Zhang et al., 2019, equation 5).

        loss(clean) + divergence_weight * mean_i KL(p(x_i) || p(x_adv_i))

    The attack maximises the same divergence from a Gaussian start, as in the paper and the authors' code. On MNIST
    their attack is `PGD(Linf(0.3), steps=40, step_size=0.01)`.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` without an objective maximises "kl_divergence". A `PGD` without a random
            start uses "normal". With another objective it runs as given, with a warning.
        divergence_weight: beta, which is 1 / lambda in the paper, at least 0: 6 on CIFAR-10, 1 in the authors' code for
            MNIST.
        **kwargs: arguments of `DivergenceTraining`.

    Raises:
        ValueError: if `divergence_weight` is negative, or the attack has no objective and starts at the clean image
            (`FGSM`, `BIM`), where the divergence has no gradient; see also `DivergenceTraining`.
    """

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, divergence_weight: float = 6.0, **kwargs: Any
    ) -> None:
        super().__init__(classifier, attack, divergence_weight=divergence_weight, **kwargs)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted divergence. Gradients flow through both predictions."""
        natural = self.classification_loss(labels, logits[CLEAN], sample_weight)
        return natural + self.divergence_weight * self.divergence(logits[CLEAN], logits[ADVERSARIAL], sample_weight)


@keras.saving.register_keras_serializable(PACKAGE)
class MART(DivergenceTraining):
    """Boosted cross-entropy on attacked images, plus a divergence with most weight on misclassified clean images.

        mean_i BCE(y_i, x_adv_i) + divergence_weight * mean_i KL(p(x_i) || p(x_adv_i)) (1 - p_y(x_i))

    Source: Wang et al. (2020), equation 11. The compiled loss is not minimised. Validation logs it, and it is the loss
    on auxiliary logits.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. The authors use a `PGD` on the cross-entropy. A `PGD` without a random start uses
            theirs, "normal". With another objective it runs as given, with a warning.
        divergence_weight: lambda, at least 0: 5 in the paper, 6 by default in the authors' code.
        **kwargs: arguments of `DivergenceTraining`.

    Raises:
        ValueError: if `divergence_weight` is negative; in `compile`, if the loss has label smoothing; see also
            `DivergenceTraining`.
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
                "MART needs a loss without label smoothing, because its own loss has none. "
                f"Received: loss={loss.get_config()}"
            )
        super().compile(optimizer, loss, *args, **kwargs)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss of the class docstring. Gradients flow through all its terms."""
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

    The paper's attack is `VirtualAdversarial(L2(epsilon))`. The authors' code attacks in training mode
    (`attack_in_training_mode=True`). The method is made for learning from few labels and is not a defence. On MNIST,
    Kannan et al. (2018, section 6) found both directions of the divergence weaker than logit pairing.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. A `PGD` without an objective maximises the divergence, too. With another objective
            it runs as given, with a warning.
        divergence_weight: weight of the divergence in the loss, at least 0: 1 in the paper.
        **kwargs: arguments of `DivergenceTraining`, such as `direction`.

    Raises:
        ValueError: if `divergence_weight` is negative, `direction` is unknown, or the attack has no objective and
            starts at the clean image, where the divergence has no gradient; see also `DivergenceTraining`.
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
