"""Duration of a training step on one device: computed for accelerators, measured on the CPU of this machine."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks.attack import value_and_gradient
from keras_robust.core.seeds import Tensor
from keras_robust.methods import RobustModel
from keras_robust.tools.planning.accelerators import Devices
from keras_robust.tools.planning.costs import Cost, Operation, bytes_of, cost_of
from keras_robust.tools.planning.passes import ATTACK, UPDATE, Pass, image_shape

ROUNDS, WARM_UPS = 7, 2
FLOPS_OF_A_RUN = 1e11
"""A pass is timed on as many of its images as need this number of operations: about a second on 2 cores."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a training step on one device.

    Attributes:
        name: "attack", "update" or "all-reduce".
        work: what runs, in words.
        flops: number of floating-point operations.
        traffic: bytes read from and written to memory. For an all-reduce: bytes that are added up over the devices.
        seconds: duration.
    """

    name: str
    work: str
    flops: float
    traffic: float
    seconds: float


class Timing:
    """Costs and durations of passes. Passes that differ only in `part` and `count` are computed or measured once.

    Args:
        passes: all passes whose cost or duration will be needed.
        optimizer: a built optimizer; see `measure`.
        devices: the devices on which they run.
        utilization: share of the peaks that programs reach, in (0, 1].

    Raises:
        ValueError: if a pass multiplies in a dtype for which the accelerator has no peak.
    """

    def __init__(
        self, passes: Sequence[Pass], optimizer: keras.optimizers.Optimizer, devices: Devices, utilization: float
    ) -> None:
        self.devices = devices
        self.utilization = utilization
        self._costs = {one: cost_of(one) for one in dict.fromkeys(map(_once, passes))}
        if devices.accelerator is None:
            seconds = measure([*self._costs], [*self._costs.values()], optimizer)
        else:
            seconds = [self.seconds_of(cost.operations) for cost in self._costs.values()]
        self._seconds = dict(zip(self._costs, seconds, strict=True))

    def cost(self, one: Pass) -> Cost:
        """Returns the cost of one run of a pass."""
        return self._costs[_once(one)]

    def seconds(self, one: Pass) -> float:
        """Returns the seconds of one run of a pass."""
        return self._seconds[_once(one)]

    def seconds_of(self, operations: Sequence[Operation]) -> float:
        """Returns the seconds of operations on an accelerator. On a CPU it returns 0, because passes include them."""
        accelerator = self.devices.accelerator
        return accelerator.seconds(operations, self.utilization) if accelerator else 0.0


def parts_of_step(model: RobustModel, passes: Sequence[Pass], timing: Timing) -> list[Part]:
    """Returns the attack (if there is one), the update, and the all-reduce (if there are several devices).

    Args:
        model: a compiled model whose optimizer is built.
        passes: the passes of a training step.
        timing: their timing.
    """
    attack, update = (_part(name, [one for one in passes if one.part == name], timing) for name in (ATTACK, UPDATE))
    parts = [attack] if attack.work else []
    gradients = bytes_of(model.trainable_variables)
    # The optimizer reads the gradients, and reads and writes the weights and its own variables.
    optimizer = Operation(0, 3 * gradients + 2 * bytes_of(model.optimizer.variables), "")
    count = model.updates_per_batch
    traffic = update.traffic + count * optimizer.traffic
    seconds = update.seconds + count * timing.seconds_of([optimizer])
    parts.append(dataclasses.replace(update, traffic=traffic, seconds=seconds))
    if timing.devices.replicas > 1:
        reduced = sum(one.count for one in passes if one.of_weights) * gradients
        work = f"gradients of {timing.devices.replicas} devices"
        parts.append(Part("all-reduce", work, 0, reduced, timing.devices.all_reduce_seconds(reduced)))
    return parts


def _part(name: str, passes: Sequence[Pass], timing: Timing) -> Part:
    return Part(
        name,
        work=", ".join(f"{one.count:.3g} x {one.name} of {one.images} images" for one in passes),
        flops=sum(one.count * timing.cost(one).flops for one in passes),
        traffic=sum(one.count * timing.cost(one).traffic for one in passes),
        seconds=sum(one.count * timing.seconds(one) for one in passes),
    )


def _once(one: Pass) -> Pass:
    """Returns a pass with neutral `part` and `count`, on which its cost does not depend."""
    return dataclasses.replace(one, part="", count=1)


def measure(passes: Sequence[Pass], costs: Sequence[Cost], optimizer: keras.optimizers.Optimizer) -> list[float]:
    """Returns the seconds of one run of each pass: the median over rounds in which all passes run in turn.

    Args:
        passes: at least one pass. Passes with `of_weights` change the weights.
        costs: the costs of the passes.
        optimizer: a built optimizer, which takes a step at the end of a pass with `of_weights`.
    """
    runs, factors = [], []
    for one, cost in zip(passes, costs, strict=True):
        images = max(1, min(one.images, int(FLOPS_OF_A_RUN * one.images / cost.flops)))
        runs.append(timed_pass(one, images, optimizer))
        factors.append(one.images / images)
    medians = time_in_turns(runs, ROUNDS)
    return [factor * seconds for factor, seconds in zip(factors, medians, strict=True)]


def time_in_turns(runs: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Returns the median seconds of each function over rounds that call all of them, after warm-up rounds."""
    seconds = np.empty((WARM_UPS + rounds, len(runs)))
    for timings in seconds:
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            timings[index] = time.perf_counter() - start
    return [float(median) for median in np.median(seconds[WARM_UPS:], axis=0)]


def timed_pass(one: Pass, count: int, optimizer: keras.optimizers.Optimizer) -> Callable[[], Any]:
    """Returns a function that runs a compiled pass on `count` random images and waits until it is done."""
    random = np.random.default_rng(0)
    shape = (count, *image_shape(one.classifier))
    images = tf.constant(random.random(shape, np.float32))
    labels = tf.constant(random.integers(0, one.classifier(images[:1]).shape[-1], count))
    step = tf.function(_training_step(one, optimizer) if one.of_weights else _attack_step(one), autograph=False)
    return lambda: tf.nest.map_structure(lambda tensor: tensor.numpy(), step(images, labels))


def _attack_step(one: Pass) -> Callable[[Tensor, Tensor], Tensor]:
    if not one.of_images:
        return one.losses
    return lambda images, labels: value_and_gradient(lambda points: one.losses(points, labels), images)[1]


def _training_step(one: Pass, optimizer: keras.optimizers.Optimizer) -> Callable[[Tensor, Tensor], Tensor]:
    weights = one.classifier.trainable_variables

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            if one.of_images:
                tape.watch(images)
            loss = tf.reduce_mean(one.losses(images, labels))
            scaled = optimizer.scale_loss(loss)
        *gradients, of_images = tape.gradient(scaled, [*(weight.value for weight in weights), images])
        pairs = zip(gradients, weights, strict=True)
        optimizer.apply_gradients(
            [pair for pair in pairs if pair[0] is not None]
        )  # None: a pass may not use every branch
        return loss if of_images is None else of_images

    return step


def check_cores(count: int) -> None:
    """Raises `ValueError` unless this machine has `count` CPU cores and no visible GPU, which would run the passes."""
    gpus = tf.config.list_logical_devices("GPU")
    if count != os.cpu_count() or gpus:
        raise ValueError(
            "A plan for CPU cores must be for all cores of this machine, and no GPU may be visible: the plan measures "
            f"them. Use accelerators='{os.cpu_count()}xcpu', and CUDA_VISIBLE_DEVICES=-1 to hide GPUs. Received: "
            f"accelerators='{count}xcpu' on a machine with {os.cpu_count()} cores and {len(gpus)} GPUs"
        )


def memory_of_machine() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
