"""Every private part of Keras and TensorFlow that the toolkit uses, and the base class of its models.

Nothing else in the package touches a name of theirs that begins with an underscore. Each part has a test in
`tests/core/test_keras_private.py` that fails when Keras or TensorFlow changes it; `setup.py` names the versions that
were tried.

Keras 3 does not support `tf.distribute.MultiWorkerMirroredStrategy` (https://github.com/keras-team/keras/issues/20585).
Two places break: before the first step Keras averages a whole batch, labels too, over all workers, and after each step
it averages the metrics, which are scalars, over their first axis. `KerasModel` mends both.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

Call = Callable[..., Any]


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns `layer` and all layers nested in it, of any kind of model; `keras.Model.layers` has the outer ones."""
    return list(layer._flatten_layers())


def own_call(layer: keras.Layer) -> Call | None:
    """Returns what `replace_call` has put in the place of `layer.call`, or None."""
    return layer.__dict__.get("call")


def replace_call(layer: keras.Layer, call: Call | None) -> None:
    """Lets `layer` compute with `call` instead of its own `call`; None gives its own back.

    A layer looks for `self.call` in each call, so an attribute of the instance comes first. `__dict__` goes past
    Keras's `__setattr__`, which would refuse it in a built layer.
    """
    if call is None:
        layer.__dict__.pop("call", None)
    else:
        layer.__dict__["call"] = call


def add_losses(layer: keras.Layer, losses: Sequence[Any]) -> None:
    """Adds losses to a layer as its `add_loss` does; that of a functional model raises `NotImplementedError`."""
    keras.Layer.add_loss(layer, losses)


# Metrics.


def wrapped_function(metric: keras.metrics.Metric) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Returns the function of a plain `MeanMetricWrapper` and its options, or None for any other metric."""
    if type(metric) is not keras.metrics.MeanMetricWrapper:
        return None
    return metric._fn, metric._fn_kwargs


def copy_metric(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a new metric that computes the same, and is better where the first one is."""
    wrapped = wrapped_function(metric)
    if wrapped is not None:  # its config would need the function registered
        function, options = wrapped
        copy = keras.metrics.MeanMetricWrapper(function, name=name, dtype=metric.dtype, **options)
    else:
        copy = type(metric).from_config({**metric.get_config(), "name": name})
    direction = getattr(metric, "_direction", None)
    if direction is not None:
        set_direction(copy, direction)
    return copy


def set_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Says whether more is better, "up" or "down": what callbacks with mode="auto" go by."""
    metric._direction = direction


# Optimizers.


def averages_of_weights(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Returns the moving average of each trainable variable that an optimizer with `use_ema=True` keeps."""
    return optimizer._model_variables_moving_average


# Data sets.


class BegunDataset(tf.data.Dataset):
    """A data set whose first iterator is one that there is already.

    Args:
        data: the data set.
        iterator: over its elements.
    """

    def __init__(self, data: tf.data.Dataset, iterator: Iterator[Any]) -> None:
        self._data = data
        self._iterator: Iterator[Any] | None = iterator
        super().__init__(data._variant_tensor)  # the rest of tf.data takes it for `data`

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._data]

    @property
    def element_spec(self) -> Any:
        """That of the data set."""
        return self._data.element_spec

    def __iter__(self) -> Iterator[Any]:
        iterator, self._iterator = self._iterator, None
        return iter(self._data) if iterator is None else iterator


def caches_of(data: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns every `Dataset.cache` in a data set."""
    own = [data] if type(data).__name__ == "CacheDataset" else []
    return own + [cache for each in data._inputs() for cache in caches_of(each)]


def first_of_replicas(values: Any) -> Any:
    """Returns what the first replica has of an element of a distributed data set."""
    return tf.nest.map_structure(lambda value: getattr(value, "values", (value,))[0], values)


def without_tracing_warning(function: Any) -> Any:
    """Returns a compiled function of which TensorFlow does not warn, however often it is traced."""
    function._omit_frequent_tracing_warning = True
    return function


# Models.


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the strategy has replicas in other processes, which do the same."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and bool(
        strategy.cluster_resolver.cluster_spec().jobs
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the files of a run: the only process, or the first of several."""
    if not is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


class KerasModel(keras.Model):
    """A `keras.Model` that several replicas and workers can train, and whose metrics callbacks find before a step.

    Under any strategy Keras logs metrics over all replicas only where a step logs all metrics of the model. Otherwise
    it averages what each replica computed by itself, however few examples that had. Steps here log what they have seen.
    """

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss, and last Keras's container of the metrics of `compile`."""
        return sorted(super().metrics, key=self.is_container)

    def is_container(self, metric: keras.metrics.Metric) -> bool:
        """Returns whether it is the one of `self.metrics` that holds those of `compile`; callbacks look for it."""
        return metric is self._compile_metrics

    def metrics_by_name(self) -> dict[str, keras.metrics.Metric]:
        """Returns the metrics one by one."""
        nested = [metric.metrics if self.is_container(metric) else [metric] for metric in self.metrics]
        return {metric.name: metric for metrics in nested for metric in metrics}

    @property
    def loss_metric(self) -> keras.metrics.Metric:
        """The mean of the loss over an epoch, which Keras logs as "loss"."""
        return self._loss_tracker

    def build_metrics(self) -> None:
        """Makes the metrics of `compile` known. Keras does so in its first step; callbacks look for them before."""
        self._compile_metrics.build(tf.zeros((1,)), tf.zeros((1, 2)))

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns what a step logged, as its metrics have it over all steps and replicas."""
        metrics = self.metrics_by_name()
        return {name: metrics[name].result() if name in metrics else value for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds from the shapes of the data set's elements.

        Keras takes the first batch of an iterator that it gives up, with which `tf.data.Dataset.cache` can lose all
        that comes after it, for good; and of several workers the mean of what they have, labels too.
        """
        if iterator is not None:
            specs = iterator._distributed_dataset.element_spec  # of all replicas; they have the same
            data_batch = tf.nest.map_structure(lambda spec: tf.nest.flatten(spec, expand_composites=True)[0], specs)
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns the function of a training or test step, whose results have an axis for Keras to average over."""
        if not is_multi_worker(self.distribute_strategy):
            return super()._make_function(step_function)
        return super()._make_function(lambda data: tf.nest.map_structure(lambda v: v[None], step_function(data)))
