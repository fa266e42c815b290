"""The folder of a training run: what lies in it, and going on with it.

config.json     the resolved config
history.csv     loss and metrics per epoch
tensorboard/    the same for TensorBoard
best.keras      the model with the best (robust) validation accuracy
last.keras      the model after the last finished epoch, or the last checkpoint: the run goes on from here
metrics-N.npz   the metrics of the epoch so far, where the last checkpoint is in the middle of an epoch, after N steps

It may be in a bucket, such as gs://bucket/run.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from etils import epath

from keras_robust.evaluation.record import CONFIG_FILE, HISTORY_FILE, read_history
from keras_robust.methods import is_chief
from keras_robust.training.config import DEFAULTS


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths in the folder of a run."""

    folder: epath.Path

    @property
    def config(self) -> epath.Path:
        """The resolved config."""
        return self.folder / CONFIG_FILE

    @property
    def history(self) -> epath.Path:
        """Loss and metrics per epoch."""
        return self.folder / HISTORY_FILE

    @property
    def best(self) -> epath.Path:
        """The model with the best validation accuracy."""
        return self.folder / "best.keras"

    @property
    def last(self) -> epath.Path:
        """The model after the last finished epoch."""
        return self.folder / "last.keras"

    @property
    def tensorboard(self) -> epath.Path:
        """The folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    def metrics(self, step: int) -> epath.Path:
        """The metrics of the epoch so far at a checkpoint in its middle, after `step` steps of the run."""
        return self.folder / f"metrics-{step}.npz"

    def check(self, config: dict[str, Any]) -> None:
        """Checks that the folder is new, empty, or that of a run with the same `config`.

        Raises:
            ValueError: if it is not; the message names the fields that differ.
        """
        if not self.config.exists():
            if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
                raise ValueError(f"A workdir is new, empty, or that of a run. Received: workdir={self.folder}")
            return
        before = {**DEFAULTS, **json.loads(self.config.read_text())}
        different = [name for name in {**before, **config} if before.get(name) != config.get(name)]
        if different:
            changes = "; ".join(f"{name}: {before.get(name)!r} there, {config.get(name)!r} now" for name in different)
            raise ValueError(
                "The workdir belongs to a run with another config: choose another workdir, or go on with that config. "
                f"Received: workdir={self.folder} with {changes}"
            )

    def check_generation(self, asynchronous: bool) -> None:
        """Checks that the history has the columns of a run with workers, or of one without.

        Raises:
            ValueError: if it is of the other kind.
        """
        header = self.history.read_text().partition("\n")[0] if self.history.exists() else ""
        if header and ("staleness" in header.split(",")) != asynchronous:
            raise ValueError(
                "Go on with asynchronous training by train_async, and with other training by train. "
                f"Received: workdir={self.folder} of a run {'without' if asynchronous else 'with'} workers"
            )

    def start(self, config: dict[str, Any]) -> None:
        """Makes the folder and writes the config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(config, indent=1) + "\n")

    def save_best(self, model: keras.Model) -> None:
        """Writes the model in one atomic step."""
        _save(model, self.best)

    def save_last(self, model: keras.Model) -> None:
        """Writes the model in one atomic step, and drops metrics that do not belong to it."""
        _save(model, self.last)
        for path in self.folder.glob("metrics-*.npz"):
            if path != self.metrics(int(model.steps_taken.numpy())):
                path.unlink()

    def drop_lost_rows(self, epochs: int) -> None:
        """Drops rows of the history after the first `epochs`, and one that was not written to its end.

        Later rows are of an epoch that was logged and then lost, because the run was killed before its model was saved.
        """
        if not self.history.exists():
            return
        rows = self.history.read_text().splitlines(keepends=True)
        kept = [row for row in rows[: 1 + epochs] if row.endswith("\n")] if epochs else []
        if kept != rows:
            self.history.write_text("".join(kept))

    def best_value(self, monitor: str) -> float | None:
        """Returns the best value of a column of the history, or None where there is no row."""
        if not self.history.exists():
            return None
        return max(read_history(self.history).get(monitor, []), default=None)

    def epochs_without_progress(self, monitor: str) -> int:
        """Returns for how many epochs a column of the history has not been better than its best value before."""
        values = read_history(self.history).get(monitor, []) if self.history.exists() else []
        return len(values) - 1 - values.index(max(values)) if values else 0


def _save(model: keras.Model, path: epath.Path) -> None:
    partial = path.with_name(f"{path.stem}.partial.keras")
    model.save(partial)
    partial.replace(path)


@contextlib.contextmanager
def folder_of_worker(workdir: Workdir, strategy: tf.distribute.Strategy) -> Iterator[Workdir]:
    """Gives the folder that this process writes to: `workdir`, or a temporary copy of it.

    All workers of a strategy take part in saving, as values are collected from all; one of them, the chief, writes to
    the folder of the run.
    """
    if is_chief(strategy):
        yield workdir
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Workdir(epath.Path(temporary))
        if workdir.history.exists():
            workdir.history.copy(copy.history)
        yield copy
