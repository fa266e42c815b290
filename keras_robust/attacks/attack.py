"""What every attack has in common."""

import copy
from collections.abc import Callable
from typing import Any, Self

import tensorflow as tf

from keras_robust.core import ThreatModel
from keras_robust.core.precision import resolve_compute_dtype
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import Serializable

ModelFn = Callable[[Tensor], Tensor]
"""Maps images (batch, ...) to logits (batch, classes), and is differentiable."""


class Attack(Serializable):
    """Base class of attacks: immutable, serialisable by Keras, pure TensorFlow.

    A subclass is a frozen dataclass with a `threat_model`, a `name` for reports and `__call__`.
    """

    threat_model: ThreatModel
    compute_dtype: str | None = None
    restarts: int = 1

    @property
    def name(self) -> str:
        """A name for tables that says what the attack does, such as "PGD-40 (Linf 0.3, step 0.01)"."""
        raise NotImplementedError

    @property
    def resolved_compute_dtype(self) -> str | None:
        """`compute_dtype`, with the one that is faster on this machine for "auto"."""
        return resolve_compute_dtype(self.compute_dtype)

    def __call__(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images, inside the ball around `images` and inside the pixel range.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, ...) floats inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: an integer or an int32 tensor of shape (2,); the same seed gives the same images.
            targets: for attacks on given targets, sparse or one-hot.

        Returns:
            Of the shape and dtype of `images`, with no gradient.
        """
        raise NotImplementedError

    def scaled(self, fraction: Tensor) -> Self:
        """Returns this attack with `fraction`, a float scalar in [0, 1], of its epsilon: a part of a training step."""
        return changed(self, threat_model=changed(self.threat_model, epsilon=fraction * self.threat_model.epsilon))


def changed(instance: Any, **fields: Any) -> Any:
    """Returns a copy with other fields, which are not checked, as they may be tensors."""
    changed = copy.copy(instance)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)
    return changed


def mean_of_passes(run: Callable[[], Any], passes: int) -> Any:
    """Returns the mean of so many calls of `run`, which differ where a classifier is random at inference.

    Args:
        run: returns a nest of float tensors, of the same shapes in each call.
        passes: at least 1; of a single one the results are returned as they are.
    """
    first = run()
    if passes == 1:
        return first

    def add(index: Tensor, total: Any) -> tuple[Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, total, run())

    _, total = tf.while_loop(lambda index, _: index < passes, add, (tf.constant(1), first))
    return tf.nest.map_structure(lambda tensor: tensor / passes, total)
