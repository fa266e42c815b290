"""Losses and metrics are on logits: what one does to logits and to their softmax shows whether it is."""

import concurrent.futures
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

EXAMPLES, CLASSES = 64, 10
"""Of each draw of a probe; as many classes as the classifier has, where that is known."""

DRAWS = ((0.1, 8.0), (0.1, 2.0), (0.5, 1.0), (2.0, 1.0))
"""Scale of the logits, and by how much (before that) the label's is raised: from [0, 1] to far outside of it."""


SEEN_BY_NAME: dict[Any, str] = {
    keras.metrics.Accuracy: "predicted labels for its input: the name 'accuracy' stands for the right metric",
    **dict.fromkeys(
        (keras.losses.Dice, keras.losses.dice, keras.losses.Tversky, keras.losses.tversky),
        "sums of probabilities in it",
    ),
}
"""What takes logits for something else without a trace in its values."""


def why_on_probabilities(function: Any, classes: int | None = None) -> str | None:
    """Returns by what a loss or metric is seen to take its input for probabilities, or None where it is right.

    What has an option `from_logits` is judged by it. Anything else is called on random logits z of random labels, and
    takes them for probabilities if it fails on z, or is not finite there, but not on softmax(z); or if it makes no
    difference between z and z cut at 0 from below, or at 1 from above, as thresholds of 0.5 and clipped logarithms do.
    It is right whatever it makes of the cut ones if it gives the same for z and softmax(z) (it looks at ranks), for z
    shifted by a number per example (it is a function of logits up to a constant), or for z times a positive number
    (it looks at signs). What cannot be called on such labels is taken to be right.

    Args:
        function: a `keras.losses.Loss`, a `keras.metrics.Metric`, or a function of labels and outputs.
        classes: of the labels, where they are known.
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
    with concurrent.futures.ThreadPoolExecutor(1) as outside_of_the_strategy:  # where metrics can be updated
        return outside_of_the_strategy.submit(_probe, function, classes).result()


def raise_value_error(message: str) -> None:
    """Raises the error."""
    raise ValueError(message)


def warn(message: str) -> None:
    """Warns instead: of files of before that hold what is refused now."""
    warnings.warn(message, stacklevel=2)


def copy_of(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a metric of its own that computes the same, and is better where the first one is."""
    if type(metric) is keras.metrics.MeanMetricWrapper:  # its config would need the function registered
        copy = keras.metrics.MeanMetricWrapper(metric._fn, name=name, dtype=metric.dtype, **metric._fn_kwargs)
    else:
        copy = type(metric).from_config({**metric.get_config(), "name": name})
    if hasattr(metric, "_direction"):  # Keras's: what callbacks with mode="auto" go by
        copy._direction = metric._direction
    return copy


def _option_from_logits(function: Any) -> bool | None:
    """Returns the option, or None where there is none."""
    options: dict[str, Any] = {}
    if type(function) is keras.metrics.MeanMetricWrapper:
        function, options = function._fn, function._fn_kwargs
    if isinstance(function, keras.losses.Loss | keras.metrics.Metric):
        try:
            return function.get_config().get("from_logits")
        except NotImplementedError:  # a class of a user's own
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
    """Returns by what it is seen, or None; also where it cannot be called on these labels."""

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
    """Returns what it makes of each draw, as one row, or None where it fails."""
    call: Callable[..., Any] = function
    if isinstance(function, keras.metrics.Metric):
        call = lambda y, z: _updated(function, y, z)  # noqa: E731
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [call(tf.constant(y), tf.constant(z)) for y, z in zip(labels, outputs, strict=True)]
        return np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in tf.nest.flatten(results)])
    except Exception:  # whatever a function of a user's own may raise
        return None


def _updated(metric: keras.metrics.Metric, labels: tf.Tensor, outputs: tf.Tensor) -> Any:
    copy = copy_of(metric, metric.name)
    copy.update_state(labels, outputs)
    return copy.result()
