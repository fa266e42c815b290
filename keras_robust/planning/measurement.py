"""How long passes take on the CPU of this machine: each is run, in turn with the others."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks.attack import value_and_gradient
from keras_robust.core.seeds import Tensor
from keras_robust.planning.operations import Cost
from keras_robust.planning.passes import Pass

ROUNDS, WARM_UPS = 7, 2
FLOPS_OF_A_RUN = 1e11
"""A pass is timed on as many of its images as take so many floating-point operations: about a second on 2 cores."""


def check_cores(count: int) -> None:
    """Raises `ValueError` unless this machine has `count` CPU cores, and no GPU that would be measured instead."""
    gpus = tf.config.list_logical_devices("GPU")
    if count != os.cpu_count() or gpus:
        raise ValueError(
            f"CPU cores are measured: those of this machine, all of them, where no GPU is visible. Received: "
            f"accelerators='{count}xcpu' on a machine with {os.cpu_count()} cores and {len(gpus)} GPUs"
        )


def memory_of_machine() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(passes: Sequence[Pass], costs: Sequence[Cost], optimizer: keras.optimizers.Optimizer) -> list[float]:
    """Returns the seconds that one run of each pass takes: the median over rounds in which all take turns.

    Args:
        passes: at least one; those that train change the weights.
        costs: of the passes.
        optimizer: built; it takes a step at the end of a pass that trains.
    """
    runs, factors = [], []
    for one, cost in zip(passes, costs, strict=True):
        images = max(1, min(one.images, int(FLOPS_OF_A_RUN * one.images / cost.flops)))
        runs.append(timed_pass(one, images, optimizer))
        factors.append(one.images / images)
    medians = time_in_turns(runs, ROUNDS)
    return [factor * seconds for factor, seconds in zip(factors, medians, strict=True)]


def time_in_turns(runs: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Returns the median seconds of each over rounds in which each has its turn, after rounds that do not count."""
    seconds = np.empty((WARM_UPS + rounds, len(runs)))
    for timings in seconds:
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            timings[index] = time.perf_counter() - start
    return [float(median) for median in np.median(seconds[WARM_UPS:], axis=0)]


def timed_pass(one: Pass, count: int, optimizer: keras.optimizers.Optimizer) -> Callable[[], Any]:
    """Returns a compiled run of a pass on `count` random images, which returns when it is done."""
    random = np.random.default_rng(0)
    images = tf.constant(random.random((count, *one.classifier.input_shape[1:]), np.float32))
    labels = tf.constant(random.integers(0, one.classifier.output_shape[-1], count))
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
        optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])  # a pass may leave branches out
        return loss if of_images is None else of_images

    return step
