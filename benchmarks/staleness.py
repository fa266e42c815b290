"""Trains with several values of staleness and plots fresh and stale robust accuracy (Bhat et al., 2018, figures 5, 8).

Command:  python benchmarks/staleness.py --workdir=runs/staleness [--staleness=0,8,32,64] [--output=staleness.png]

Runs that are finished are not trained again. Left and middle: accuracy on the training images by epoch, attacked
`staleness` updates ago (trained on) and in this update (fresh). Right: robust and clean accuracy on the 2,000 test
digits under PGD-40 with 5 restarts, of the model after the last epoch.
"""

import importlib.util
import json
import pathlib
from typing import Any

from absl import app, flags
from matplotlib.figure import Figure

import keras_robust as kr
from keras_robust.evaluation.provenance import read_history
from keras_robust.reports import canvas

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.", required=True)
STALENESS = flags.DEFINE_list("staleness", ["0", "8", "32", "64"], "Values of staleness, in updates.")
OUTPUT = flags.DEFINE_string("output", None, "Plot, a PNG file; WORKDIR/staleness.png where not given.")
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "mnist_small_stale.py"


def load_config(staleness: str) -> Any:
    """Returns the config of a staleness."""
    spec = importlib.util.spec_from_file_location("mnist_small_stale", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(staleness)


def result_of(staleness: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns history and test accuracies of a run, which is trained and evaluated where it is not finished."""
    done = folder / "result.json"
    if not done.exists():
        model = kr.training.train(load_config(staleness), folder, verbose=2)
        attack = kr.attacks.PGD(kr.Linf(0.3), steps=40, step_size=0.01, restarts=5)
        test = kr.data.evaluation_batches("mnist_small", "test", batch_size=250)
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


def main(_: list[str]) -> None:
    """Trains what is missing, prints the accuracies and plots."""
    folder = pathlib.Path(WORKDIR.value)
    results = {value: result_of(value, folder / value) for value in STALENESS.value}
    for staleness, result in results.items():
        last = {name: round(result["history"][name][-1], 3) for name in ("robust_accuracy", "fresh_robust_accuracy")}
        test = {"clean": result["clean"], "robust": result["robust"]}
        print(json.dumps({"staleness": int(staleness), "last_epoch": last, "test": test}))
    path = pathlib.Path(OUTPUT.value or folder / "staleness.png")
    plot(results, path)
    print(f"Plot: {path}")


if __name__ == "__main__":
    app.run(main)
