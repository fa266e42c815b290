"""What every attack has in common."""

import copy
from collections.abc import Callable
from typing import Any, Self

from keras_robust.core import ThreatModel
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
