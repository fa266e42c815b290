"""What a device must hold while it trains."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.methods import RobustModel
from keras_robust.planning.operations import Cost

USABLE = 0.9
"""Share of a device's memory that tensors can have; the rest is left to programs, kernels and gaps: an assumption."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a device.

    Attributes:
        weights: of the classifier, statistics of normalisation included, and of static models.
        gradients: in the trained weights.
        optimizer: its variables: momentum, moving averages of the weights, accumulated gradients.
        method: what a method keeps from step to step: perturbations, queues.
        activations: what the forward half of a pass leaves for its backward half, and two gradients in the largest of
            them; of the pass that leaves most.
        available: all memory of the device.
        batch_size: images of a batch on the device.
    """

    weights: int
    gradients: int
    optimizer: int
    method: int
    activations: int
    available: float
    batch_size: int

    @property
    def total(self) -> int:
        """All that is held."""
        return self.weights + self.gradients + self.optimizer + self.method + self.activations

    @property
    def largest_batch(self) -> int:
        """The most images per device whose activations fit; 0 where not even one does."""
        fixed = self.weights + self.gradients + self.optimizer
        per_image = (self.activations + self.method) / self.batch_size
        return max(0, math.floor((USABLE * self.available - fixed) / per_image))


def memory_of(model: RobustModel, costs: Iterable[Cost], batch_size: int, available: float) -> Memory:
    """Returns the memory of a training step.

    Args:
        model: compiled, its optimizer built.
        costs: of the passes of the step.
        batch_size: images of a batch on the device.
        available: bytes of the device.
    """
    images = np.broadcast_to(np.float32(0), (batch_size, *model.classifier.input_shape[1:]))  # a shape alone
    state = model.replica_state_specs(images, np.broadcast_to(np.int64(0), batch_size))
    return Memory(
        weights=bytes_of(model.variables),
        gradients=bytes_of(model.trainable_variables),
        optimizer=bytes_of(model.optimizer.variables),
        method=sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in state.values()),
        activations=max(cost.kept + cost.workspace for cost in costs),
        available=available,
        batch_size=batch_size,
    )


def bytes_of(variables: Iterable[Any]) -> int:
    """Returns the bytes of variables."""
    return sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables)
