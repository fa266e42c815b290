"""Stops training with an error if a number is not finite, or a label is not one of the classes.

The loss does not show it: on CPU, TensorFlow fuses a convolution with its ReLU into one operation that maps NaN to 0. A
network with NaN in its kernels and in the attacked images therefore has a finite loss. There are two checks:

- Each step records on the device whether its images and labels are wrong. Only the step sees them.
- Every `INTERVAL` steps and at the end of each epoch, these records, the weights, the statistics, the optimizer and the
  loss are checked from outside. The steps between do not wait for the device.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.execution import make_tf_function
from keras_robust.core.seeds import Tensor
from keras_robust.methods.replicas import ReplicaState
from keras_robust.methods.weight_averages import statistics_of

INTERVAL = 100
"""Number of training steps between two checks from outside."""

IMAGES, ATTACKED, LABELS = range(3)
"""What a step records: whether its images, attacked images and labels are wrong."""

SMALLEST_LOSS_SCALE = 2.0**-20
"""A scale of the loss below this means that the gradients overflow in every step, even if the loss is tiny."""


class FiniteValues:
    """The records of the steps of a model, and the check of these records, the weights and the loss.

    Attributes:
        noted: number of steps in which each of `IMAGES`, `ATTACKED` and `LABELS` was wrong, (1, 3) float32 on each
            replica.
    """

    def __init__(self) -> None:
        self.noted = ReplicaState((1, 3), "float32", batch_axis=0)  # Keras does not look for state in it
        self._looked_at: tuple[list[int], Any] = ([], None)

    def forget(self) -> None:
        """Sets the records of earlier steps to 0."""
        self.noted.clear()

    def check(self, model: keras.Model, metrics: Mapping[str, Any] | None = None) -> None:
        """Raises an error if a step since the last call recorded a wrong value, or if a value is not finite now.

        Args:
            model: the model whose steps made the records.
            metrics: results by name. If "loss" is one of them, it must be finite, too.

        Raises:
            ValueError: if a label was not one of the classes.
            FloatingPointError: if images, attacked images, weights, gradients or the loss are not finite.
        """
        noted = self.noted.to_array()
        if noted.any():
            self.forget()
        of_images, of_attacked, of_labels = map(int, noted.max(axis=0))
        if of_labels:
            raise ValueError(
                "Labels must be integers from 0 to the number of classes - 1, or one-hot (or soft) rows that add up to "
                "1. Check the labels of the data set. "
                f"Received: a label outside of the classes in {_where(model, of_labels)}"
            )
        if of_images:
            raise FloatingPointError(
                f"Images hold NaN or infinity in {_where(model, of_images)}. Check the images of the data set."
            )
        variables = self._non_finite_variables(model)
        if of_attacked:
            weights = f" So do these weights: {variables}." if variables else ""
            raise FloatingPointError(
                f"Attacked images hold NaN or infinity in {_where(model, of_attacked)}.{weights} The gradient of the "
                "attack is not finite. Possible causes: a square root or a norm, which has no gradient at 0 (add 1e-12 "
                "to its argument); a weight that has become too large (lower the learning rate); an overflow of 16-bit "
                'numbers in the attack (set its compute_dtype="float32").'
            )
        if variables:
            raise FloatingPointError(
                f"Weights hold NaN or infinity at {_step(model)}: {variables}. A gradient was not finite. Possible "
                "causes: a square root or a norm, which has no gradient at 0 (add 1e-12 to its argument); a learning "
                "rate that is too high (lower it, or use a warm-up)."
            )
        scale = getattr(model.optimizer, "dynamic_scale", None)
        if scale is not None and float(scale) < SMALLEST_LOSS_SCALE:
            raise FloatingPointError(
                f"Gradients hold NaN or infinity in every step up to {_step(model)}, although loss scaling has reduced "
                f"the scale of the loss to {float(scale):.2g}. The weights no longer change. A possible cause is a "
                "square root or a norm, which has no gradient at 0: add 1e-12 to its argument."
            )
        if metrics and not np.isfinite(float(metrics.get("loss", 0.0))):
            results = ", ".join(f"{name}={float(value):.4g}" for name, value in metrics.items())
            raise FloatingPointError(
                f"The loss is not finite at {_step(model)}. Metrics of the epoch so far: {results}. Try a lower "
                "learning rate or a longer warm-up."
            )

    def _non_finite_variables(self, model: keras.Model) -> str:
        """Returns the paths of variables that are not finite.

        Weights, statistics and optimizer variables must be finite. Other variables may be infinite, but not NaN.
        """
        always = [*model.trainable_variables, *statistics_of(model.classifier)]
        if model.optimizer is not None:
            always += model.optimizer.variables
        known = {id(variable) for variable in always}
        others = [variable for variable in model.non_trainable_variables if id(variable) not in known]
        variables = [v for v in (*always, *others) if "float" in v.dtype]
        ids = [id(variable) for variable in variables]
        if self._looked_at[0] != ids:

            def look() -> Tensor:
                is_bad = [~_all_finite(v.value) if id(v) in known else _any_nan(v.value) for v in variables]
                return tf.stack(is_bad)

            self._looked_at = (ids, make_tf_function(look))
        found = [v.path for v, is_bad in zip(variables, self._looked_at[1]().numpy(), strict=True) if is_bad]
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return ", ".join(found[:5]) + more


def _step(model: keras.Model) -> str:
    return f"step {int(model.steps_taken.numpy())}"


def _where(model: keras.Model, count: int) -> str:
    return f"{count} step{'s' * (count > 1)} up to {_step(model)}"


@contextlib.contextmanager
def refused_labels_are_value_errors() -> Iterator[None]:
    """Turns TensorFlow's error about a wrong label, which its sparse loss raises on CPU, into a `ValueError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)", error.message)
        if found is None:
            raise
        label, classes = map(int, found.groups())
        raise ValueError(f"Labels must be integers from 0 to {classes - 1}. Received: a label {label}") from error


def _results_so_far(model: keras.Model) -> dict[str, Any]:
    """Returns the results of the metrics that already have variables, by name."""
    return {name: metric.result() for name, metric in model.metrics_by_name().items() if metric.variables}


def _all_finite(values: Tensor) -> Tensor:
    return tf.reduce_all(tf.math.is_finite(values))


def _any_nan(values: Tensor) -> Tensor:
    return tf.reduce_any(tf.math.is_nan(values))


class StopAtNonFinite(keras.callbacks.Callback):
    """Checks the model every `INTERVAL` steps and at the end of each epoch. It must come before all other callbacks.

    It checks before a step, because a callback that is called after a step makes Keras wait for every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks once in `INTERVAL` steps."""
        if self._calls and self._calls * self.model.steps_per_execution % INTERVAL < self.model.steps_per_execution:
            self.model.check_finite(_results_so_far(self.model))
        self._calls += 1

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks before the validation. `evaluate` checks again at its end."""
        self.model.check_finite(_results_so_far(self.model))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks before other callbacks save the model."""
        self.model.check_finite(logs)
