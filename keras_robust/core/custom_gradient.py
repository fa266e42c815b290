"""`tf.custom_gradient` whose graphs are freed.

TensorFlow registers the gradient of each function that is traced with `tf.custom_gradient` under a name of its own, for
the life of the process. What is registered holds the results of the function, and so the whole graph around them: some
megabytes for each attack that is compiled. Here it finds results and gradient through the graph, which it does not keep
alive.
"""

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robust.core.seeds import Tensor

GRADIENTS = "_keras_robust_gradients"
"""Attribute of a graph: the gradient functions of its custom gradients."""


class GraphTensor:
    """A tensor of a graph, found by its name; the graph is not kept alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._graph, self._name = weakref.ref(tensor.graph), tensor.name

    @property
    def graph(self) -> Any:
        """The graph, or None where it is gone."""
        return self._graph()

    def to_tensor(self, dtype: Any = None, name: Any = None, as_ref: bool = False) -> Tensor:
        """Returns the tensor itself."""
        del dtype, name, as_ref
        return self.graph.get_tensor_by_name(self._name)


tf.register_tensor_conversion_function(GraphTensor, GraphTensor.to_tensor)


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `tf.custom_gradient(function)`, of which nothing but a name remains when a graph that uses it is gone.

    Args:
        function: maps tensors to (results, gradient), as for `tf.custom_gradient`: `results` is a tensor or a tuple of
            tensors, `gradient` maps their gradients to those of the arguments. It uses no variables but through its
            arguments.
    """

    def run(*arguments: Tensor) -> Any:
        results, gradient = function(*arguments)
        if tf.executing_eagerly():
            return results, gradient
        graph = weakref.ref(tf.compat.v1.get_default_graph())
        gradients = getattr(graph(), GRADIENTS, ())
        setattr(graph(), GRADIENTS, (*gradients, gradient))
        return tf.nest.map_structure(GraphTensor, results), _find_gradient(graph, len(gradients))

    return tf.custom_gradient(run)


def _find_gradient(graph: Callable[[], Any], number: int) -> Callable[..., Any]:
    """Returns the gradient of that number in a graph, which is given by a weak reference."""
    return lambda *upstream: getattr(graph(), GRADIENTS)[number](*upstream)
