"""The gradient that attacks climb: that of a classifier in its images."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robust.core.custom_gradient import custom_gradient
from keras_robust.core.seeds import Tensor

NO_GRADIENT = (
    "Gradient attacks need a classifier that is differentiable in its images. Use an attack without gradients (Square, "
    "SPSA, HopSkipJump), or craft on a differentiable classifier, with `source=` of `evaluate`."
)


def with_whole_gradient(model_fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns the same function of images, whose gradient has the shape of the images where TensorFlow's is a scalar.

    TensorFlow gives code inside `tf.py_function` that is not its own the gradient 0, without a shape.
    """

    @custom_gradient
    def spread(images: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return tf.identity(images), lambda upstream: tf.broadcast_to(upstream, tf.shape(images))

    return lambda images: model_fn(spread(images))


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
        ValueError: if there is no gradient, as with quantised inputs, or it is not of the shape of `points`, as the
            scalar 0 that TensorFlow gives code inside `tf.py_function`: an attack would stand still, and seem
            withstood. Where the shape is known only when it runs, that is a `tf.errors.InvalidArgumentError` at the
            node `differentiable_in_its_images`.
    """

    def run(points: Tensor) -> tuple[Any, Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            results = function(points)
            value = results[0] if isinstance(results, tuple) else results
        return results, check_gradient(tape.gradient(value, points), points)

    return own_function(run)(points)


def check_gradient(gradient: Tensor | None, points: Tensor) -> Tensor:
    """Returns the gradient in `points`.

    Raises:
        ValueError: if there is none, or it is of another shape: see `value_and_gradient`.
    """
    if gradient is None or not gradient.shape.is_compatible_with(points.shape):
        received = "without a gradient" if gradient is None else f"with a gradient of shape {gradient.shape}"
        raise ValueError(f"{NO_GRADIENT} Received: a classifier {received}, for images of shape {points.shape}")
    if gradient.shape.rank is None:  # of tf.py_function in a graph
        gradient = tf.ensure_shape(gradient, points.shape, name="differentiable_in_its_images")
    return gradient
