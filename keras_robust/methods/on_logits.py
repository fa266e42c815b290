"""Losses and metrics are on logits."""

import inspect
from typing import Any

import keras


def takes_probabilities(function: Any, **options: Any) -> bool:
    """Returns whether a loss or metric, an object or a function, is known to take its input for probabilities.

    Args:
        function: of labels and outputs.
        **options: with which a function is called.
    """
    if type(function) is keras.metrics.MeanMetricWrapper:
        return takes_probabilities(function._fn, **function._fn_kwargs)
    if isinstance(function, keras.losses.Loss | keras.metrics.Metric):
        return function.get_config().get("from_logits") is False
    parameters = inspect.signature(function).parameters if callable(function) else {}
    return "from_logits" in parameters and options.get("from_logits", parameters["from_logits"].default) is False
