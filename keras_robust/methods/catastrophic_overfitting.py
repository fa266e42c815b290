"""Catastrophic overfitting: noticed, and said."""

import warnings
from typing import Any

import keras

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
