"""Fast adversarial training, and a callback that detects its catastrophic overfitting."""

import warnings
from typing import Any

import keras

from keras_robust.attacks import PGD, Attack
from keras_robust.core.serialization import PACKAGE
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.robust_model import fit_arguments

STEP_SIZE = 1.25
"""Step size as a multiple of epsilon (Wong et al., 2020, section 5.1)."""


@keras.saving.register_keras_serializable(PACKAGE)
class FastAdversarialTraining(AdversarialTraining):
    """Adversarial training with one large step from a random start (Wong et al., 2020).

    A step costs natural training and one input gradient, and the result can be nearly as robust as with PGD. But the
    training can collapse within an epoch (catastrophic overfitting): the accuracy under one step rises to 100 %, while
    the accuracy under several steps falls to 0. Therefore a validation attack of several steps is required, and `fit`
    warns when this happens.

    Args:
        classifier: as in `RobustModel`.
        attack: a `PGD` of one step. If it has neither a step size nor an objective, its step size is 1.25 epsilon, as
            in the paper.
        validation_attack: a `PGD` of several steps, or another strong attack. It is required.
        **kwargs: arguments of `AdversarialTraining`.

    Raises:
        ValueError: if the attack is not a `PGD` of one step, or the validation attack is missing or a `PGD` of one
            step; see also `AdversarialTraining`.
    """

    def __init__(
        self, classifier: keras.Layer, attack: Attack, *, validation_attack: Attack | None = None, **kwargs: Any
    ) -> None:
        if not isinstance(attack, PGD) or attack.steps != 1:
            raise ValueError(
                f"The attack of fast adversarial training must be a PGD of one step. Received: attack={attack!r}"
            )
        if validation_attack is None or (isinstance(validation_attack, PGD) and validation_attack.steps == 1):
            raise ValueError(
                "Fast adversarial training needs a validation_attack of several steps, because it can overfit "
                "catastrophically to the attack of one step, which shows only under several steps. "
                f"Received: validation_attack={validation_attack!r}"
            )
        attack = attack.with_defaults(step_size=STEP_SIZE * attack.threat_model.epsilon)
        super().__init__(classifier, attack, validation_attack=validation_attack, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `RobustModel.fit` does, and warns of catastrophic overfitting.

        A `DetectCatastrophicOverfitting` is added to the callbacks, unless they contain one.

        Raises:
            ValueError: if there is no validation data, or the model was compiled without "accuracy"; see also
                `RobustModel.fit`.
        """
        bound = fit_arguments(self, *args, **kwargs)
        given = bound.arguments.get("callbacks") or []
        given = list(given) if isinstance(given, list | tuple) else [given]
        metrics = list(self.metrics_by_name())
        if not bound.arguments.get("validation_data") and not bound.arguments.get("validation_split"):
            raise ValueError(
                "Fast adversarial training needs validation data, because catastrophic overfitting shows only there. "
                "Received: validation_data=None"
            )
        if "robust_accuracy" not in metrics:
            raise ValueError(
                "Fast adversarial training needs the accuracy, because catastrophic overfitting shows in it. "
                f"Compile with metrics=['accuracy']. Received: {metrics}"
            )
        if not any(isinstance(callback, DetectCatastrophicOverfitting) for callback in given):
            given = [DetectCatastrophicOverfitting(), *given]
        bound.arguments["callbacks"] = given
        return super().fit(*bound.args[1:], **bound.kwargs)


FALL, GAP = 0.2, 0.5


class DetectCatastrophicOverfitting(keras.callbacks.Callback):
    """Warns once, in the first epoch in which the robust validation accuracy shows catastrophic overfitting.

    Either of two signs is enough:

    - `val_robust_accuracy` is at least `fall` below its best value, and not above `robust_accuracy` (under the training
      attack). Wong et al. (2020, section 5.4 and their code) use a fall of 0.2.
    - `val_robust_accuracy` is more than 0.5 below `robust_accuracy`. On MNIST the classifier can overfit in the first
      epoch, so that nothing falls.

    Args:
        fall: how far `val_robust_accuracy` must fall below its best value, a difference of accuracies in (0, 1).
        stop: whether to stop the training then. The best model is then that of an earlier epoch.

    Raises:
        ValueError: if `fall` is out of its range.
    """

    def __init__(self, fall: float = FALL, stop: bool = False) -> None:
        super().__init__()
        if not 0 < fall < 1:
            raise ValueError(f"fall must be in (0, 1). Received: fall={fall!r}")
        self.fall = fall
        self.stop = stop
        self.best = 0.0
        self.detected = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares the epoch with the best epoch so far."""
        logs = logs or {}
        name = "val_robust_accuracy"
        if name not in logs or "robust_accuracy" not in logs:  # no validation in this epoch, or no training attack
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
            f"robust_accuracy under the training attack is {trained:.3f}. The classifier resists only the training "
            "attack. Use the weights of an earlier epoch, or train with a smaller step or with more steps.",
            stacklevel=2,
        )
        self.model.stop_training = self.model.stop_training or self.stop
