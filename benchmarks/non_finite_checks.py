"""Measures how much the checks for numbers that are not finite add to a training step.

Command:  python benchmarks/non_finite_checks.py [--networks=lenet,resnet20] [--method=pgd] [--rounds=101]

A step records whether its numbers are finite, and `fit` checks the record every `INTERVAL` steps. Each round times a
step that records and a step that does not, in turn. `check_ms` is the time of one check. The ratio is (step that
records + check / INTERVAL) / (step that does not), computed from medians. `spread` is the interquartile range of this
ratio over single rounds, which shows how noisy the machine was. `--clock=cpu` measures the CPU seconds of all threads.
Other programs disturb them less than wall-clock seconds.
"""

import json
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_robust as kr
from keras_robust.methods.finite_values import INTERVAL

NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet20"], "Networks to measure: lenet, resnet20.")
METHOD = flags.DEFINE_enum("method", "pgd", ["pgd", "natural"], "Adversarial training with PGD-7, or natural training.")
ROUNDS = flags.DEFINE_integer("rounds", 101, "Number of rounds. The median over them counts.")
CLOCK = flags.DEFINE_enum("clock", "cpu", ["cpu", "wall"], "cpu: CPU seconds of all threads; wall: wall-clock seconds.")
BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")

CLASSIFIERS = {"lenet": kr.architectures.LeNet, "resnet20": kr.architectures.ResNet20}


def make_model(network: str, notes: bool) -> kr.RobustModel:
    """Returns a compiled model whose steps take notes, or not."""
    keras.utils.set_random_seed(0)
    classifier = CLASSIFIERS[network]()
    attack = kr.attacks.PGD(kr.Linf(0.3), steps=7)
    pgd = METHOD.value == "pgd"
    model = kr.AdversarialTraining(classifier, attack) if pgd else kr.NaturalTraining(classifier)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss, metrics=["accuracy"], jit_compile=False)
    if not notes:
        model._note = lambda *_: None
    return model


def seconds(function: Any) -> float:
    """Returns how long a call takes."""
    now = time.process_time if CLOCK.value == "cpu" else time.perf_counter
    begin = now()
    function()
    return now() - begin


def measure(network: str) -> dict[str, Any]:
    """Returns the medians and their ratio."""
    random = np.random.default_rng(0)
    models = [make_model(network, notes) for notes in (True, False)]
    shape = (BATCH.value, *models[0].classifier.input_shape[1:])
    batch = (tf.constant(random.random(shape, np.float32)), tf.constant(random.integers(0, 10, BATCH.value)))
    steps = [tf.function(model.train_step) for model in models]
    runs = [lambda step=step: step(batch)["loss"].numpy() for step in steps]
    for run in (*runs, *runs, models[0].check_finite):
        run()
    times = np.array([[seconds(run) for run in (runs if n % 2 else runs[::-1])][:: 1 if n % 2 else -1]
                      for n in range(ROUNDS.value)])  # fmt: skip
    check = float(np.median([seconds(models[0].check_finite) for _ in range(21)]))
    with_notes, without = np.median(times, axis=0)
    low, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.75])
    return {
        "network": network,
        "method": METHOD.value,
        "clock": CLOCK.value,
        "with_notes_ms": round(1e3 * with_notes, 2),
        "without_ms": round(1e3 * without, 2),
        "check_ms": round(1e3 * check, 2),
        "ratio": round((with_notes + check / INTERVAL) / without, 4),
        "median_of_ratios": round(float(np.median(times[:, 0] / times[:, 1])) + check / INTERVAL / without, 4),
        "spread": [round(low, 3), round(high, 3)],
        "rounds": ROUNDS.value,
    }


def main(_: list[str]) -> None:
    """Measures and prints."""
    for network in NETWORKS.value:
        print(json.dumps(measure(network)), flush=True)


if __name__ == "__main__":
    app.run(main)
