"""Looking into classifiers."""

from typing import Any

import keras


def check_functional(classifier: Any) -> None:
    """Raises `ValueError` unless `classifier` is a functional or sequential model with a known input shape.

    Only these can be looked into and copied layer by layer.
    """
    try:
        inputs = classifier.inputs if isinstance(classifier, keras.Model) else None
    except (AttributeError, ValueError):  # a sequential model without an input shape, a subclassed model
        inputs = None
    if not inputs:
        raise ValueError(
            "classifier is a functional or sequential model with a known input shape. "
            f"Received: classifier={classifier!r} of type {type(classifier).__name__}"
        )
