"""Training on batches that were attacked elsewhere, with earlier weights: what `fit` reads in asynchronous training."""

from types import TracebackType
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.checks import check_images
from keras_robust.core.seeds import Tensor
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.methods import RobustModel

CRAFTED_AT = "crafted_at"
NOT_CRAFTED = -1

REPLACED = ("attacked", "first_images")
"""Of a method, while it trains on crafted batches."""


class TrainsOnCraftedBatches:
    """Lets `fit` of a method read batches that are attacked already, beside plain images, inside a `with` block.

        with TrainsOnCraftedBatches(model):
            model.fit(crafted_batches)

    The images of such a batch are a dict:

    - `CLEAN`: (batch, height, width, channels);
    - `ADVERSARIAL`: the attacked images, of the same shape;
    - `CRAFTED_AT`: (batch,) integers, how many training steps had made the weights that the images were attacked with,
      the same for the whole batch. Where it is negative (`NOT_CRAFTED`) the training step attacks the clean images.

    `staleness`, the mean number of steps between attack and training (0 where the step attacks), is logged with them.

    Args:
        model: a method whose step is that of `RobustModel`. Inside the block its `attacked` and `first_images` are
            those of this object; nothing else of it changes.
    """

    def __init__(self, model: RobustModel) -> None:
        self._model = model
        with model.distribute_strategy.scope():
            self._staleness = keras.metrics.Mean(name="staleness")

    def __enter__(self) -> Self:
        for name in REPLACED:
            setattr(self._model, name, getattr(self, name))
        self._model.train_function = None  # one that was traced before attacks all batches
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in REPLACED:
            delattr(self._model, name)
        self._model.log_in_training([])
        self._model.train_function = None

    def first_images(self, images: Any) -> Any:
        """Returns the clean ones of the first images that `fit` reads, after a check of the others.

        Raises:
            ValueError: as `check_crafted`.
        """
        is_crafted = _is_crafted(images)
        self._model.log_in_training([self._staleness] if is_crafted else [])
        if not is_crafted:
            return images
        check_crafted(images, self._model.bounds)
        return images[CLEAN]

    def attacked(self, images: Any, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clean and attacked images of a training step, and measures the staleness."""
        if not _is_crafted(images):
            return images, self._model.perturb(images, labels, seed)
        clean, steps_taken = images[CLEAN], self._model.steps_taken.value
        crafted_at = tf.cast(images[CRAFTED_AT][0], steps_taken.dtype)
        is_crafted = crafted_at >= 0
        adversarial = tf.cond(is_crafted, lambda: images[ADVERSARIAL], lambda: self._model.perturb(clean, labels, seed))
        self._staleness.update_state(tf.where(is_crafted, steps_taken - crafted_at, 0))
        return clean, adversarial


def _is_crafted(images: Any) -> bool:
    return isinstance(images, dict) and CRAFTED_AT in images


def check_crafted(images: dict[str, Any], bounds: tuple[float, float]) -> None:
    """Checks the attacked images of a batch, and when they were crafted; clean images are checked elsewhere.

    Raises:
        ValueError: if a part is missing or not expected, shapes differ, attacked images are not floats in bounds, or
            the batch was not crafted as a whole.
    """
    parts = {CLEAN, ADVERSARIAL, CRAFTED_AT}
    if set(images) != parts:
        raise ValueError(f"Crafted images are a dict of {sorted(parts)}. Received: a dict of {sorted(images)}")
    clean, adversarial, crafted_at = (np.asarray(images[name]) for name in (CLEAN, ADVERSARIAL, CRAFTED_AT))
    if adversarial.shape != clean.shape:
        raise ValueError(
            "Attacked images have the shape of the clean ones. "
            f"Received: {ADVERSARIAL} of shape {adversarial.shape}, {CLEAN} of shape {clean.shape}"
        )
    check_images(adversarial, bounds)
    if crafted_at.dtype.kind != "i" or crafted_at.shape != clean.shape[:1] or np.unique(crafted_at).size != 1:
        raise ValueError(
            f"{CRAFTED_AT} is one integer of a batch, repeated for each image. "
            f"Received: {CRAFTED_AT} of shape {crafted_at.shape}, {crafted_at.dtype}, values {np.unique(crafted_at)}"
        )
