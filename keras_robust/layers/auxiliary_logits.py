"""Logits from the middle of a network, for the loss in training alone."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras

from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

_collected: contextvars.ContextVar[dict[str, Tensor] | None] = contextvars.ContextVar("collected", default=None)


@keras.saving.register_keras_serializable(PACKAGE)
class AuxiliaryLogits(keras.layers.Layer):
    """Returns logits, and keeps auxiliary ones for the loss of a training step (Szegedy et al., 2016, section 4).

        logits = AuxiliaryLogits(weight=0.4)([logits, auxiliary])
        classifier = keras.Model(images, logits)

    A `RobustModel` adds `weight` times its compiled loss on the auxiliary logits to the loss of each step. So the
    classifier has one output, and attacks, evaluation and export know nothing of the others.

    Args:
        weight: at least 0.
        **kwargs: of `keras.Layer`.

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
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "weight": self.weight}


@contextlib.contextmanager
def collect_auxiliary_logits() -> Iterator[dict[str, Tensor]]:
    """Yields a dict to which each `AuxiliaryLogits` that is called inside in training adds its logits, by its name."""
    collected: dict[str, Tensor] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def auxiliary_layers(classifier: keras.Layer) -> list[AuxiliaryLogits]:
    """Returns the `AuxiliaryLogits` in `classifier`."""
    return [layer for layer in classifier._flatten_layers() if isinstance(layer, AuxiliaryLogits)]
