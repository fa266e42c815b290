"""Callbacks of a training run that Keras does not have."""

from typing import Any

import keras
import numpy as np

from keras_robust.methods.weight_averages import averaged_weights
from keras_robust.training.workdir import Workdir


class StartWorkdir(keras.callbacks.Callback):
    """Makes the workdir when training begins, when every check has passed; it comes before callbacks that write there.

    Args:
        workdir: the folder.
        config: the resolved config, which is written there.
    """

    def __init__(self, workdir: Workdir, config: dict[str, Any]) -> None:
        super().__init__()
        self.workdir = workdir
        self.config = config

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the workdir."""
        self.workdir.start(self.config)


class SaveModels(keras.callbacks.Callback):
    """Writes the best and the last model after each epoch, each in one atomic step.

    It comes after callbacks that log, so that an epoch whose model is saved is in the history. The best model has the
    averaged weights, where the optimizer keeps them; the last one has what training goes on from.

    `keras.callbacks.ModelCheckpoint` writes in place, and `BackupAndRestore` writes weights and epoch number one after
    the other: a run that is killed at that moment has lost its models, or goes on at the wrong epoch. Here the whole
    state is in one file (the epoch follows from the model's `steps_taken`), which is renamed into place.

    Args:
        workdir: where to write.
        monitor: the metric whose highest value is best.
        best: its highest value so far, or None.
    """

    def __init__(self, workdir: Workdir, monitor: str, best: float | None) -> None:
        super().__init__()
        self.workdir = workdir
        self.monitor = monitor
        self.best = -np.inf if best is None else best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the model."""
        value = float((logs or {})[self.monitor])
        if value > self.best:
            self.best = value
            with averaged_weights(self.model):
                self.workdir.save_best(self.model)
        self.workdir.save_last(self.model)


class StopWithoutProgress(keras.callbacks.Callback):
    """Ends training when the monitored metric was not better for `patience` epochs (Rice et al., 2020).

    It counts in the history of the workdir, so a run that goes on counts what was before.
    (`keras.callbacks.EarlyStopping` starts anew.) It comes after callbacks that log.

    Args:
        workdir: of the run.
        monitor: the metric whose highest value is best.
        patience: epochs, at least 1.
    """

    def __init__(self, workdir: Workdir, monitor: str, patience: int) -> None:
        super().__init__()
        self.workdir = workdir
        self.monitor = monitor
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the history."""
        if self.workdir.epochs_without_progress(self.monitor) >= self.patience:
            self.model.stop_training = True
