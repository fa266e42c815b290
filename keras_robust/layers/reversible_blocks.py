"""Residual blocks whose activations are recomputed in the backward pass instead of being stored."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.execution import custom_gradient, full_precision
from keras_robust.core.keras_private import flatten_layers
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers.pass_settings import remember_settings


@keras.saving.register_keras_serializable(PACKAGE)
class ReversibleBlocks(keras.layers.Layer):
    """Reversible residual blocks, one after the other (Gomez et al., 2017, section 3).

    A block maps the two halves of the channels, x1 and x2, to

        y1 = x1 + f(x2),    y2 = x2 + g(y1),

    so x2 = y2 - g(y1) and x1 = y1 - f(x2) can be computed from its output. The backward pass does this block by block,
    and computes the activations inside f and g a second time. Only the output of the last block is stored, however many
    blocks there are. Each gradient therefore costs one more forward pass. Statistics of batch normalisation change only
    in the forward pass.

    Measured in training steps on CPU (tests/architectures/test_revnet_memory.py): the activations of a 32x32 image take
    1.32 MB in RevNet-38 and in RevNet-110 of the same width. Stored, they would take 3.47 and 9.32 MB. Under XLA, those
    of a 16x16 image take 0.24 and 0.24 MB instead of 0.76 and 2.14 MB.

    The halves are float32 whatever the precision of f and g, because the recomputed values are only as exact as the
    halves.

    Args:
        functions: f and g of the first block, f and g of the second block, and so on: built layers or models that keep
            the shape of their input, (batch, ..., channels / 2), and share no variables.
        recompute: False stores the activations, as other layers do. The numbers are the same; it is faster and needs
            more memory.
        name: name of the layer.
        **kwargs: arguments of `keras.Layer`.

    Raises:
        ValueError: if `functions` is not an even number of built Keras layers with separate variables, or the number of
            channels is odd.
    """

    def __init__(
        self, functions: Sequence[keras.Layer], recompute: bool = True, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name=name, autocast=False, **{"dtype": full_precision(), **kwargs})
        _check_functions(functions)
        self.functions = list(functions)
        self.recompute = recompute

    def build(self, input_shape: Any) -> None:
        """Checks that the number of channels is even."""
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(f"Reversible blocks need an even number of channels. Received: input_shape={input_shape}")
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the output of the last block, float32 of the shape of `inputs`."""
        x = tf.cast(inputs, self.variable_dtype)
        return self._recomputing(x, training) if self.recompute else self._forward(x, training)

    def _recomputing(self, x: Tensor, training: bool | None) -> Tensor:
        """Returns the output, with the gradient of `_backward`, and updates the statistics."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        updated: list[keras.Variable] = []
        as_in_this_call = remember_settings(self)

        # A custom gradient knows only arguments and results, so variables are arguments and new values are results.
        @custom_gradient
        def run(x: Tensor, *values: Tensor) -> Any:
            with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
                y = self._forward(x, training)
            news = [scope.get_current_value(variable) for variable in variables]
            changed = [index for index, new in enumerate(news) if new is not values[index]]
            updated.extend(variables[index] for index in changed)

            def backward(dy: Tensor, *_: Tensor) -> list[Tensor | None]:
                with as_in_this_call(), keras.StatelessScope(list(zip(variables, values, strict=True))):
                    dx, gradients = self._backward(y, dy, training)
                return [dx, *(gradients.get(id(variable)) for variable in variables)]

            return (y, *(news[index] for index in changed)), backward

        y, *news = run(x, *(tf.convert_to_tensor(variable.value) for variable in variables))
        for variable, new in zip(updated, news, strict=True):
            variable.assign(new)
        return y

    def _forward(self, x: Tensor, training: bool | None) -> Tensor:
        x1, x2 = tf.split(x, 2, axis=-1)
        for f, g in self._blocks():
            x1 += tf.cast(f(x2, training=training), x.dtype)
            x2 += tf.cast(g(x1, training=training), x.dtype)
        return tf.concat([x1, x2], axis=-1)

    def _backward(self, y: Tensor, dy: Tensor, training: bool | None) -> tuple[Tensor, dict[int, Tensor | None]]:
        """Returns the gradients of the input and, by id, of the variables (algorithm 1 of the paper)."""
        gradients: dict[int, Tensor | None] = {}

        def differentiate(function: keras.Layer, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
            weights = function.trainable_variables
            values = [weight.value for weight in weights]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([x, *values])
                result = tf.cast(function(x, training=training), x.dtype)
            dx, *of_weights = tape.gradient(result, [x, *values], dy)
            gradients.update(zip(map(id, weights), of_weights, strict=True))
            return result, dx

        (y1, y2), (dy1, dy2) = tf.split(y, 2, axis=-1), tf.split(dy, 2, axis=-1)
        for f, g in reversed(self._blocks()):
            y1, y2 = _not_before(dy2, [y1, y2])
            g_of_y1, through_g = differentiate(g, y1, dy2)
            dy1 += through_g
            x2 = y2 - g_of_y1
            f_of_x2, through_f = differentiate(f, x2, dy1)
            y1, y2, dy2 = y1 - f_of_x2, x2, dy2 + through_f
        return tf.concat([dy1, dy2], axis=-1), gradients

    def _blocks(self) -> list[tuple[keras.Layer, keras.Layer]]:
        return list(zip(self.functions[::2], self.functions[1::2], strict=True))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`."""
        return input_shape

    def with_functions(self, functions: Sequence[keras.Layer]) -> "ReversibleBlocks":
        """Returns a copy of this layer with other functions."""
        config = {name: value for name, value in self.get_config().items() if name != "functions"}
        return ReversibleBlocks(functions, **config)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the layer."""
        functions = [keras.saving.serialize_keras_object(function) for function in self.functions]
        return {**super().get_config(), "functions": functions, "recompute": self.recompute}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ReversibleBlocks":
        """Builds the layer that `get_config` described."""
        functions = [keras.saving.deserialize_keras_object(function) for function in config["functions"]]
        return cls(**{**config, "functions": functions})


@contextlib.contextmanager
def stored_activations(classifier: keras.Layer) -> Iterator[None]:
    """Makes the reversible blocks of `classifier` that are called inside store their activations.

    A SavedModel then consists of TensorFlow's own operations, and users who load it can differentiate it.
    """
    layers = [each for each in flatten_layers(classifier) if isinstance(each, ReversibleBlocks) and each.recompute]
    for layer in layers:
        layer.recompute = False
    try:
        yield
    finally:
        for layer in layers:
            layer.recompute = True


def _not_before(first: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Returns `tensors`, but not before `first` is computed.

    Without this, all blocks could be recomputed before the first gradient arrives, and be in memory together. XLA
    ignores control dependencies, so the tensors are divided by a 1 that XLA cannot simplify, much as in
    `tf.recompute_grad`. XLA does not repeat a division. It did repeat a sum: it recomputed the output of one block in
    each of the next ones, and kept everything for it.
    """
    truth = tf.cast(tf.reduce_max(tf.reshape(first, [-1])[:1]), tf.bool)  # also of an empty batch
    one = tf.where(truth == truth, tf.ones((), first.dtype), tf.constant(math.nan, first.dtype))
    return [tensor / one for tensor in tensors]


def _check_functions(functions: Any) -> None:
    are_layers = all(isinstance(function, keras.Layer) and function.built for function in functions)
    if len(functions) == 0 or len(functions) % 2 or not are_layers:
        raise ValueError(f"functions must be an even number of built Keras layers. Received: functions={functions!r}")
    variables = [id(variable) for function in functions for variable in function.variables]
    if len(set(variables)) != len(variables):
        raise ValueError(f"functions must not share variables. Received: functions={functions!r}")
