"""Compares asynchronous with synchronous training on this machine, and simulates more machines.

Command:  python benchmarks/asynchronous.py --workdir=runs/asynchronous [--publish_every=100,10] [--workers=1]

It trains `configs/mnist_small_pgd.py:8`, with the same number of steps in each run:

- `synchronous`: without workers.
- `workers`: with Ray workers. They share the cores of this machine with the trainer, so training is not faster here.
- `saturated`: as if there were enough workers. A worker attacks every batch except the first of an epoch, and the
  workers always have 16 batches. They attack in this process and at once, but the staleness is that of real workers.

It prints one JSON object per run: clean and robust accuracy of the last model on the 2,000 test digits under PGD-40
with 5 restarts; seconds per training step (median over the epochs, without validation); the mean staleness; the share
of batches that the trainer attacked itself; and the share of attacks that were too old. Finished runs are not trained
again.

It then measures how long a training step, an attack, the transfer of a batch, and the transfer of a set of weights
take, and simulates 0 to 8 workers, which means 1 to 9 devices (figure 9 of Bhat et al., 2018, has up to 8). The plot is
WORKDIR/speed_up.png.
"""

import functools
import importlib.util
import json
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from asynchronous_simulation import Costs, simulate
from matplotlib.figure import Figure

import keras_robust as kr
from keras_robust.distribution import Crafted, Crafter, asynchronous_generation
from keras_robust.distribution.crafted_batches import CRAFTED_AT, NOT_CRAFTED, TrainsOnCraftedBatches
from keras_robust.distribution.crafter import recipe
from keras_robust.evaluation.record import read_history
from keras_robust.reports import canvas
from keras_robust.tools.planning.timing import time_in_turns

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.", required=True)
PUBLISH_EVERY = flags.DEFINE_list(
    "publish_every", ["100", "10"], "Training steps between two sets of weights for workers: one run for each value."
)
WORKERS = flags.DEFINE_integer("workers", 1, "Number of Ray workers.")
DEVICES = range(1, 10)  # the trainer, and 0 to 8 workers
SATURATED_CAPACITY = 16
STEPS_PER_EPOCH, BATCH_SIZE = 74, 128
ROUNDS = 15
STATED_IN_THE_PAPER = {1: 1.0, 7: 5.0, 8: 5.0}
"""Devices to speed-up, section 5: "nearly 5x" for 7 and "over 5x" for 8; the figure itself has no numbers."""

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "mnist_small_pgd.py"


def load_config() -> Any:
    """Returns the config of both kinds of runs."""
    spec = importlib.util.spec_from_file_location("mnist_small_pgd", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("8")


class EpochSeconds(keras.callbacks.Callback):
    """Appends the seconds of the training part of each epoch to a file: a run may be killed at any moment."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stops the clock, where validation begins."""
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter() - self._start}\n")


class PromptPool:
    """Workers that are finished when a batch is handed out; a `Pool`."""

    replaced = 0

    def __init__(self, model: kr.RobustModel) -> None:
        self._crafter = Crafter(**recipe(model))
        self._finished: list[Crafted] = []

    def hand_out(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Attacks."""
        self._finished.append(Crafted(ticket, *self._crafter.craft(ticket, images, labels)))

    def collect(self) -> list[Crafted]:
        """Returns what was handed out."""
        finished, self._finished = self._finished, []
        return finished

    def publish(self, weights: Any, step: int) -> None:
        """Takes the weights."""
        self._crafter.set_weights(weights, step)

    def stop(self) -> None:
        """Does nothing."""


def saturated(model: kr.RobustModel, batches: tf.data.Dataset, **options: Any) -> Any:
    """Returns an asynchronous generation by prompt workers."""
    return asynchronous_generation(model, batches, pool=PromptPool(model), capacity=SATURATED_CAPACITY, **options)


def result_of(folder: pathlib.Path, generation: Any) -> dict[str, Any]:
    """Returns what is printed of a run, which is trained and evaluated where it is not finished."""
    done = folder / "result.json"
    if not done.exists():
        config, clock = load_config(), EpochSeconds(folder / "seconds.txt")
        model = kr.training.train(config, folder, generation=generation, callbacks=[clock], verbose=2)
        test = kr.data.evaluation_batches("mnist_small", "test", batch_size=250)
        attack = kr.attacks.PGD(kr.Linf(0.3), steps=40, step_size=0.01, restarts=5)
        report = kr.evaluate(model, test, attack, checks=False)
        history = read_history(folder / "history.csv")
        shares = {name: sum(history.get(name, [0])) for name in ("own_batches", "dropped_batches")}
        steps = STEPS_PER_EPOCH * config.epochs
        result = {
            "clean": report.clean_accuracy,
            "robust": report.robust_accuracy,
            "seconds_per_step": round(float(np.median(np.loadtxt(clock.path))) / STEPS_PER_EPOCH, 4),
            "staleness": round(float(np.mean(history.get("staleness", [0]))), 2),
            **{name: round(count / steps, 3) for name, count in shares.items()},
        }
        done.write_text(json.dumps(result))
    return json.loads(done.read_text())


class Echo:
    """A worker that sends back what it was sent."""

    def ready(self) -> None:
        """Does nothing."""

    def set_weights(self, weights: Any, step: int) -> None:
        """Does nothing."""

    def craft(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        """Returns other images of the same size."""
        del ticket, labels
        return images + 0, 0


def measure_costs() -> Costs:
    """Returns the costs of LeNet under PGD-8 on batches of 128, with all cores of this machine."""
    config = load_config()
    model = kr.training.build_model(
        {**kr.training.config.DEFAULTS, **config.to_dict()}, STEPS_PER_EPOCH, STEPS_PER_EPOCH * config.epochs
    )
    images, labels = next(iter(kr.data.training_batches("mnist_small", "train", batch_size=BATCH_SIZE, seed=0)))
    step = tf.function(model.train_step)

    def train(crafted_at: int) -> None:
        batch = {"clean": images, "adversarial": images, CRAFTED_AT: tf.fill((BATCH_SIZE,), crafted_at)}
        step((batch, labels))["loss"].numpy()

    with TrainsOnCraftedBatches(model):
        crafted, own = time_in_turns([lambda: train(0), lambda: train(NOT_CRAFTED)], ROUNDS)
    pool = kr.distribution.RayPool(Echo, {})
    arrays, busy = (images.numpy(), labels.numpy()), []

    def transfer() -> None:
        start = time.perf_counter()
        pool.hand_out(0, *arrays)
        busy.append(time.perf_counter() - start)
        time.sleep(0.1)  # the trainer has better to do; what it costs is to hand out and to take back
        start = time.perf_counter()
        assert tf.constant(pool.collect()[0].images).shape == images.shape
        busy[-1] += time.perf_counter() - start

    try:
        (publish,) = time_in_turns([lambda: pool.publish(model.get_weights(), 0)], ROUNDS)
        time.sleep(1.0)
        pool.collect()
        for _ in range(ROUNDS):
            transfer()
    finally:
        pool.stop()
    return Costs(train=crafted, attack=own - crafted, transfer=float(np.median(busy)), publish=publish)


def plot(costs: Costs, path: pathlib.Path) -> dict[int, Any]:
    """Draws the speed-up by number of devices; returns the simulated outcomes by it."""
    outcomes = {devices: simulate(costs, devices - 1) for devices in DEVICES if devices > 1}
    simulated = {1: 1.0, **{devices: outcome.speed_up for devices, outcome in outcomes.items()}}
    ratio = costs.attack / costs.train
    waiting = {1: 1.0, **{n: min(n - 1, ratio) * (1 + 1 / ratio) for n in DEVICES if n > 1}}
    curves = (
        (simulated, "simulated, measured costs", {}),
        (waiting, "a trainer that waits, closed form", {"linestyle": "--"}),
        (STATED_IN_THE_PAPER, "Bhat et al., as stated in the text", {"linestyle": "none"}),
    )
    with canvas.style():
        figure = Figure(figsize=(5.4, 3.6), layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.plot(DEVICES, DEVICES, color="0.7", linewidth=1, label="linear")
        for (values, label, options), (colour, marker) in zip(curves, canvas.SERIES, strict=False):
            axes.plot(list(values), list(values.values()), color=colour, marker=marker, label=label, **options)
        axes.set_xlabel("devices, trainer included")
        axes.set_ylabel("speed-up")
        axes.legend(frameon=False, fontsize=9)
        canvas.clear_axes(axes)
        figure.savefig(path, dpi=110)
    return outcomes


def main(_: list[str]) -> None:
    """Trains what is missing, measures, simulates, prints and plots."""
    folder = pathlib.Path(WORKDIR.value)
    runs: dict[str, Any] = {"synchronous": None}
    for every in PUBLISH_EVERY.value:
        options = {"publish_every": int(every)}
        workers = functools.partial(asynchronous_generation, workers=WORKERS.value, **options)
        runs |= {
            f"workers_publish{every}": workers,
            f"saturated_publish{every}": functools.partial(saturated, **options),
        }
    for name, generation in runs.items():
        print(json.dumps({"run": name, **result_of(folder / name, generation)}), flush=True)
    costs = measure_costs()
    print(json.dumps({name: round(seconds, 5) for name, seconds in vars(costs).items()}))
    for devices, outcome in plot(costs, folder / "speed_up.png").items():
        print(json.dumps({"devices": devices, **{name: round(value, 3) for name, value in vars(outcome).items()}}))
    print(f"Plot: {folder / 'speed_up.png'}")


if __name__ == "__main__":
    app.run(main)
