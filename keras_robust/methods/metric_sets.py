"""The metrics of a robust model, twice: once for clean images, once for attacked ones."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.objectives import as_sparse
from keras_robust.core.seeds import Tensor
from keras_robust.methods.on_logits import copy_of, raise_value_error, why_on_probabilities

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
        classes: of the classifier, where they are known.
        refuse: what happens to a metric that takes logits for probabilities; it is called with a message.

    Raises:
        ValueError: if they are not lists, or one takes logits for probabilities or is no metric of labels and logits.
    """

    def __init__(
        self,
        metrics: Sequence[Any] | None,
        weighted_metrics: Sequence[Any] | None,
        classes: int | None = None,
        refuse: Callable[[str], None] = raise_value_error,
    ) -> None:
        for name, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            if value is not None and not isinstance(value, list | tuple):
                raise ValueError(f"{name} is a list, as the model has one output. Received: {name}={value!r}")
        self.arguments = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        plain, weighted = (
            [_as_metric(metric, classes, refuse) for metric in given or ()] for given in (metrics, weighted_metrics)
        )
        names = {metric.name for metric in plain}
        weighted = [copy_of(m, WEIGHTED_PREFIX + m.name) if m.name in names else m for m in weighted]
        self.clean = [(metric, False) for metric in plain] + [(metric, True) for metric in weighted]
        self.robust = [(copy_of(m, ROBUST_PREFIX + m.name), is_weighted) for m, is_weighted in self.clean]

    @property
    def plain(self) -> list[keras.metrics.Metric]:
        """The metric objects without sample weights, clean before robust."""
        return [metric for metric, is_weighted in (*self.clean, *self.robust) if not is_weighted]

    @property
    def weighted(self) -> list[keras.metrics.Metric]:
        """The metric objects with sample weights, clean before robust."""
        return [metric for metric, is_weighted in (*self.clean, *self.robust) if is_weighted]

    @staticmethod
    def update(
        metrics: list[tuple[keras.metrics.Metric, bool]], labels: Tensor, logits: Tensor, sample_weight: Tensor | None
    ) -> dict[str, Tensor]:
        """Updates one of the two sets and returns its results by name."""
        for metric, is_weighted in metrics:
            metric.update_state(labels, logits, sample_weight=sample_weight if is_weighted else None)
        return {metric.name: metric.result() for metric, _ in metrics}


def _as_metric(metric: Any, classes: int | None, refuse: Callable[[str], None]) -> keras.metrics.Metric:
    """Returns a `Metric` from one, from its name, or from a function of labels and logits."""
    if metric in ("accuracy", "acc"):
        accuracy = keras.metrics.MeanMetricWrapper(label_accuracy, name=metric)
        accuracy._direction = "up"  # as Keras's own have it: what callbacks with mode="auto" go by
        return accuracy
    if metric in ("crossentropy", "ce"):  # Keras's names for whichever cross-entropy fits; of probabilities
        metric = "sparse_categorical_crossentropy"
    resolved = keras.metrics.get(metric)
    reason = why_on_probabilities(resolved, classes)
    if reason is not None:
        refuse(
            "Metrics take logits. Instead of one on probabilities pass it with from_logits=True where it has that "
            "option, e.g. keras.metrics.SparseCategoricalCrossentropy(from_logits=True); or one that goes by the "
            "largest logits, such as 'accuracy', Precision(top_k=1) or F1Score(threshold=None); or a function of "
            "(labels, logits) that begins with a softmax. "
            f"Received: metric {metric!r} with {reason}"
        )
    if isinstance(resolved, keras.metrics.Metric):
        _check_signature(resolved)
        return resolved
    name = metric if isinstance(metric, str) else getattr(resolved, "__name__", type(resolved).__name__)
    return keras.metrics.MeanMetricWrapper(resolved, name=name)


def _check_signature(metric: keras.metrics.Metric) -> None:
    try:
        inspect.signature(metric.update_state).bind(None, None, sample_weight=None)
    except TypeError as error:
        raise ValueError(
            "A metric is updated with labels, logits and sample_weight. "
            f"Received: metric {metric!r}, whose update_state has other arguments: {error}"
        ) from error
