"""Functions compiled once each, without a warning of many."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Returns `tf.function(function, autograph=False, **options)`, which does not warn of retracing.

    Each attack and each model has functions of its own, which are traced once or twice. TensorFlow takes those of one
    place in the code for one and the same that is traced again and again, and has no public switch for its warning.
    """
    traced = tf.function(function, autograph=False, **options)
    traced._omit_frequent_tracing_warning = True
    return traced
