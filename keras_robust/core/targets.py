"""Which class a targeted attack aims at."""

from typing import Any

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.labels import as_sparse
from keras_robust.core.seeds import Tensor


def random_target(labels: Tensor, num_classes: int, seed: Tensor) -> Tensor:
    """Draws int32 (batch,) uniformly from the classes other than the label (Xie & Yuille, 2020, their code)."""
    label = as_sparse(labels)
    return (label + 1 + seeds.integers(tf.shape(label), seed, num_classes - 1)) % num_classes


def random_any_target(labels: Tensor, num_classes: int, seed: Tensor) -> Tensor:
    """Draws int32 (batch,) uniformly from all classes, the label included (the code of Kannan et al., 2018)."""
    return seeds.integers(tf.shape(as_sparse(labels)), seed, num_classes)


def least_likely_target(clean_logits: Tensor) -> Tensor:
    """Returns int32 (batch,): the class with the smallest logit of the clean image (Kurakin et al., 2017)."""
    return tf.argmin(clean_logits, axis=1, output_type=tf.int32)


TARGETS = {
    "untargeted": "away from the label",
    "untargeted_from_prediction": "away from the class predicted for the clean image (the code of Kannan et al., 2018)",
    "random": "towards a random wrong class",
    "random_any": "towards a random class, which may be the label (the code of Kannan et al., 2018)",
    "least_likely": "towards the class least likely for the clean image",
    "given": "towards the `targets` passed to the attack",
}
"""Names that an attack's `target` can have."""

NEEDS_CLEAN_LOGITS = frozenset({"untargeted_from_prediction", "random", "random_any", "least_likely"})
"""Targets for which the clean image is classified first (the random ones learn the number of classes from it)."""


def check_target(target: Any) -> None:
    """Raises `ValueError` unless `target` is one of the names in `TARGETS`."""
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(
            f"target is one of {sorted(TARGETS)}. Received: target={target!r} of type {type(target).__name__}"
        )


def choose_goal_classes(
    target: str, labels: Tensor, clean_logits: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Returns (labels to leave, targets to reach or None) for a `target` of `TARGETS` other than "given".

    Args:
        target: a name.
        labels: sparse (batch,) or one-hot (batch, classes).
        clean_logits: (batch, classes), needed for the names in `NEEDS_CLEAN_LOGITS`.
        seed: int32 tensor of shape (2,), for the random targets.
    """
    if target == "untargeted":
        return labels, None
    if clean_logits is None:
        raise ValueError(f"target={target!r} needs the logits of the clean images. Received: clean_logits=None")
    if target == "untargeted_from_prediction":
        return tf.argmax(clean_logits, axis=1, output_type=tf.int32), None
    num_classes = clean_logits.shape[1]
    if target == "random":
        return labels, random_target(labels, num_classes, seed)
    if target == "random_any":
        return labels, random_any_target(labels, num_classes, seed)
    return labels, least_likely_target(clean_logits)
