"""All private parts of Keras and TensorFlow that the toolkit uses, and the base class of its models.

Only this module uses names of Keras or TensorFlow that begin with an underscore. Each has a test in
`tests/core/test_keras_private.py`, which fails if Keras or TensorFlow changes it. `setup.py` names the tested versions.

Keras 3 does not support `tf.distribute.MultiWorkerMirroredStrategy` (https://github.com/keras-team/keras/issues/20585).
Two things fail: before the first step, Keras averages a whole batch, with its labels, over all workers; after each
step, it averages the metrics over their first axis, although they are scalars. `KerasModel` corrects both.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

Call = Callable[..., Any]


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns `layer` and all layers nested in it. `keras.Model.layers` has only the outer layers."""
    return list(layer._flatten_layers())


def own_call(layer: keras.Layer) -> Call | None:
    """Returns the function by which `replace_call` has replaced `layer.call`, or None."""
    return layer.__dict__.get("call")


def replace_call(layer: keras.Layer, call: Call | None) -> None:
    """Makes `layer` compute with `call` instead of its own `call`. None restores its own.

    A layer looks up `self.call` each time, and an attribute of the instance comes first. It is set in `__dict__`,
    because Keras's `__setattr__` raises an error in a built layer.
    """
    if call is None:
        layer.__dict__.pop("call", None)
    else:
        layer.__dict__["call"] = call


def graph_of(model: keras.Layer) -> list[tuple[Any, list[Any], list[Any]]]:
    """Returns (operation, symbolic inputs, symbolic outputs) of each call in the graph of a functional model.

    The graph of a sequential model is that of the functional model in it. Other layers have none. The outputs of the
    model come last, as inputs of the operation None.
    """
    function = model._functional if isinstance(model, keras.Sequential) else model
    if not hasattr(function, "_nodes_by_depth"):
        return []
    nodes = [node for nodes in function._nodes_by_depth.values() for node in nodes if not node.is_input]
    calls = [(node.operation, node.input_tensors, node.outputs) for node in nodes]
    return [*calls, (None, function.outputs, [])]


def add_losses(layer: keras.Layer, losses: Sequence[Any]) -> None:
    """Adds losses to any layer. The `add_loss` of a functional model would raise `NotImplementedError`."""
    keras.Layer.add_loss(layer, losses)


# Metrics.


def wrapped_function(metric: keras.metrics.Metric) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Returns (function, its options) of a `MeanMetricWrapper`, or None for any other metric, even a subclass."""
    if type(metric) is not keras.metrics.MeanMetricWrapper:
        return None
    return metric._fn, metric._fn_kwargs


def copy_metric(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a new metric that computes the same. Callbacks consider the same direction as better."""
    wrapped = wrapped_function(metric)
    if wrapped is not None:  # with its config, only a registered function could be copied
        function, options = wrapped
        copy = keras.metrics.MeanMetricWrapper(function, name=name, dtype=metric.dtype, **options)
    else:
        copy = type(metric).from_config({**metric.get_config(), "name": name})
    direction = getattr(metric, "_direction", None)
    if direction is not None:
        set_direction(copy, direction)
    return copy


def set_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Sets whether more is better ("up") or less ("down"). Callbacks with mode="auto" use it."""
    metric._direction = direction


# Optimizers.


def averages_of_weights(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Returns the moving averages of the trainable variables, in their order, of an optimizer with `use_ema=True`."""
    return optimizer._model_variables_moving_average


# Data sets.


class BegunDataset(tf.data.Dataset):
    """A data set whose first iterator already exists.

    Args:
        data: the data set.
        iterator: an iterator over the elements of `data`.
    """

    def __init__(self, data: tf.data.Dataset, iterator: Iterator[Any]) -> None:
        self._data = data
        self._iterator: Iterator[Any] | None = iterator
        super().__init__(data._variant_tensor)  # other functions of tf.data treat it as `data`

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._data]

    @property
    def element_spec(self) -> Any:
        """The `element_spec` of the data set."""
        return self._data.element_spec

    def __iter__(self) -> Iterator[Any]:
        iterator, self._iterator = self._iterator, None
        return iter(self._data) if iterator is None else iterator


def caches_of(data: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns all `Dataset.cache` steps in the pipeline of a data set."""
    own = [data] if type(data).__name__ == "CacheDataset" else []
    return own + [cache for each in data._inputs() for cache in caches_of(each)]


def first_of_replicas(values: Any) -> Any:
    """Returns the part of the first replica in an element of a distributed data set."""
    return tf.nest.map_structure(lambda value: getattr(value, "values", (value,))[0], values)


def without_tracing_warning(function: Any) -> Any:
    """Returns a `tf.function` without TensorFlow's warning about frequent tracing."""
    function._omit_frequent_tracing_warning = True
    return function


# Models.


def traced_for_xla() -> bool:
    """Returns whether a function is being traced that XLA will compile: with `jit_compile=True`, or for a TPU."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the strategy has replicas in several processes that run the same program."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and bool(
        strategy.cluster_resolver.cluster_spec().jobs
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process must write the files of a run: it is the only process, or the first of several."""
    if not is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


class KerasModel(keras.Model):
    """A `keras.Model` that several replicas and workers can train.

    A step here may log only some metrics of the model. Under a strategy, Keras would then log the mean of the results
    of the replicas, whatever their numbers of examples. This class logs the results over all examples.
    """

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss and other metrics. The last entry is Keras's container of the metrics of `compile`."""
        return sorted(super().metrics, key=self.is_container)

    def is_container(self, metric: keras.metrics.Metric) -> bool:
        """Returns whether `metric` is the container of the metrics of `compile`."""
        return metric is self._compile_metrics

    def metrics_by_name(self) -> dict[str, keras.metrics.Metric]:
        """Returns all metrics by name, those of the container one by one."""
        nested = [metric.metrics if self.is_container(metric) else [metric] for metric in self.metrics]
        return {metric.name: metric for metrics in nested for metric in metrics}

    @property
    def loss_metric(self) -> keras.metrics.Metric:
        """The mean of the loss over an epoch, which Keras logs as "loss"."""
        return self._loss_tracker

    def build_metrics(self) -> None:
        """Builds the metrics of `compile`, so that callbacks find them before the first step."""
        self._compile_metrics.build(tf.zeros((1,)), tf.zeros((1, 2)))

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns the names that a step logged, with the results of their metrics over all steps and replicas."""
        metrics = self.metrics_by_name()
        return {name: metrics[name].result() if name in metrics else value for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the model from the shapes of the data set's elements.

        Keras itself takes the first batch of an iterator that it then deletes. `tf.data.Dataset.cache` can then lose
        all later batches. With several workers, Keras takes the mean of their batches, with the labels.
        """
        if iterator is not None:
            specs = iterator._distributed_dataset.element_spec  # one spec per replica, all equal
            data_batch = tf.nest.map_structure(lambda spec: tf.nest.flatten(spec, expand_composites=True)[0], specs)
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns the function of a training or test step. With several workers, its results get a first axis."""
        if not is_multi_worker(self.distribute_strategy):
            return super()._make_function(step_function)
        return super()._make_function(lambda data: tf.nest.map_structure(lambda v: v[None], step_function(data)))
