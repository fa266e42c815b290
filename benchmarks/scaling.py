"""Measures the throughput of one and two replicas, in one process or in several, and compares it with the ideal.

Command:  python benchmarks/scaling.py [--steps=30] [--rounds=3]

It trains a LeNet in `fit` with adversarial logit pairing on PGD-7, with 64 images per replica. Each replica has one CPU
thread, so that two replicas on two cores are ideally twice as fast as one. Communication and shared caches and memory
make them slower. `asynchronous` is one replica that trains and a Ray worker that attacks. `apart` is two independent
processes, and shows what the machine can reach. Each round runs all setups in turn, and the median over the rounds
counts. It prints one JSON object per setup: images per second, and their ratio to twice those of one replica and to
those of `apart`.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
from local_cluster import local_cluster

SETUPS = ("one", "mirrored", "multi_worker", "asynchronous", "apart")

STEPS = flags.DEFINE_integer("steps", 30, "Number of steps that are timed.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Number of rounds. The median over them counts.")
ROLE = flags.DEFINE_enum("role", None, SETUPS[:-1], "For subprocesses: the setup to measure.")
IMAGES_PER_REPLICA, WARM_UP = 64, 5


def images_per_second(setup: str, steps: int) -> float:
    """Returns how many images of all replicas together `fit` trains on per second."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_robust as kr

    replicas = 2 if setup in ("mirrored", "multi_worker") else 1
    threads = 2 if setup == "mirrored" else 1  # of the process, which has both replicas
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if setup == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = kr.distribution.create_strategy("one" if setup == "asynchronous" else setup)

    class Times(keras.callbacks.Callback):
        """When each step ended."""

        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.ends.append(time.perf_counter())

    rng = np.random.default_rng(0)
    batch = IMAGES_PER_REPLICA * replicas
    images, labels = rng.uniform(size=(batch, 28, 28, 1)).astype("float32"), rng.integers(0, 10, batch)
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    with strategy.scope():
        attack = kr.attacks.PGD(kr.Linf(0.3), steps=7)
        model = kr.AdversarialLogitPairing(kr.architectures.LeNet(), attack)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    times = Times()
    options = {"steps_per_epoch": WARM_UP + steps, "shuffle": False, "verbose": 0}
    if setup == "asynchronous":
        with kr.distribution.asynchronous_generation(model, data, workers=1) as attacked:
            model.fit(attacked.data_set, callbacks=[attacked.callback, times], **options)
    else:
        model.fit(data, callbacks=[times], **options)
    return batch * steps / (times.ends[-1] - times.ends[WARM_UP - 1])


def start(role: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a process that prints its images per second."""
    command = [sys.executable, __file__, f"--role={role}", f"--steps={STEPS.value}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.Popen(
        command,
        env=environment,
        cwd=pathlib.Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def measure(setup: str) -> float:
    """Returns the images per second of a setup; of two processes apart, of both together."""
    if setup == "multi_worker":
        processes = [start(setup, environment) for environment in local_cluster(2)]
    else:
        role = "one" if setup == "apart" else setup
        processes = [start(role, {}) for _ in range(2 if setup == "apart" else 1)]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"A process of the setup {setup!r} failed: run it with --role={setup} to see why.")
    rates = [float(output) for output in outputs]
    return sum(rates) if setup == "apart" else rates[0]


def main(_: list[str]) -> None:
    """Measures one setup in this process, or all in others."""
    if ROLE.value:
        print(images_per_second(ROLE.value, STEPS.value))
        return
    rounds: dict[str, list[float]] = {setup: [] for setup in SETUPS}
    for _ in range(ROUNDS.value):
        for setup, rates in rounds.items():
            rates.append(measure(setup))
    medians = {setup: statistics.median(rates) for setup, rates in rounds.items()}
    for setup, rate in medians.items():
        ideal = {} if setup == "one" else {"of_twice_one": round(rate / (2 * medians["one"]), 3)}
        possible = {"of_apart": round(rate / medians["apart"], 3)} if setup not in ("one", "apart") else {}
        print(json.dumps({"setup": setup, "images_per_second": round(rate), **ideal, **possible}), flush=True)


if __name__ == "__main__":
    app.run(main)
