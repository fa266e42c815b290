"""The metrics of a robust model, twice: once for clean images, once for attacked ones."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.labels import as_sparse
from keras_robust.core.seeds import Tensor
from keras_robust.methods.on_logits import takes_probabilities

ROBUST_PREFIX, WEIGHTED_PREFIX = "robust_", "weighted_"


def label_accuracy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns 1.0 where the largest logit is that of the label, (batch,); labels are sparse or one-hot."""
    return tf.cast(tf.equal(as_sparse(labels), tf.argmax(logits, axis=1, output_type=tf.int32)), tf.float32)


class MetricSets:
    """Clean and robust metrics made from what a user passes to `compile`.

    Args:
        metrics: names, functions or `keras.metrics.Metric` objects, updated without sample weights.
        weighted_metrics: likewise, updated with sample weights; with the prefix `weighted_` where one of `metrics` has
            the same name.

    Raises:
        ValueError: if they are not lists, or one takes logits for probabilities.
    """

    def __init__(self, metrics: Sequence[Any] | None, weighted_metrics: Sequence[Any] | None) -> None:
        for name, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            if value is not None and not isinstance(value, list | tuple):
                raise ValueError(f"{name} is a list, as the model has one output. Received: {name}={value!r}")
        self.arguments = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        plain, weighted = ([_as_metric(metric) for metric in given or ()] for given in (metrics, weighted_metrics))
        names = {metric.name for metric in plain}
        weighted = [_renamed(m, WEIGHTED_PREFIX + m.name) if m.name in names else m for m in weighted]
        self.clean = [(metric, False) for metric in plain] + [(metric, True) for metric in weighted]
        self.robust = [(_renamed(m, ROBUST_PREFIX + m.name), is_weighted) for m, is_weighted in self.clean]

    @property
    def all(self) -> list[keras.metrics.Metric]:
        """All metric objects, clean before robust."""
        return [metric for metric, _ in (*self.clean, *self.robust)]

    @staticmethod
    def update(
        metrics: list[tuple[keras.metrics.Metric, bool]], labels: Tensor, logits: Tensor, sample_weight: Tensor | None
    ) -> dict[str, Tensor]:
        """Updates one of the two sets and returns its results by name."""
        for metric, is_weighted in metrics:
            metric.update_state(labels, logits, sample_weight=sample_weight if is_weighted else None)
        return {metric.name: metric.result() for metric, _ in metrics}


def _as_metric(metric: Any) -> keras.metrics.Metric:
    """Returns a `Metric` from one, from its name, or from a function of labels and logits."""
    if metric in ("accuracy", "acc"):
        return keras.metrics.MeanMetricWrapper(label_accuracy, name=metric)
    resolved = keras.metrics.get(metric)
    if takes_probabilities(resolved):
        raise ValueError(
            "Metrics take logits, e.g. keras.metrics.SparseCategoricalCrossentropy(from_logits=True). "
            f"Received: metric {metric!r} with from_logits=False"
        )
    if isinstance(resolved, keras.metrics.Metric):
        return resolved
    name = metric if isinstance(metric, str) else resolved.__name__
    return keras.metrics.MeanMetricWrapper(resolved, name=name)


def _renamed(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a metric of its own that computes the same."""
    if type(metric) is keras.metrics.MeanMetricWrapper:  # its config would need the function registered
        return keras.metrics.MeanMetricWrapper(metric._fn, name=name, dtype=metric.dtype, **metric._fn_kwargs)
    return type(metric).from_config({**metric.get_config(), "name": name})
