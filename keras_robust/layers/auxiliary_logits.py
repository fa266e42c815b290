"""Logits from the middle of a network, used only in the training loss."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.checks import check_weight
from keras_robust.core.keras_private import flatten_layers
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

AUXILIARY = "/auxiliary/"
"""Between the name of a pass of a training step and that of a layer, in the names of its logits."""

_collected: contextvars.ContextVar[dict[str, Tensor] | None] = contextvars.ContextVar("collected", default=None)


@keras.saving.register_keras_serializable(PACKAGE)
class AuxiliaryLogits(keras.layers.Layer):
    """Returns logits, and keeps auxiliary logits for the loss of a training step (Szegedy et al., 2016, section 4).

        logits = AuxiliaryLogits(weight=0.4)([logits, auxiliary])
        classifier = keras.Model(images, logits)

    A `RobustModel` adds `weight` times its compiled loss on the auxiliary logits to the loss of each step. The
    classifier itself has one output: attacks, evaluation and export do not see the auxiliary logits.

    Args:
        weight: weight of the loss on the auxiliary logits, at least 0.
        **kwargs: arguments of `keras.Layer`.

    Raises:
        ValueError: if `weight` is negative.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_weight("weight", weight)
        self.weight = weight

    def call(self, inputs: list[Tensor], training: bool | None = None) -> Tensor:
        """Returns the first of two tensors of logits, (batch, classes); the second is collected in training."""
        logits, auxiliary = inputs
        collected = _collected.get()
        if training and collected is not None:
            collected[self.name] = auxiliary
        return logits

    def compute_output_spec(self, inputs: list[keras.KerasTensor], training: bool | None = None) -> keras.KerasTensor:
        """Returns the specification of the logits."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the layer."""
        return {**super().get_config(), "weight": self.weight}


@contextlib.contextmanager
def collect_auxiliary_logits() -> Iterator[dict[str, Tensor]]:
    """Yields a dict. Each `AuxiliaryLogits` called inside, in training, adds its logits to it under its name."""
    collected: dict[str, Tensor] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def auxiliary_layers(classifier: keras.Layer) -> list[AuxiliaryLogits]:
    """Returns the `AuxiliaryLogits` in `classifier`."""
    return [layer for layer in flatten_layers(classifier) if isinstance(layer, AuxiliaryLogits)]


def auxiliary_loss(
    layers: Sequence[AuxiliaryLogits],
    loss: Any,
    labels: Tensor,
    logits: dict[str, Tensor],
    sample_weight: Tensor | None,
) -> Tensor | float:
    """Returns the sum over `layers` of their weight times the mean loss of their logits, of all passes together.

    Args:
        layers: of the classifier.
        loss: that the model was compiled with.
        labels: (batch,) or (batch, classes), of the pass with most images; others have the first of them.
        logits: of the passes, with auxiliary ones.
        sample_weight: (batch,) or None.

    Raises:
        ValueError: if there are auxiliary logits, and `loss` is no `keras.losses.Loss`.
    """
    total = 0.0
    for layer in layers:
        heads = [tensor for name, tensor in logits.items() if name.endswith(f"{AUXILIARY}{layer.name}")]
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(f"A classifier with auxiliary logits needs a keras.losses.Loss. Received: loss={loss!r}")

        def of_all_passes(values: Tensor, heads: list[Tensor] = heads) -> Tensor:
            return tf.concat([values[: tf.shape(head)[0]] for head in heads], axis=0)

        weight = None if sample_weight is None else of_all_passes(sample_weight)
        total += layer.weight * loss(of_all_passes(labels), tf.concat(heads, axis=0), weight)
    return total
