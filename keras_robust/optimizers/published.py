"""Optimizer and learning-rate schedules of the papers: RMSprop as TensorFlow 1 had it, staircase decay, warm-up."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from keras_robust.core.checks import check_positive
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class TensorFlow1RMSprop(keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` with a mean square that starts at one instead of zero, as in TensorFlow 1.

    With epsilon 1.0, as in the code of Kannan et al. (2018), this makes the first updates up to 1.4 times smaller. The
    defaults are those of that code: rho 0.9, momentum 0.9, epsilon 1.0.

    Args:
        learning_rate: a number or a schedule.
        rho: decay of the mean square.
        momentum: momentum of the scaled gradient.
        epsilon: added inside the square root.
        **kwargs: arguments of `keras.optimizers.RMSprop`, such as `use_ema=True, ema_momentum=0.9999` for the weight
            average of that code.
    """

    def __init__(
        self,
        learning_rate: Any = 0.045,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, **kwargs)

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, initializer: Any = "zeros") -> Any:
        """Creates the optimizer's variables. The mean squares are ones."""
        return super().add_optimizer_variables(trainable_variables, name, "ones" if name == "velocity" else initializer)


Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(PACKAGE)
class PiecewiseLinear(Schedule):
    """A rate that is linear between points, and constant after the last one.

    Args:
        steps: steps of the points, increasing from 0.
        values: rates at these steps; as many as `steps`.

    Raises:
        ValueError: if there are fewer than two points, or `steps` do not increase from 0.
    """

    def __init__(self, steps: Sequence[float], values: Sequence[float]) -> None:
        increasing = all(a < b for a, b in itertools.pairwise(steps))
        if len(steps) < 2 or len(steps) != len(values) or steps[0] != 0 or not increasing:
            raise ValueError(
                "steps must be at least two numbers that increase from 0, with one value for each. "
                f"Received: steps={steps!r} and values={values!r}"
            )
        self.steps, self.values = list(steps), list(values)

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate at `step`, a float32 scalar."""
        step = tf.cast(step, tf.float32)
        rate = tf.constant(float(self.values[0]))
        points = itertools.pairwise(zip(self.steps, self.values, strict=True))
        for (begin, low), (end, high) in points:
            rate += (high - low) * tf.clip_by_value((step - begin) / (end - begin), 0.0, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the schedule."""
        return {"steps": self.steps, "values": self.values}


@keras.saving.register_keras_serializable(PACKAGE)
class WarmUp(Schedule):
    """Another schedule, times a factor that rises linearly from 0 to 1 in the first steps (Goyal et al., 2017).

    Args:
        schedule: the other schedule. It also counts from step 0.
        warmup_steps: length of the rise, at least 1.

    Raises:
        ValueError: if `warmup_steps` is not positive.
    """

    def __init__(self, schedule: Schedule, warmup_steps: int) -> None:
        if not warmup_steps >= 1:
            raise ValueError(f"warmup_steps must be at least 1. Received: warmup_steps={warmup_steps!r}")
        self.schedule, self.warmup_steps = schedule, warmup_steps

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate at `step`, a float32 scalar."""
        fraction = (tf.cast(step, tf.float32) + 1.0) / self.warmup_steps
        return tf.minimum(fraction, 1.0) * tf.cast(self.schedule(step), tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the schedule."""
        return {
            "schedule": keras.optimizers.schedules.serialize(self.schedule),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """Builds the schedule that `get_config` described."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["warmup_steps"])


@keras.saving.register_keras_serializable(PACKAGE)
class Scaled(Schedule):
    """Another schedule, times a factor, such as the ratio of two batch sizes (Goyal et al., 2017).

    Args:
        schedule: the other one.
        factor: a positive number.

    Raises:
        ValueError: if `factor` is not positive.
    """

    def __init__(self, schedule: Schedule, factor: float) -> None:
        check_positive("factor", factor)
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate at `step`, a float32 scalar."""
        return self.factor * tf.cast(self.schedule(step), tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the schedule."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scaled":
        """Builds the schedule that `get_config` described."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["factor"])


def one_cycle(total_steps: int, *, peak: float, warmup_fraction: float = 0.3) -> Schedule:
    """Returns a rate that rises linearly from peak / 25 to `peak` and falls to 0 along a cosine (Smith & Topin, 2018).

    Args:
        total_steps: length of the training run.
        peak: highest rate.
        warmup_fraction: share of the steps before the peak, in [0, 1).

    Raises:
        ValueError: if `warmup_fraction` is out of its range.
    """
    if not 0 <= warmup_fraction < 1:
        raise ValueError(f"warmup_fraction must be in [0, 1). Received: warmup_fraction={warmup_fraction!r}")
    warmup_steps = round(warmup_fraction * total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / 25 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def cyclic(total_steps: int, *, peak: float, peak_fraction: float = 0.4) -> Schedule:
    """Returns a rate that rises linearly from 0 to `peak` and falls linearly to 0 (Smith, 2017; Wong et al., 2020).

    Args:
        total_steps: length of the training run.
        peak: highest rate.
        peak_fraction: share of the steps before the peak, in (0, 1): 0.4 in the MNIST code of Wong et al., 0.5 in that
            for CIFAR-10.

    Raises:
        ValueError: if `peak_fraction` is out of its range.
    """
    if not 0 < peak_fraction < 1:
        raise ValueError(f"peak_fraction must be in (0, 1). Received: peak_fraction={peak_fraction!r}")
    return PiecewiseLinear([0, peak_fraction * total_steps, total_steps], [0.0, peak, 0.0])


def staircase_decay(
    steps_per_epoch: int, *, initial: float = 0.045, rate: float = 0.94, epochs: float = 2.0
) -> Schedule:
    """Returns initial * rate^floor(epoch / epochs). The defaults are those of Kannan et al. (2018, section 5.3.2).

    Args:
        steps_per_epoch: steps of a pass over the training data.
        initial: first rate.
        rate: factor of each stair.
        epochs: length of a stair in epochs.
    """
    return keras.optimizers.schedules.ExponentialDecay(
        initial, decay_steps=round(epochs * steps_per_epoch), decay_rate=rate, staircase=True
    )


def step_decay(
    steps_per_epoch: int,
    *,
    initial: float = 0.1,
    factor: float = 0.1,
    epochs: Sequence[float] = (35, 70, 95),
    warmup_epochs: float = 0.0,
) -> Schedule:
    """Returns `initial`, multiplied by `factor` at each of `epochs`. The defaults are those of Xie & Yuille (2020).

    Args:
        steps_per_epoch: steps of a pass over the training data.
        initial: first rate.
        factor: factor of each drop.
        epochs: epochs of the drops, increasing. The CIFAR code of Shafahi et al. (2019) drops at 40,000 and 60,000
            steps.
        warmup_epochs: length of a linear rise from 0 at the beginning; 5 in the code of Xie & Yuille.

    Raises:
        ValueError: if `epochs` do not increase.
    """
    if list(epochs) != sorted(set(epochs)):
        raise ValueError(f"The epochs of the drops must increase. Received: epochs={epochs!r}")
    boundaries = [round(epoch * steps_per_epoch) for epoch in epochs]
    values = [initial * factor**drops for drops in range(len(boundaries) + 1)]
    # Keras keeps the value before a boundary at the boundary itself.
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([boundary - 1 for boundary in boundaries], values)
    return WarmUp(decay, round(warmup_epochs * steps_per_epoch)) if warmup_epochs else decay
