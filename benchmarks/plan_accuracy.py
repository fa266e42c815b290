"""Measures how well a plan for this machine's CPU predicts the time of training steps.

Command:  python benchmarks/plan_accuracy.py [--networks=lenet,resnet20] [--methods=natural,pgd,free] [--rounds=15]

Each round runs the passes that `launch/plan.py --accelerators=2xcpu` measures, and the training step of `fit`, once
each. They run in turn, so that changes in the speed of the machine affect all of them. It prints one JSON object per
network and method. `ratio` is the sum of the passes divided by the step, computed from medians.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import step_cost
import tensorflow as tf
from absl import app, flags

from keras_robust.tools.planning.passes import training_passes
from keras_robust.tools.planning.timing import time_in_turns, timed_pass

METHODS = ("natural", "pgd", "adversarial_logit_pairing", "free")


def compare(network: str, names: list[str], steps: int, batch_size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields one result per method."""
    make = step_cost.CLASSIFIERS[network]
    random = np.random.default_rng(0)
    images = tf.constant(random.random((batch_size, *make().input_shape[1:]), np.float32))
    labels = tf.constant(random.integers(0, make().output_shape[-1], batch_size))
    for name in names:
        make_method, _ = step_cost.methods(steps)[name]
        model = step_cost.compiled(make_method(make()))
        model.make_replica_state(images, labels, replicas=1)
        model.optimizer.build(model.trainable_variables)
        passes = training_passes(model, batch_size)
        runs = [timed_pass(one, one.images, model.optimizer) for one in passes]
        *of_passes, measured = time_in_turns([*runs, step_cost.training_step(model, (images, labels))], rounds)
        estimate = sum(one.count * seconds for one, seconds in zip(passes, of_passes, strict=True))
        yield {
            "network": network,
            "method": name,
            "steps": steps,
            "batch_size": batch_size,
            "ratio": round(estimate / measured, 3),
            "estimate_ms": round(1e3 * estimate, 1),
            "measured_ms": round(1e3 * measured, 1),
            "rounds": rounds,
        }


def main(_: list[str]) -> None:
    """Compares and prints."""
    options = flags.FLAGS
    for network in options.networks:
        for result in compare(network, options.methods or METHODS, options.steps, options.batch_size, options.rounds):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    app.run(main)
