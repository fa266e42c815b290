"""Weight averages, and the statistics of batch normalisation that belong to them.

A Keras optimizer with `use_ema=True` averages the trainable variables alone. Beside the averaged weights the moving
statistics of batch normalisation would be those of the last weights. Averaged statistics do not fit either: the network
with averaged weights has others than the average of what each network had (`benchmarks/weight_averages.py`). So every
`INTERVAL` steps the averaged weights see the batch once, in training mode, and statistics of their own follow it.
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
"""Steps between two passes with averaged weights: each costs a forward pass of training."""

STATISTICS = frozenset({"moving_mean", "moving_variance", "moving_stddev"})
"""Names of the variables that averaged weights have their own of.

They are those of `keras.layers.BatchNormalization` (of both branches of a mixture batch normalisation, too) and of
every layer that follows its names. Other variables that are not trained stay as they are: those of a `Normalization`
are constants, and the vector of a `SpectralNormalization` is where its next iteration begins.
"""

PREFIX = "statistics_of_averages_"


def averaging_optimizer(model: keras.Model) -> Any:
    """Returns the optimizer of `model` that averages weights, inside one that scales losses too, or else None."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer if getattr(optimizer, "use_ema", False) else None


def statistics_of(classifier: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of `classifier` that averaged weights have their own of: see `STATISTICS`."""
    return [variable for variable in classifier.non_trainable_variables if variable.name in STATISTICS]


class StatisticsOfAverages:
    """Statistics of batch normalisation for the averaged weights of a model, where its optimizer averages them.

    Keras looks for no state in it: the values are saved beside the model's own variables.

    Attributes:
        statistics: variables of the classifier, see `STATISTICS`.
        values: those that belong to the averaged weights, in the same order; empty where there is nothing to keep.
        known: whether they are: not after loading a file without them.
    """

    def __init__(self) -> None:
        self.statistics: list[keras.Variable] = []
        self.values: list[keras.Variable] = []
        self.known = True

    def make(self, model: keras.Model) -> None:
        """Makes the statistics that there are none of yet, where the optimizer of `model` averages weights."""
        is_needed = averaging_optimizer(model) is not None and model.classifier.built
        statistics = statistics_of(model.classifier) if is_needed else []
        if list(map(id, statistics)) != list(map(id, self.statistics)):
            with model.distribute_strategy.scope():
                self.values = [
                    keras.Variable(
                        np.asarray(statistic),
                        dtype=statistic.dtype,
                        trainable=False,
                        synchronization="on_read",  # each replica has its own, of its share of the batch
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
        """Lets the statistics follow a batch, in every `INTERVAL`-th step, after its update.

        Args:
            model: which takes the step; it has `steps_taken` and `updates_per_batch`.
            inputs: images of the passes.
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
        """Replaces the statistics of the classifier by these."""
        if self.known:
            for statistic, average in zip(self.statistics, self.values, strict=True):
                statistic.assign(np.asarray(average))

    def save(self, store: Any) -> None:
        """Saves them among the variables of the model."""
        if self.known:
            for index, value in enumerate(self.values):
                store[f"{PREFIX}{index}"] = np.asarray(value)

    @staticmethod
    def without(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what of a saved model's variables is not of these."""
        return {key: array for key, array in arrays.items() if not key.startswith(PREFIX)}

    def load(self, model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
        """Loads what `save` saved; a file without is as good."""
        self.make(model)
        saved = {key: array for key, array in arrays.items() if key.startswith(PREFIX)}
        self.known = len(saved) == len(self.values)
        if self.known:
            for index, value in enumerate(self.values):
                value.assign(saved[f"{PREFIX}{index}"])


@contextlib.contextmanager
def _following_alone(classifier: keras.Layer, passes: Tensor) -> Iterator[None]:
    """Lets batch normalisations follow one batch for the `INTERVAL` that they did not see, and each replica its share.

    A replica cannot wait for another inside of a condition. What a layer that synchronises its statistics loses is the
    variance of the means over the replicas.

    Args:
        classifier: any model.
        passes: how many there were before; the first ones count alike, whatever the statistics began with.
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
    """Gives the model its averaged weights with their statistics, and then its own back, bit for bit.

    Without averages it does nothing.
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
    """Validates the averaged weights, with their statistics, where the optimizer keeps them.

        model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999), loss, metrics=["accuracy"])
        model.fit(..., callbacks=[kr.training.ValidateAverages()])

    `launch/train.py` does so. `fit` by itself validates the weights that it goes on from, and ends with the averages.
    (`keras.callbacks.SwapEMAWeights` exchanges the weights alone, and by adding and subtracting, which rounds them.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._validation = contextlib.ExitStack()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the averages in."""
        self._validation.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the weights back."""
        self._validation.close()


class EndWithAverages(keras.callbacks.Callback):
    """Ends `fit` with the statistics of the averaged weights; it comes before all other callbacks."""

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the statistics in; Keras has put the weights in."""
        self.model.averages.use()


def warn_of_swapped_weights(model: keras.Model, callbacks: Any) -> None:
    """Warns where a callback of `fit` exchanges the weights of a classifier that has statistics, but not these."""
    swaps = any(isinstance(each, keras.callbacks.SwapEMAWeights) for each in tf.nest.flatten(callbacks or []))
    if swaps and statistics_of(model.classifier):
        warnings.warn(
            "SwapEMAWeights exchanges the weights alone, so the averages are validated with statistics of batch "
            "normalisation that are not theirs: take keras_robust.training.ValidateAverages instead. "
            "Received: callbacks with a SwapEMAWeights",
            stacklevel=3,
        )
