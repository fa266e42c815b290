"""`fit` under a strategy, where Keras 3 fails: the one file that leans on Keras's private parts.

Under any strategy Keras logs metrics over all replicas only where a step logs all metrics of the model; otherwise it
averages what each replica computed by itself, however few examples that had. Steps here log what they have seen.

Keras 3 does not support `tf.distribute.MultiWorkerMirroredStrategy` (https://github.com/keras-team/keras/issues/20585).
Two places break: before the first step it averages a whole batch, labels too, over all workers (see
`MultiWorkerModel._maybe_symbolic_build`); and after each step it averages the metrics, which are scalars, over their
first axis.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the strategy has replicas in other processes, which do the same."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and bool(
        strategy.cluster_resolver.cluster_spec().jobs
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes the files of a run: any but the further ones of several."""
    if not is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


class MultiWorkerModel(keras.Model):
    """A model that several replicas and workers can train; by one it is trained as any other."""

    def is_container(self, metric: keras.metrics.Metric) -> bool:
        """Returns whether it is the one of `self.metrics` that holds those of `compile`; callbacks look for it."""
        return metric is self._compile_metrics

    def metrics_by_name(self) -> dict[str, keras.metrics.Metric]:
        """Returns the metrics one by one."""
        nested = [metric.metrics if self.is_container(metric) else [metric] for metric in self.metrics]
        return {metric.name: metric for metrics in nested for metric in metrics}

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
