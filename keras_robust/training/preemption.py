"""Checkpoints in the middle of an epoch, and the end of a run when the machine is taken away.

Such a checkpoint consists of `last.keras` and the state of the epoch's metrics. With both, a resumed run writes the
same row of the history as a run that was never interrupted.
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
"""Exit code of a run that was interrupted: start the same command again to resume it. EX_TEMPFAIL of sysexits.h."""


class Preempted(Exception):  # noqa: N818 - it is no error
    """SIGTERM ended the run, or another worker was lost. The same call resumes from the last checkpoint."""


@contextlib.contextmanager
def lost_worker_preempts(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's error about a lost worker into `Preempted`, if there are several workers."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if not is_multi_worker(strategy):
            raise
        raise Preempted("Another worker was lost. Start all workers again to resume the run.") from error


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Catches SIGTERM inside, so that it does not end the process. Gives a function that tells whether it was received.

    Outside the main thread it catches nothing, because Python handles signals only in the main thread.
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
    """Writes checkpoints in the middle of epochs, and ends the run after SIGTERM.

    The run ends after the current step, or after the current validation. With several workers, all of them end if one
    of them was asked to. This callback must come after the one that saves models.

    Args:
        workdir: the folder to write to.
        steps_per_epoch: training steps in an epoch of the run.
        interval: steps from one checkpoint to the next; 0 writes a checkpoint in the middle of an epoch only after
            SIGTERM.
        asked_to_end: returns whether SIGTERM was received.

    Raises:
        Preempted: from `fit`, after SIGTERM, when the checkpoint or the epoch is saved.
    """

    def __init__(self, workdir: Workdir, steps_per_epoch: int, interval: int, asked_to_end: Callable[[], bool]) -> None:
        super().__init__()
        self.workdir = workdir
        self.steps_per_epoch = steps_per_epoch
        self.interval = interval
        self.asked_to_end = asked_to_end
        self._written_at = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts to count steps."""
        self._written_at = self._step()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint if it is due. `SaveModels` writes the one at the end of an epoch."""
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
            raise Preempted(f"SIGTERM at step {step}: the checkpoint is written. The same call resumes the run.")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the run if SIGTERM was received during the last step or the validation."""
        self._written_at = self._step()
        if self._any_worker_ends():
            raise Preempted(f"SIGTERM in epoch {epoch + 1}, which is saved. The same call resumes the run.")

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
    """Restores the metrics of the epoch that was interrupted, and ends `fit` after that epoch.

    Args:
        workdir: folder of the run.
    """

    def __init__(self, workdir: Workdir) -> None:
        super().__init__()
        self.workdir = workdir

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restores the metrics, because `fit` has just reset them."""
        restore_metrics(self.model, self.workdir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends `fit`."""
        self.model.stop_training = True


def save_metrics(model: keras.Model, workdir: Workdir) -> None:
    """Writes the state of the epoch's metrics. The file of an earlier checkpoint stays, because it has another name."""
    buffer = io.BytesIO()
    np.savez(buffer, *[variable.numpy() for variable in model.metrics_variables])
    workdir.metrics(int(model.steps_taken.numpy())).write_bytes(buffer.getvalue())


def restore_metrics(model: keras.Model, workdir: Workdir) -> None:
    """Restores the metrics that `save_metrics` wrote at the model's step.

    Raises:
        ValueError: if their file does not exist.
    """
    path = workdir.metrics(int(model.steps_taken.numpy()))
    if not path.exists():
        raise ValueError(f"Resuming in the middle of an epoch needs the metrics of its checkpoint. Received: no {path}")
    saved = np.load(io.BytesIO(path.read_bytes()))
    for index, variable in enumerate(model.metrics_variables):
        variable.assign(saved[f"arr_{index}"])
