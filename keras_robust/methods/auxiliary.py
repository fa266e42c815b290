"""Auxiliary logits in a training step: out of the passes, and into the loss."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.layers import AuxiliaryLogits, collect_auxiliary_logits

AUXILIARY = "/auxiliary/"
"""Between the name of a pass and that of a layer."""


def run_with_auxiliary(network: keras.Layer, images: Tensor, training: bool | None) -> tuple[Any, dict[str, Tensor]]:
    """Returns what `network` makes of `images`, and its auxiliary logits in training by a suffix to a pass's name."""
    with collect_auxiliary_logits() as collected:
        outputs = network(images, training=training)
    return outputs, {f"{AUXILIARY}{name}": logits for name, logits in collected.items()}


def with_suffixes(results: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors of all passes by name of the pass plus suffix."""
    return {name + suffix: tensor for name, tensors in results.items() for suffix, tensor in tensors.items()}


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
