"""Trains with several values of staleness and plots fresh and stale robust accuracy (Bhat et al., 2018, figures 5, 8).

Command:  python benchmarks/staleness.py --workdir=runs/staleness [--staleness=0,8,32,64]

Runs resume where they stopped. It writes two plots:

WORKDIR/staleness.png  Left: robust accuracy on the training images by epoch, for attacks that are `staleness` updates
                       old (the images that are trained on) and for fresh attacks. Right: robust and clean accuracy of
                       the last model on the 2,000 test digits under PGD-40 with 5 restarts.
WORKDIR/cycles.png     One test digit, attacked from the same random start during the last epochs (figure 6).
"""

import importlib.util
import json
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib.figure import Figure

import keras_robust as kr
from keras_robust.evaluation.record import read_history
from keras_robust.reports import canvas

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.", required=True)
STALENESS = flags.DEFINE_list("staleness", ["0", "8", "32", "64"], "Values of staleness, in updates.")
UPDATES_PER_EPOCH, SNAPSHOT_EPOCHS, SNAPSHOT_INTERVAL = 74, 2, 10
SNAPSHOTS = "snapshots"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "mnist_small_stale.py"


def load_config(staleness: str) -> Any:
    """Returns the config of a staleness."""
    spec = importlib.util.spec_from_file_location("mnist_small_stale", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(staleness)


class Snapshots(keras.callbacks.Callback):
    """Attacks one digit every `SNAPSHOT_INTERVAL` updates of the last epochs, and writes FOLDER/STEP.npy."""

    def __init__(self, digit: np.ndarray, label: np.ndarray, first_step: int, folder: pathlib.Path) -> None:
        super().__init__()
        self.digit, self.label = tf.constant(digit[None]), tf.constant(label[None])
        self.first_step = first_step
        self.folder = folder

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Attacks."""
        step = int(self.model.steps_taken.numpy())
        if step > self.first_step and step % SNAPSHOT_INTERVAL == 0:
            model_fn = kr.attacks.as_model_fn(self.model.classifier)
            image = self.model.attack(model_fn, self.digit, self.label, seed=0).numpy()[0, ..., 0]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(self.folder / f"{step:06}.npy", image)


def result_of(staleness: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns history and test accuracies of a run, which is trained and evaluated where it is not finished."""
    done = folder / "result.json"
    if not done.exists():
        config = load_config(staleness)
        test = kr.data.evaluation_batches("mnist_small", "test", batch_size=250)
        images, labels = next(test.as_numpy_iterator())
        first_step = UPDATES_PER_EPOCH * (config.epochs - SNAPSHOT_EPOCHS)
        snapshots = Snapshots(images[0], labels[0], first_step, folder / SNAPSHOTS)
        model = kr.training.train(config, folder, callbacks=[snapshots], verbose=2)
        attack = kr.attacks.PGD(kr.Linf(0.3), steps=40, step_size=0.01, restarts=5)
        report = kr.evaluate(model, test, attack, checks=False)
        done.write_text(json.dumps({"clean": report.clean_accuracy, "robust": report.robust_accuracy}))
    return json.loads(done.read_text()) | {"history": read_history(folder / "history.csv")}


def plot(results: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the accuracies by epoch of each staleness, and those on test images by staleness."""
    with canvas.style():
        figure = Figure(figsize=(3.0 * (len(results) + 1), 3.4), layout="constrained", facecolor="white")
        axes = figure.subplots(1, len(results) + 1, sharey=True)
        for axis, (staleness, result) in zip(axes, results.items(), strict=False):
            columns = (("robust_accuracy", "trained on"), ("fresh_robust_accuracy", "fresh"))
            for (column, label), (colour, _) in zip(columns, canvas.SERIES, strict=False):
                values = [100 * value for value in result["history"][column]]
                axis.plot(range(1, len(values) + 1), values, color=colour, label=label)
            axis.set_title(f"staleness {staleness}", fontsize=10)
            axis.set_xlabel("epoch")
            canvas.clear_axes(axis)
        axes[0].legend(frameon=False, fontsize=9)
        for (name, label), (colour, marker) in zip(
            (("clean", "clean"), ("robust", "PGD-40 x 5")), canvas.SERIES, strict=False
        ):
            values = [100 * result[name] for result in results.values()]
            axes[-1].plot(list(results), values, color=colour, marker=marker, label=label)
        axes[-1].set_title("test digits", fontsize=10)
        axes[-1].set_xlabel("staleness")
        axes[-1].legend(frameon=False, fontsize=9)
        canvas.clear_axes(axes[-1])
        canvas.percent_axis(axes[0])
        figure.savefig(path, dpi=110)


def plot_cycles(snapshots: dict[str, list[np.ndarray]], path: pathlib.Path) -> None:
    """Draws the attacked digit, a row per staleness."""
    columns = min(len(images) for images in snapshots.values())
    with canvas.style():
        size = (0.7 * columns + 0.8, 0.8 * len(snapshots))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        for row, (staleness, images) in zip(figure.subplots(len(snapshots), columns), snapshots.items(), strict=True):
            for axis, image in zip(row, images, strict=False):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
            row[0].set_ylabel(f"s = {staleness}", fontsize=9)
        figure.savefig(path, dpi=110)


def main(_: list[str]) -> None:
    """Trains what is missing, prints the accuracies and plots."""
    folder = pathlib.Path(WORKDIR.value)
    results = {value: result_of(value, folder / value) for value in STALENESS.value}
    for staleness, result in results.items():
        last = {name: round(result["history"][name][-1], 3) for name in ("robust_accuracy", "fresh_robust_accuracy")}
        test = {"clean": result["clean"], "robust": result["robust"]}
        print(json.dumps({"staleness": int(staleness), "last_epoch": last, "test": test}))
    plot(results, folder / "staleness.png")
    snapshots = {value: sorted((folder / value / SNAPSHOTS).glob("*.npy")) for value in results}
    plot_cycles({value: [np.load(path) for path in paths] for value, paths in snapshots.items()}, folder / "cycles.png")
    print(f"Plots: {folder / 'staleness.png'} {folder / 'cycles.png'}")


if __name__ == "__main__":
    app.run(main)
