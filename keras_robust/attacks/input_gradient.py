"""The gradient that attacks climb: that of a classifier in its images."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robust.core.seeds import Tensor


def own_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` as a function of its own in the graph that is being built; eagerly it is left alone.

    TensorFlow on CPU exchanges the gradient of a max-pooling for oneDNN's, which is ten times as fast, if it finds the
    pooling first. Inside a loop, where there is no first, it often does not: then the attack takes 1.5 times as long
    (in 5 of 16 traces of LeNet). A function that is not inlined into the loop's body is without a loop.
    """
    if tf.executing_eagerly():
        return function
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def value_and_gradient(function: Callable[[Tensor], Any], points: Tensor) -> tuple[Any, Tensor]:
    """Returns `function(points)` and the gradient of its first result, summed, of the shape and dtype of `points`.

    Args:
        function: maps images to a value () or (batch,), or to a tuple of it and further tensors; it may use tensors
            from outside.
        points: (batch, ...).

    Raises:
        ValueError: if there is no gradient, as with quantised inputs: an attack would stand still, and seem withstood.
    """

    def run(points: Tensor) -> tuple[Any, Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            results = function(points)
            value = results[0] if isinstance(results, tuple) else results
        return results, check_gradient(tape.gradient(value, points), points)

    return own_function(run)(points)


def check_gradient(gradient: Tensor | None, points: Tensor) -> Tensor:
    """Returns the gradient.

    Raises:
        ValueError: if there is none, as with quantised inputs: an attack would stand still, and seem withstood.
    """
    if gradient is None:
        raise ValueError(
            "Gradient attacks need a classifier that is differentiable in its images; Square and SPSA do not. "
            f"Received: a classifier without a gradient, for images of shape {points.shape}"
        )
    return gradient
