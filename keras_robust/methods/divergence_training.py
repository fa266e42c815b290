"""What TRADES, MART and virtual adversarial training have in common."""

import warnings
from typing import Any, ClassVar

import keras

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.losses import DivergenceLoss
from keras_robust.methods.attacking import with_published_defaults
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
            attack = with_published_defaults(attack, objective=self.OBJECTIVE, random_start="normal")
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
