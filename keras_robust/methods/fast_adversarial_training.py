"""Fast adversarial training."""

from typing import Any

import keras

from keras_robust.attacks import PGD, Attack
from keras_robust.core.serialization import PACKAGE
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.attacking import with_published_defaults
from keras_robust.methods.catastrophic_overfitting import DetectCatastrophicOverfitting
from keras_robust.methods.checked_fit import fit_arguments

STEP_SIZE = 1.25
"""In units of epsilon (Wong et al., 2020, section 5.1)."""


@keras.saving.register_keras_serializable(PACKAGE)
class FastAdversarialTraining(AdversarialTraining):
    """Adversarial training with one large step from a random start (Wong et al., 2020).

    At the cost of natural training and one input gradient it can come near PGD, and it can collapse within an epoch:
    the one-step accuracy goes to 100 % while that under several steps goes to 0 (catastrophic overfitting). So it needs
    a validation attack of several steps, and `fit` on validation data warns when that happens.

    Args:
        classifier: as in `RobustModel`.
        attack: a `PGD` of one step; the authors' is `PGD(ball, steps=1, step_size=1.25 * epsilon)`, and so is one that
            was given neither step size nor objective.
        validation_attack: a `PGD` of several steps, or another strong attack.
        **kwargs: of `AdversarialTraining`.

    Raises:
        ValueError: if the attack has several steps, or the validation attack one or none.
    """

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, validation_attack: Attack | None = None, **kwargs: Any
    ) -> None:
        if not isinstance(attack, PGD) or attack.steps != 1:
            raise ValueError(
                f"The attack of fast adversarial training is a PGD of one step. Received: attack={attack!r}"
            )
        if validation_attack is None or (isinstance(validation_attack, PGD) and validation_attack.steps == 1):
            raise ValueError(
                "Fast adversarial training can overfit catastrophically to one step: it needs a validation_attack of "
                f"several steps to notice. Received: validation_attack={validation_attack!r}"
            )
        attack = with_published_defaults(attack, step_size=STEP_SIZE * attack.threat_model.epsilon)
        super().__init__(classifier, attack, validation_attack=validation_attack, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `RobustModel.fit`, and warns of catastrophic overfitting.

        A `DetectCatastrophicOverfitting` among the callbacks, one that stops training, say, stands in for the default.

        Raises:
            ValueError: as `RobustModel.fit`, and without validation data or accuracy among the metrics.
        """
        bound = fit_arguments(self, *args, **kwargs)
        given = bound.arguments.get("callbacks") or []
        given = list(given) if isinstance(given, list | tuple) else [given]
        metrics = list(self.metrics_by_name())
        if not bound.arguments.get("validation_data") and not bound.arguments.get("validation_split"):
            raise ValueError("Catastrophic overfitting shows in validation. Received: validation_data=None")
        if "robust_accuracy" not in metrics:
            raise ValueError(f"Compile with metrics=['accuracy'], in which overfitting shows. Received: {metrics}")
        if not any(isinstance(callback, DetectCatastrophicOverfitting) for callback in given):
            given = [DetectCatastrophicOverfitting(), *given]
        bound.arguments["callbacks"] = given
        return super().fit(*bound.args[1:], **bound.kwargs)
