"""Averages of the weights, and the statistics of batch normalisation that belong to them.

A Keras optimizer with `use_ema=True` averages only the trainable variables. The averaged weights would be combined with
the moving statistics of the last weights, which do not fit. Averaged statistics do not fit either: the statistics of
the network with averaged weights are not the average of the statistics (`benchmarks/weight_averages.py`). Therefore,
every `INTERVAL` steps, a batch goes through the network with averaged weights in training mode, and updates statistics
that belong to the averaged weights.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.keras_private import averages_of_weights, flatten_layers
from keras_robust.core.seeds import Tensor

INTERVAL = 10
"""Number of training steps between two passes with averaged weights. Each costs a forward pass in training mode."""

STATISTICS = frozenset({"moving_mean", "moving_variance", "moving_stddev"})
"""Names of the variables that have other values with averaged weights.

These are the variables of `keras.layers.BatchNormalization` (also in both branches of a mixture batch normalisation)
and of each layer that uses the same names. Other variables that are not trained keep their values: those of a
`Normalization` are constants, and the vector of a `SpectralNormalization` is the start of its next iteration.
"""

PREFIX = "statistics_of_averages_"


def averaging_optimizer(model: keras.Model) -> Any:
    """Returns the optimizer of `model`, or that inside its loss scaling, if it averages weights, otherwise None."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer if getattr(optimizer, "use_ema", False) else None


def statistics_of(classifier: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of `classifier` that have other values with averaged weights: see `STATISTICS`."""
    return [variable for variable in classifier.non_trainable_variables if variable.name in STATISTICS]


class StatisticsOfAverages:
    """Statistics of batch normalisation for the averaged weights of a model.

    Keras does not look for state in this class. The values are saved beside the model's own variables.

    Attributes:
        statistics: the variables of the classifier: see `STATISTICS`.
        values: the variables for the averaged weights, in the same order. The list is empty if the optimizer does not
            average weights.
        known: whether the values are valid. They are not after a file without them was loaded.
    """

    def __init__(self) -> None:
        self.statistics: list[keras.Variable] = []
        self.values: list[keras.Variable] = []
        self.known = True

    def make(self, model: keras.Model) -> None:
        """Makes the values, if the optimizer of `model` averages weights and they do not exist yet."""
        is_needed = averaging_optimizer(model) is not None and model.classifier.built
        statistics = statistics_of(model.classifier) if is_needed else []
        if list(map(id, statistics)) != list(map(id, self.statistics)):
            with model.distribute_strategy.scope():
                self.values = [
                    keras.Variable(
                        np.asarray(statistic),
                        dtype=statistic.dtype,
                        trainable=False,
                        synchronization="on_read",  # each replica has its own value, from its share of the batch
                        aggregation="mean",
                    )
                    for statistic in statistics
                ]
            self.statistics, self.known = statistics, True
        if not self.known:  # loaded from a file without them
            for statistic, value in zip(self.statistics, self.values, strict=True):
                value.assign(np.asarray(statistic))
            self.known = True

    def follow(self, model: keras.Model, inputs: Mapping[str, Tensor]) -> None:
        """Updates the values with a batch, in every `INTERVAL`-th step, after the update of the weights.

        Args:
            model: the `RobustModel` that makes the step.
            inputs: images (batch, ...) by name of the pass.
        """
        if not self.values or model.batch_statistics_frozen:
            return
        optimizer = averaging_optimizer(model)
        weights = zip(model.trainable_variables, averages_of_weights(optimizer), strict=True)
        mapping = [(variable, average.value) for variable, average in weights if average is not None]
        mapping += zip(self.statistics, (value.value for value in self.values), strict=True)
        passes = tf.cast(model.steps_taken.value // INTERVAL, tf.float32)

        def follow() -> list[Tensor]:
            with (
                _following_alone(model.classifier, passes),
                keras.StatelessScope(mapping, collect_losses=True) as scope,
            ):
                model(dict(inputs), training=True)
            return [tf.cast(scope.get_current_value(s), s.dtype) for s in self.statistics]

        is_time = (model.steps_taken.value - 1) % INTERVAL == 0
        values = [value.value for value in self.values]
        for value, new in zip(self.values, tf.cond(is_time, follow, lambda: values), strict=True):
            value.assign(new)
        if optimizer.ema_overwrite_frequency:
            frequency, updates = optimizer.ema_overwrite_frequency, keras.ops.convert_to_tensor(optimizer.iterations)
            overwritten = updates // frequency > (updates - model.updates_per_batch) // frequency
            for statistic, value in zip(self.statistics, self.values, strict=True):
                statistic.assign(tf.where(overwritten, value.value, statistic.value))

    def use(self) -> None:
        """Replaces the statistics of the classifier by the values."""
        if self.known:
            for statistic, average in zip(self.statistics, self.values, strict=True):
                statistic.assign(np.asarray(average))

    def save(self, store: Any) -> None:
        """Saves the values among the variables of the model."""
        if self.known:
            for index, value in enumerate(self.values):
                store[f"{PREFIX}{index}"] = np.asarray(value)

    @staticmethod
    def without(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the variables of a saved model without these values."""
        return {key: array for key, array in arrays.items() if not key.startswith(PREFIX)}

    def load(self, model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
        """Loads the values that `save` saved. If there are none, they become unknown."""
        self.make(model)
        saved = {key: array for key, array in arrays.items() if key.startswith(PREFIX)}
        self.known = len(saved) == len(self.values)
        if self.known:
            for index, value in enumerate(self.values):
                value.assign(saved[f"{PREFIX}{index}"])


@contextlib.contextmanager
def _following_alone(classifier: keras.Layer, passes: Tensor) -> Iterator[None]:
    """Makes one batch count as `INTERVAL` batches in moving averages, and makes each replica use only its own images.

    A replica cannot wait for the others inside a condition. In a layer with synchronised statistics, the variance of
    the means over the replicas is therefore missing.

    Args:
        classifier: any model.
        passes: number of earlier passes. The first passes have the same weight, and the initial statistics have none.
    """
    layers = [layer for layer in flatten_layers(classifier) if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(layer.momentum, layer.synchronized) for layer in layers]
    for layer in layers:
        momentum = tf.minimum(layer.momentum**INTERVAL, passes / (passes + 1.0))
        layer.momentum, layer.synchronized = tf.cast(momentum, layer.moving_mean.dtype), False
    try:
        yield
    finally:
        for layer, (momentum, synchronized) in zip(layers, before, strict=True):
            layer.momentum, layer.synchronized = momentum, synchronized


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Gives the model its averaged weights and their statistics inside, and then restores its own, bit for bit.

    It does nothing if the optimizer does not average weights.
    """
    if averaging_optimizer(model) is None:
        yield
        return
    variables = [*model.trainable_variables, *statistics_of(model.classifier)]
    own = [np.array(variable) for variable in variables]
    model.use_averages()
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


class ValidateAverages(keras.callbacks.Callback):
    """Validates the averaged weights, with their statistics, if the optimizer averages weights.

        model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999), loss, metrics=["accuracy"])
        model.fit(..., callbacks=[kr.training.ValidateAverages()])

    `launch/train.py` uses this callback. Without it, `fit` validates the weights that are not averaged, although the
    model has the averages at the end. (`keras.callbacks.SwapEMAWeights` exchanges only the weights, not the statistics.
    It adds and subtracts, which rounds the weights.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._validation = contextlib.ExitStack()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model the averages."""
        self._validation.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the weights."""
        self._validation.close()


class EndWithAverages(keras.callbacks.Callback):
    """Gives the model the statistics of the averaged weights at the end of `fit`, before all other callbacks."""

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model the statistics. Keras has already given it the weights."""
        self.model.averages.use()


def warn_of_swapped_weights(model: keras.Model, callbacks: Any) -> None:
    """Warns if a callback of `fit` exchanges the weights of a classifier, but not its statistics."""
    swaps = any(isinstance(each, keras.callbacks.SwapEMAWeights) for each in tf.nest.flatten(callbacks or []))
    if swaps and statistics_of(model.classifier):
        warnings.warn(
            "SwapEMAWeights exchanges only the weights. The averaged weights are then validated with the statistics of "
            "batch normalisation of other weights. Use keras_robust.training.ValidateAverages instead. "
            "Received: callbacks with a SwapEMAWeights",
            stacklevel=3,
        )
