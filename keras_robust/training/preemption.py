"""Runs that end when the machine is taken away, and go on in the middle of an epoch.

A checkpoint in the middle of an epoch is the last model, from which the run goes on, and the state of the metrics of
the epoch so far, so that its row of the history is that of a run that was never interrupted.
"""

import contextlib
import io
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.methods import is_multi_worker
from keras_robust.training.workdir import Workdir

START_AGAIN = 75
"""Exit code of a run that was interrupted after a checkpoint: the same command continues. EX_TEMPFAIL of sysexits.h."""


class Preempted(Exception):  # noqa: N818 - it is no error
    """SIGTERM asked the run to end, or another worker is lost; the same call goes on from the last checkpoint."""


@contextlib.contextmanager
def lost_worker_preempts(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's error where another worker has died into `Preempted`."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if not is_multi_worker(strategy):
            raise
        raise Preempted("Another worker is lost: start all of them again to go on with the run.") from error


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGTERM has come, which does not end the process meanwhile.

    In a thread that is not the main one it never comes: Python handles signals in the main thread alone.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


class Checkpoint(keras.callbacks.Callback):
    """Writes checkpoints in the middle of epochs, and ends the run when SIGTERM asks for it.

    It ends after the step in progress, or after the validation in progress; with several workers all end where one is
    asked to. It comes after the callback that saves models.

    Args:
        workdir: where to write.
        steps_per_epoch: of the run.
        interval: write after so many steps, too; 0 does not.
        asked_to_end: whether SIGTERM has come.
    """

    def __init__(self, workdir: Workdir, steps_per_epoch: int, interval: int, asked_to_end: Callable[[], bool]) -> None:
        super().__init__()
        self.workdir = workdir
        self.steps_per_epoch = steps_per_epoch
        self.interval = interval
        self.asked_to_end = asked_to_end
        self._written_at = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Counts from here."""
        self._written_at = self._step()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes where it is time; the end of an epoch is not in its middle."""
        step = self._step()
        if step % self.steps_per_epoch == 0:
            return
        ends = self._any_worker_ends()
        if ends or 0 < self.interval <= step - self._written_at:
            self.model.check_finite(self.model.get_metrics_result())
            save_metrics(self.model, self.workdir)
            self.workdir.save_last(self.model)
            self._written_at = step
        if ends:
            raise Preempted(f"SIGTERM at step {step}: the checkpoint is written. The same call goes on with the run.")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the run where it was asked to during the last step or the validation."""
        self._written_at = self._step()
        if self._any_worker_ends():
            raise Preempted(f"SIGTERM in epoch {epoch + 1}, which is saved. The same call goes on with the run.")

    def _step(self) -> int:
        return int(self.model.steps_taken.numpy())

    def _any_worker_ends(self) -> bool:
        asked = self.asked_to_end()
        strategy = self.model.distribute_strategy
        return bool(_sum_of_workers(tf.constant(float(asked)), strategy) > 0) if is_multi_worker(strategy) else asked


@tf.function
def _sum_of_workers(value: Tensor, strategy: tf.distribute.Strategy) -> Tensor:
    return strategy.reduce("SUM", strategy.run(lambda: value), axis=None)


class FinishEpoch(keras.callbacks.Callback):
    """Gives the metrics what they had when the epoch was interrupted, and ends `fit` after that epoch.

    Args:
        workdir: of the run.
    """

    def __init__(self, workdir: Workdir) -> None:
        super().__init__()
        self.workdir = workdir

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restores the metrics; `fit` has just reset them."""
        restore_metrics(self.model, self.workdir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends `fit`."""
        self.model.stop_training = True


def save_metrics(model: keras.Model, workdir: Workdir) -> None:
    """Writes the state of the metrics of an epoch so far, beside that of an earlier checkpoint."""
    buffer = io.BytesIO()
    np.savez(buffer, *[variable.numpy() for variable in model.metrics_variables])
    workdir.metrics(int(model.steps_taken.numpy())).write_bytes(buffer.getvalue())


def restore_metrics(model: keras.Model, workdir: Workdir) -> None:
    """Sets the metrics to what `save_metrics` wrote at the model's step.

    Raises:
        ValueError: if it wrote nothing.
    """
    path = workdir.metrics(int(model.steps_taken.numpy()))
    if not path.exists():
        raise ValueError(f"A run goes on in the middle of an epoch with the metrics of its step. Received: no {path}")
    saved = np.load(io.BytesIO(path.read_bytes()))
    for index, variable in enumerate(model.metrics_variables):
        variable.assign(saved[f"arr_{index}"])
