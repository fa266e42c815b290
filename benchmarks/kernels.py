"""Shows in which of TensorFlow's kernels a training step or an attack spends its time on CPU.

Command:  python benchmarks/kernels.py [--network=resnet20] [--kinds=natural,pgd,attack,free] [--repeats=5]

It prints one JSON object per step and kernel: calls, milliseconds and share of the time of all kernels of the step, as
TensorFlow's profiler sees them. For kernels that multiply matrices or convolve, together, it also prints operations per
second, as a share of those of a product of two matrices of 2048 x 2048, measured in between.
"""

import collections
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import beside
import keras
import step_cost
import tensorflow as tf
from absl import app, flags
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from keras_robust.tools.planning.costs import cost_of
from keras_robust.tools.planning.passes import training_passes

NETWORK = flags.DEFINE_enum("network", "resnet20", list(beside.BATCH_SIZES), "Network.")
KINDS = flags.DEFINE_list("kinds", ["natural", "pgd", "attack", "free"], "Steps of `beside.STEPS`.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Steps that are profiled.")
ATTACK_STEPS = 7
PRODUCTS = ("Conv2D", "MatMul")


def profiled(run: Callable[[], Any], repeats: int) -> tuple[collections.Counter, collections.Counter]:
    """Returns seconds and calls of each kernel in one run."""
    seconds: collections.Counter = collections.Counter()
    calls: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
        with tf.profiler.experimental.Profile(folder, options):
            for _ in range(repeats):
                run()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, kernel = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and "#" not in name and not name.endswith(":") and kernel[0] != " ":  # "node:kernel"
                    kernel = kernel.partition("#")[0]
                    seconds[kernel] += event.duration_ps / 1e12 / repeats
                    calls[kernel] += 1
    return seconds, collections.Counter({kernel: count // repeats for kernel, count in calls.items()})


def peak() -> float:
    """Returns operations per second of a product of matrices."""
    matrix = tf.random.normal((2048, 2048))
    product = tf.function(tf.matmul)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        product(matrix, matrix).numpy()
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times[2:])


def operations(step: str, make: Callable[[], keras.Model], batch_size: int) -> int:
    """Returns how many operations a step needs in convolutions and products."""
    if step == "attack":
        return operations("pgd", make, batch_size) - operations("natural", make, batch_size)
    model = step_cost.compiled(step_cost.methods(ATTACK_STEPS)[step][0](make()))
    return sum(one.count * cost_of(one).flops for one in training_passes(model, batch_size))


def main(_: list[str]) -> None:
    """Profiles and prints."""
    network, batch_size = NETWORK.value, beside.BATCH_SIZES[NETWORK.value]
    make = beside.classifiers()[network]
    steps = beside.toolkit_steps(network, batch_size, ATTACK_STEPS)
    for step in KINDS.value:
        for _ in range(beside.WARM_UPS):
            steps[step]()
        seconds, calls = profiled(steps[step], REPEATS.value)
        total = sum(seconds.values())
        about = {"network": network, "step": step}
        for kernel, time_of_kernel in seconds.most_common(12):
            share = round(time_of_kernel / total, 3)
            result = {"kernel": kernel, "calls": calls[kernel], "ms": round(1e3 * time_of_kernel, 1), "share": share}
            print(json.dumps({**about, **result}), flush=True)
        of_products = sum(value for kernel, value in seconds.items() if any(word in kernel for word in PRODUCTS))
        rate, best = operations(step, make, batch_size) / of_products, peak()
        result = {
            "share": round(of_products / total, 3),
            "gigaflops": round(rate / 1e9),
            "of_peak": round(rate / best, 2),
        }
        print(json.dumps({**about, "kernel": "all products", **result}), flush=True)


if __name__ == "__main__":
    app.run(main)
