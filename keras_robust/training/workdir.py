"""The folder of a training run: its files, and the checks before a run resumes.

config.json     the resolved config
history.csv     loss and metrics of each epoch
tensorboard/    loss and metrics for TensorBoard
best.keras      the model with the best (robust) validation accuracy
last.keras      the model at the last checkpoint or end of an epoch, whichever is later: the run resumes from it
metrics-N.npz   state of the epoch's metrics after N steps of the run, if last.keras is from the middle of an epoch

The folder may be in a bucket, such as gs://bucket/run.
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
        """Loss and metrics of each epoch."""
        return self.folder / HISTORY_FILE

    @property
    def best(self) -> epath.Path:
        """The model with the best (robust) validation accuracy."""
        return self.folder / "best.keras"

    @property
    def last(self) -> epath.Path:
        """The model at the last checkpoint or end of an epoch, whichever is later. The run resumes from it."""
        return self.folder / "last.keras"

    @property
    def tensorboard(self) -> epath.Path:
        """The folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    def metrics(self, step: int) -> epath.Path:
        """State of the epoch's metrics at a checkpoint in the middle of an epoch, after `step` steps of the run."""
        return self.folder / f"metrics-{step}.npz"

    def check(self, config: dict[str, Any]) -> None:
        """Checks that the folder does not exist, is empty, or belongs to a run with the same `config`.

        Raises:
            ValueError: if none of these is true. The message names the fields of the config that differ.
        """
        if not self.config.exists():
            if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
                raise ValueError(f"workdir must be new, empty, or the folder of a run. Received: workdir={self.folder}")
            return
        before = {**DEFAULTS, **json.loads(self.config.read_text())}
        different = [name for name in {**before, **config} if before.get(name) != config.get(name)]
        if different:
            changes = "; ".join(f"{name}: {before.get(name)!r} there, {config.get(name)!r} now" for name in different)
            raise ValueError(
                "The workdir belongs to a run with another config. Choose another workdir, or resume with that config. "
                f"Received: workdir={self.folder} with {changes}"
            )

    def check_generation(self, asynchronous: bool) -> None:
        """Checks that a run resumes as it began: asynchronously or not. The two have different columns in the history.

        Raises:
            ValueError: if the history is from a run of the other kind.
        """
        header = self.history.read_text().partition("\n")[0] if self.history.exists() else ""
        if header and ("staleness" in header.split(",")) != asynchronous:
            raise ValueError(
                "Resume a run of train_async with train_async, and a run of train with train. "
                f"Received: workdir={self.folder} of a run {'without' if asynchronous else 'with'} workers"
            )

    def start(self, config: dict[str, Any]) -> None:
        """Makes the folder and writes the config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(config, indent=1) + "\n")

    def save_best(self, model: keras.Model) -> None:
        """Writes best.keras in one atomic step."""
        _save(model, self.best)

    def save_last(self, model: keras.Model) -> None:
        """Writes last.keras in one atomic step, and deletes metrics of other steps."""
        _save(model, self.last)
        for path in self.folder.glob("metrics-*.npz"):
            if path != self.metrics(int(model.steps_taken.numpy())):
                path.unlink()

    def drop_lost_rows(self, epochs: int) -> None:
        """Deletes the rows of the history after the first `epochs` epochs, and an incomplete row.

        A later row belongs to an epoch that was logged, but whose model was not saved before the run was killed.
        """
        if not self.history.exists():
            return
        rows = self.history.read_text().splitlines(keepends=True)
        kept = [row for row in rows[: 1 + epochs] if row.endswith("\n")] if epochs else []
        if kept != rows:
            self.history.write_text("".join(kept))

    def best_value(self, monitor: str) -> float | None:
        """Returns the highest value of a column of the history, or None if there are no values."""
        if not self.history.exists():
            return None
        return max(read_history(self.history).get(monitor, []), default=None)

    def epochs_without_progress(self, monitor: str) -> int:
        """Returns the number of epochs since a column of the history had its highest value."""
        values = read_history(self.history).get(monitor, []) if self.history.exists() else []
        return len(values) - 1 - values.index(max(values)) if values else 0


def _save(model: keras.Model, path: epath.Path) -> None:
    partial = path.with_name(f"{path.stem}.partial.keras")
    model.save(partial)
    partial.replace(path)


@contextlib.contextmanager
def folder_of_worker(workdir: Workdir, strategy: tf.distribute.Strategy) -> Iterator[Workdir]:
    """Gives the folder that this process writes to: `workdir` for the chief, a temporary folder for other workers.

    All workers of a strategy must take part in saving, because values are collected from all of them. Only the chief
    writes to the folder of the run. The temporary folder has a copy of the history.
    """
    if is_chief(strategy):
        yield workdir
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Workdir(epath.Path(temporary))
        if workdir.history.exists():
            workdir.history.copy(copy.history)
        yield copy
