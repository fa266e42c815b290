"""Loss and metrics of a robust model: all must take logits, and each metric exists for clean and for attacked images.

To find out whether a function takes logits, it is called on random logits and on their softmax.
"""

import concurrent.futures
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.checks import ONE_LOGIT
from keras_robust.core.keras_private import copy_metric, set_direction, wrapped_function
from keras_robust.core.objectives import label_accuracy

EXAMPLES, CLASSES = 64, 10
"""Size of each draw of random logits. If the number of classes of the classifier is known, it is used instead."""

DRAWS = ((0.1, 8.0), (0.1, 2.0), (0.5, 1.0), (2.0, 1.0))
"""For each draw, the scale of the logits, and by how much the logit of the label is raised before it is scaled.

The values of the first draw are in or near [0, 1], those of the last one far outside.
"""


SEEN_BY_NAME: dict[Any, str] = {
    keras.metrics.Accuracy: "predicted labels for its input: the name 'accuracy' stands for the right metric",
    **dict.fromkeys(
        (keras.losses.Dice, keras.losses.dice, keras.losses.Tversky, keras.losses.tversky),
        "sums of probabilities in it",
    ),
}
"""Losses and metrics that do not take logits although their values do not show it, each with the reason."""


def why_on_probabilities(function: Any, classes: int | None = None) -> str | None:
    """Returns why a loss or metric must be one that expects probabilities, or None if it takes logits.

    If the function has an option `from_logits`, this option decides. Otherwise the function is called on random labels
    and random logits z. It expects probabilities in either of two cases:

    - It fails on z or returns a value that is not finite, but it works on softmax(z).
    - It returns the same for z and for z cut off below 0, or above 1, as thresholds of 0.5 and clipped logarithms do.

    The second case does not count if the function returns the same for z and softmax(z) (it uses ranks), for z plus a
    number per example (it uses logits up to a constant), or for z times a positive number (it uses signs). A function
    that cannot be called on such labels passes.

    Args:
        function: a `keras.losses.Loss`, a `keras.metrics.Metric`, or a function of labels and outputs.
        classes: number of classes, if it is known.
    """
    from_logits = _option_from_logits(function)
    if from_logits is not None:
        return None if from_logits else "from_logits=False"
    for known, reason in SEEN_BY_NAME.items():
        if function is known or (isinstance(known, type) and isinstance(function, known)):
            return reason
    if getattr(function, "sparse_y_pred", False) and not hasattr(function, "threshold"):  # intersection over union
        return "sparse_y_pred=True"
    if not tf.distribute.has_strategy():
        return _probe(function, classes)
    # Metrics cannot be updated in the scope of a strategy. Another thread is outside of it.
    with concurrent.futures.ThreadPoolExecutor(1) as outside_of_the_strategy:
        return outside_of_the_strategy.submit(_probe, function, classes).result()


def raise_value_error(message: str) -> None:
    """Raises a `ValueError` with this message."""
    raise ValueError(message)


def warn(message: str) -> None:
    """Warns instead of raising an error: older files may hold a loss or metric that is an error today."""
    warnings.warn(message, stacklevel=2)


def _option_from_logits(function: Any) -> bool | None:
    """Returns the option `from_logits`, or None if there is no such option."""
    options: dict[str, Any] = {}
    wrapped = wrapped_function(function)
    if wrapped is not None:
        function, options = wrapped
    if isinstance(function, keras.losses.Loss | keras.metrics.Metric):
        try:
            return function.get_config().get("from_logits")
        except NotImplementedError:  # a user's class without `get_config`
            return None
    parameters = inspect.signature(function).parameters if callable(function) else {}
    if "from_logits" not in parameters:
        return None
    return bool(options.get("from_logits", parameters["from_logits"].default))


def _probe(function: Any, classes: int | None) -> str | None:
    classes = classes or getattr(function, "num_classes", None) or CLASSES
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, (len(DRAWS), EXAMPLES))
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    scale, raised = np.array(DRAWS, np.float32).T[:, :, None, None]
    logits = scale * (2.0 * rng.normal(size=one_hot.shape) + raised * one_hot).astype(np.float32)
    shift = rng.uniform(-3.0, 3.0, (len(DRAWS), EXAMPLES, 1)).astype(np.float32)
    return _reason(function, labels, logits, shift) or _reason(function, one_hot, logits, shift)


def _reason(function: Any, labels: np.ndarray, logits: np.ndarray, shift: np.ndarray) -> str | None:
    """Returns the reason as `why_on_probabilities` does, or None, also if the function cannot be called."""

    def value(outputs: np.ndarray) -> np.ndarray | None:
        return _value(function, labels, outputs)

    def is_same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
        return one is not None and two is not None and one.shape == two.shape and np.allclose(one, two, 1e-3, 1e-6)

    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    of_softmax, of_logits = value(softmax), value(logits)
    if of_softmax is None or not np.isfinite(of_softmax).all():
        return None
    if of_logits is None:
        return "an error on values outside of [0, 1]"
    if not np.isfinite(of_logits).all():
        return "no finite result on values outside of [0, 1]"
    low, high = logits - 5.0, logits + 5.0
    of_low, of_high = value(low), value(high)
    if is_same(of_logits, of_softmax):
        return None
    if all(is_same(of_logits, each) for each in (of_low, of_high, value(logits + shift))):
        return None
    if all(is_same(r, value(scale * z)) for z, r in ((logits, of_logits), (high, of_high)) for scale in (0.2, 5.0)):
        return None
    for cut, other, of_other in ((_from_below, low, of_low), (_from_above, high, of_high)):
        if is_same(of_logits, value(cut(logits))) and is_same(of_other, value(cut(other))):
            return "the same result for values outside of [0, 1] as for the nearest ones inside"
    return None


def _from_below(outputs: np.ndarray) -> np.ndarray:
    return np.maximum(outputs, 0.0)


def _from_above(outputs: np.ndarray) -> np.ndarray:
    return np.minimum(outputs, 1.0)


def _value(function: Any, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:
    """Returns the results of all draws as one row, or None if the function raises an error."""
    call: Callable[..., Any] = function
    if isinstance(function, keras.metrics.Metric):
        call = lambda y, z: _updated(function, y, z)  # noqa: E731
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [call(tf.constant(y), tf.constant(z)) for y, z in zip(labels, outputs, strict=True)]
        return np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in tf.nest.flatten(results)])
    except Exception:  # a user's function may raise anything
        return None


def _updated(metric: keras.metrics.Metric, labels: tf.Tensor, outputs: tf.Tensor) -> Any:
    copy = copy_metric(metric, metric.name)
    copy.update_state(labels, outputs)
    return copy.result()


ROBUST_PREFIX, WEIGHTED_PREFIX = "robust_", "weighted_"


class MetricSets:
    """The clean and the robust metrics, made from the arguments of `compile`.

    Args:
        metrics: names, functions or `keras.metrics.Metric` objects, which are updated without sample weights.
        weighted_metrics: the same, but updated with sample weights. A metric with the same name as one of `metrics`
            gets the prefix `weighted_`.
        classes: number of classes of the classifier, if it is known.
        refuse: function that is called with a message if a metric expects probabilities.

    Raises:
        ValueError: if `metrics` or `weighted_metrics` is not a list, a metric expects probabilities, or a metric is not
            updated with labels, outputs and sample weights.
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
                raise ValueError(f"{name} must be a list, because the model has one output. Received: {name}={value!r}")
        self.arguments = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        plain, weighted = (
            [_as_metric(metric, classes, refuse) for metric in given or ()] for given in (metrics, weighted_metrics)
        )
        names = {metric.name for metric in plain}
        weighted = [copy_metric(m, WEIGHTED_PREFIX + m.name) if m.name in names else m for m in weighted]
        self.clean = [(metric, False) for metric in plain] + [(metric, True) for metric in weighted]
        self.robust = [(copy_metric(m, ROBUST_PREFIX + m.name), is_weighted) for m, is_weighted in self.clean]

    @property
    def plain(self) -> list[keras.metrics.Metric]:
        """The metric objects without sample weights, clean before robust."""
        return [metric for metric, is_weighted in (*self.clean, *self.robust) if not is_weighted]

    @property
    def weighted(self) -> list[keras.metrics.Metric]:
        """The metric objects with sample weights, clean before robust."""
        return [metric for metric, is_weighted in (*self.clean, *self.robust) if is_weighted]


def _as_metric(metric: Any, classes: int | None, refuse: Callable[[str], None]) -> keras.metrics.Metric:
    """Returns a `Metric` for a metric, a name, or a function of labels and logits."""
    if metric in ("accuracy", "acc"):
        accuracy = keras.metrics.MeanMetricWrapper(label_accuracy, name=metric)
        set_direction(accuracy, "up")
        return accuracy
    if metric in ("crossentropy", "ce"):  # Keras's names for the cross-entropy that fits the labels: on probabilities
        metric = "sparse_categorical_crossentropy"
    resolved = keras.metrics.get(metric)
    reason = why_on_probabilities(resolved, classes)
    if reason is not None:
        refuse(
            "Metrics must take logits. Instead of a metric on probabilities, use one with from_logits=True, e.g. "
            "keras.metrics.SparseCategoricalCrossentropy(from_logits=True); or one that only looks for the largest "
            "logits, such as 'accuracy', Precision(top_k=1) or F1Score(threshold=None); or a function of (labels, "
            "logits) that begins with a softmax. "
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
            "The update_state of a metric must take labels, logits and sample_weight. "
            f"Received: metric {metric!r}, whose update_state has other arguments: {error}"
        ) from error


def check_loss(loss: Any, classes: int | None, refuse: Callable[[str], None]) -> None:
    """Calls `refuse` with a message if a loss expects probabilities, in any form that Keras accepts."""
    if loss is None:
        raise ValueError(
            "compile needs a loss on logits, e.g. keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
            "Received: loss=None"
        )
    losses = loss if isinstance(loss, list | tuple) else [loss]
    hint = ONE_LOGIT if any(is_binary(each) for each in losses) else ""
    for each in losses:
        if each in ("crossentropy", "ce"):  # Keras's names for the cross-entropy that fits the labels: on probabilities
            reason: str | None = "from_logits=False"
        else:
            reason = why_on_probabilities(keras.losses.get(each) if isinstance(each, str) else each, classes)
        if reason is not None:
            refuse(
                "The loss must take logits, e.g. keras.losses.SparseCategoricalCrossentropy(from_logits=True), or be a "
                "function of (labels, logits) that begins with a softmax. "
                f"{hint}Received: loss={loss!r} with {reason}"
            )


def check_binary_loss(loss: Any, has_class_indices: bool) -> None:
    """Raises `ValueError` if a binary loss of Keras, on one logit per label, is used with class indices.

    With one-hot labels the loss is allowed: it compares each class with all others.
    """
    losses = loss if isinstance(loss, list | tuple) else [loss]
    if has_class_indices and any(is_binary(each) for each in losses):
        raise ValueError(
            "For labels that are class indices, the loss must be SparseCategoricalCrossentropy(from_logits=True). "
            f"{ONE_LOGIT}Received: loss={loss!r}"
        )


def is_binary(loss: Any) -> bool:
    """Returns whether a loss is a binary loss of Keras, on one logit (or probability) per label."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return str(name).lower().replace("_", "") in ("binarycrossentropy", "binaryfocalcrossentropy")
