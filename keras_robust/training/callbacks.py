"""Callbacks of a training run: they make the workdir, save models, and stop a run without progress."""

from typing import Any

import keras
import numpy as np

from keras_robust.methods.weight_averages import averaged_weights
from keras_robust.training.workdir import Workdir


class StartWorkdir(keras.callbacks.Callback):
    """Makes the workdir when training begins. Every check of the input has passed by then.

    It must come before callbacks that write to the workdir.

    Args:
        workdir: the folder.
        config: the resolved config to write there.
    """

    def __init__(self, workdir: Workdir, config: dict[str, Any]) -> None:
        super().__init__()
        self.workdir = workdir
        self.config = config

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the workdir."""
        self.workdir.start(self.config)


class SaveModels(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch, and `best.keras` after each epoch that is the best so far.

    It must come after callbacks that log, so that the history has a row for every epoch whose model is saved. If the
    optimizer averages weights, the best model has the averages. The last model has the weights that training needs to
    continue.

    Keras's callbacks are not safe against a kill. `ModelCheckpoint` writes in place, so a run that is killed meanwhile
    loses its model. `BackupAndRestore` writes weights and epoch number one after the other, so such a run may resume at
    the wrong epoch. Here one file holds the whole state (the epoch follows from the model's `steps_taken`), and the
    finished file is renamed to its final name.

    Args:
        workdir: the folder to write to.
        monitor: name of the metric whose highest value is best.
        best: the highest value of the metric so far; None means that there is none.
    """

    def __init__(self, workdir: Workdir, monitor: str, best: float | None) -> None:
        super().__init__()
        self.workdir = workdir
        self.monitor = monitor
        self.best = -np.inf if best is None else best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the models."""
        value = float((logs or {})[self.monitor])
        if value > self.best:
            self.best = value
            with averaged_weights(self.model):
                self.workdir.save_best(self.model)
        self.workdir.save_last(self.model)


class StopWithoutProgress(keras.callbacks.Callback):
    """Ends training if the monitored metric has not improved for `patience` epochs (Rice et al., 2020).

    It reads the history in the workdir, so that a resumed run also counts its earlier epochs.
    (`keras.callbacks.EarlyStopping` would start from 0.) It must come after callbacks that log.

    Args:
        workdir: folder of the run.
        monitor: name of the metric whose highest value is best.
        patience: number of epochs, at least 1.
    """

    def __init__(self, workdir: Workdir, monitor: str, patience: int) -> None:
        super().__init__()
        self.workdir = workdir
        self.monitor = monitor
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends training if the history shows no progress."""
        if self.workdir.epochs_without_progress(self.monitor) >= self.patience:
            self.model.stop_training = True
