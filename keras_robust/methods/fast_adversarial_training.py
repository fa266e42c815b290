"""Fast adversarial training, and its catastrophic overfitting: noticed, and said."""

import warnings
from typing import Any

import keras

from keras_robust.attacks import PGD, Attack
from keras_robust.core.serialization import PACKAGE
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.robust_model import fit_arguments

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
        attack = attack.with_defaults(step_size=STEP_SIZE * attack.threat_model.epsilon)
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


FALL, GAP = 0.2, 0.5


class DetectCatastrophicOverfitting(keras.callbacks.Callback):
    """Warns in the epoch in which robust validation accuracy falls while robust training accuracy does not.

    Wong et al. (2020, section 5.4 and their code) take a fall of the robust accuracy by 0.2 as the sign. On MNIST
    there may be none, since the classifier overfits in the first epoch: a gap of half of the examples between the
    attack of training and that of validation is a sign, too.

    Args:
        fall: by how much `val_robust_accuracy` falls below its best, as a fraction, in (0, 1).
        stop: end training then, so that the best model is that of an earlier epoch.

    Raises:
        ValueError: if `fall` is out of its range.
    """

    def __init__(self, fall: float = FALL, stop: bool = False) -> None:
        super().__init__()
        if not 0 < fall < 1:
            raise ValueError(f"fall is in (0, 1). Received: fall={fall!r}")
        self.fall = fall
        self.stop = stop
        self.best = 0.0
        self.detected = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares the epoch with the best one."""
        logs = logs or {}
        name = "val_robust_accuracy"
        if name not in logs or "robust_accuracy" not in logs:  # an epoch without validation, a method without attack
            return
        now, trained = logs[name], logs["robust_accuracy"]
        self.best = max(self.best, now)
        has_fallen = now <= self.best - self.fall and trained >= now
        if self.detected or not (has_fallen or trained - now > GAP):
            return
        self.detected = True
        what = f"fell from {self.best:.3f} to" if has_fallen else "is"
        warnings.warn(
            f"Catastrophic overfitting in epoch {epoch + 1}: {name} {what} {now:.3f}, while "
            f"robust_accuracy on the training attack is {trained:.3f}. The classifier has learned to fool the training "
            "attack: use an earlier epoch, a smaller step or more steps.",
            stacklevel=2,
        )
        self.model.stop_training = self.model.stop_training or self.stop
