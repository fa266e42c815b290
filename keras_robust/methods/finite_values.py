"""Training that stops where a number is not finite, or a label is none.

The loss does not tell: on CPU TensorFlow fuses a convolution with its ReLU into one operation that maps NaN to 0, so a
network whose kernels and attacked images are NaN has a finite loss. A step notes what it alone sees, its images and
labels, in a few numbers on the device. What is still there later, weights, statistics, optimizer and loss, is looked at
from outside, every `INTERVAL` steps and when an epoch ends, so that no step waits.
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
"""Steps between two looks from outside."""

IMAGES, ATTACKED, LABELS = range(3)
"""What a step notes."""

SMALLEST_LOSS_SCALE = 2.0**-20
"""Where loss scaling has come to when the gradients of all steps overflow, however small the loss is made."""


class FiniteValues:
    """What the steps of a model have noted, and a check of it and of all that can be seen from outside.

    Attributes:
        noted: in how many steps each of `IMAGES`, `ATTACKED` and `LABELS` was bad, (1, 3) float32 on each replica.
    """

    def __init__(self) -> None:
        self.noted = ReplicaState((1, 3), "float32", batch_axis=0)  # Keras looks for no state in it
        self._looked_at: tuple[list[int], Any] = ([], None)

    def forget(self) -> None:
        """Forgets what earlier steps noted."""
        self.noted.clear()

    def check(self, model: keras.Model, metrics: Mapping[str, Any] | None = None) -> None:
        """Raises if a step since the last call noted something, or if something is not finite now.

        Args:
            model: whose steps noted it.
            metrics: results by name, with the loss that has to be finite, too.

        Raises:
            ValueError: if a label was none of the classes.
            FloatingPointError: if images, attacked images, weights, gradients or the loss are not finite.
        """
        noted = self.noted.to_array()
        if noted.any():
            self.forget()
        of_images, of_attacked, of_labels = map(int, noted.max(axis=0))
        if of_labels:
            raise ValueError(
                "Labels are integers from 0 to the number of classes - 1, or one-hot (or soft) rows that add up to 1. "
                f"Received: a label outside of the classes in {_where(model, of_labels)}. "
                "Look at the labels of the data set."
            )
        if of_images:
            raise FloatingPointError(
                f"Images hold NaN or infinity in {_where(model, of_images)}. Look at the images of the data set."
            )
        variables = self._non_finite_variables(model)
        if of_attacked:
            weights = f" So do {variables}." if variables else ""
            raise FloatingPointError(
                f"Attacked images hold NaN or infinity in {_where(model, of_attacked)}.{weights} The gradient in the "
                "images is not finite: a square root or a norm has none at 0 (add 1e-12 below it), a weight may have "
                "grown beyond bounds (lower the learning rate), and 16 bits may overflow in the attack (set "
                'compute_dtype="float32" in it).'
            )
        if variables:
            raise FloatingPointError(
                f"Weights hold NaN or infinity at {_step(model)}: {variables}. A gradient was not finite: a square "
                "root or a norm has none at 0 (add 1e-12 below it), or the learning rate is too high (lower it, or "
                "warm up)."
            )
        scale = getattr(model.optimizer, "dynamic_scale", None)
        if scale is not None and float(scale) < SMALLEST_LOSS_SCALE:
            raise FloatingPointError(
                f"Gradients hold NaN or infinity in every step up to {_step(model)}, however small the loss is made: "
                f"the scale of the loss has fallen to {float(scale):.2g}, and the weights stand still. A square root "
                "or a norm has no gradient at 0 (add 1e-12 below it)."
            )
        if metrics and not np.isfinite(float(metrics.get("loss", 0.0))):
            results = ", ".join(f"{name}={float(value):.4g}" for name, value in metrics.items())
            raise FloatingPointError(
                f"The loss is not finite at {_step(model)}. Metrics of the epoch so far: {results}. A lower learning "
                "rate or a longer warm-up often helps."
            )

    def _non_finite_variables(self, model: keras.Model) -> str:
        """Returns the paths of variables that are not finite; those that are no weights may be infinite."""
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
    """Says plainly what TensorFlow says of a label of no class, which its sparse loss refuses at once on CPU."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)", error.message)
        if found is None:
            raise
        label, classes = map(int, found.groups())
        raise ValueError(f"Labels are integers from 0 to {classes - 1}. Received: a label {label}") from error


def _results_so_far(model: keras.Model) -> dict[str, Any]:
    """Returns the results of the metrics that have seen something, by name."""
    return {name: metric.result() for name, metric in model.metrics_by_name().items() if metric.variables}


def _all_finite(values: Tensor) -> Tensor:
    return tf.reduce_all(tf.math.is_finite(values))


def _any_nan(values: Tensor) -> Tensor:
    return tf.reduce_any(tf.math.is_nan(values))


class StopAtNonFinite(keras.callbacks.Callback):
    """Looks at the model every `INTERVAL` steps and at the end of an epoch; it comes before all other callbacks.

    It looks before a step, as a callback that is called after one lets Keras wait for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks where it is time."""
        if self._calls and self._calls * self.model.steps_per_execution % INTERVAL < self.model.steps_per_execution:
            self.model.check_finite(_results_so_far(self.model))
        self._calls += 1

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks before the validation, which looks at itself in the end."""
        self.model.check_finite(_results_so_far(self.model))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks before other callbacks save anything."""
        self.model.check_finite(logs)
