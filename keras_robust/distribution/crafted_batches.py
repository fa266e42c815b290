"""Training on batches that workers have attacked with earlier weights: the data that `fit` reads."""

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
"""Value of `CRAFTED_AT` for a batch that the training step must attack itself."""

REPLACED = ("attacked", "first_images")
"""Functions of a method that are replaced while it trains on crafted batches."""


class TrainsOnCraftedBatches:
    """Lets a method train on batches that are already attacked, inside a `with` block. Plain images still work.

        with TrainsOnCraftedBatches(model):
            model.fit(crafted_batches)

    The images of such a batch are a dict:

    - `CLEAN`: the clean images, (batch, height, width, channels);
    - `ADVERSARIAL`: the attacked images, of the same shape;
    - `CRAFTED_AT`: (batch,) integers, all equal: the number of training steps that the model had taken when it had the
      weights of the attack. If it is negative (`NOT_CRAFTED`), the training step attacks the clean images.

    For such batches `fit` logs `staleness`: the mean number of steps between these weights and the training step. It
    is 0 for a batch that the training step attacks.

    Args:
        model: a method that does not override `RobustModel.train_step`. Inside the block, functions of this object
            replace its `attacked` and `first_images`.
    """

    def __init__(self, model: RobustModel) -> None:
        self._model = model
        with model.distribute_strategy.scope():
            self._staleness = keras.metrics.Mean(name="staleness")

    def __enter__(self) -> Self:
        for name in REPLACED:
            setattr(self._model, name, getattr(self, name))
        self._model.train_function = None  # a function traced before would attack all batches
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in REPLACED:
            delattr(self._model, name)
        self._model.log_in_training([])
        self._model.train_function = None

    def first_images(self, images: Any) -> Any:
        """Returns the clean images of the first batch that `fit` reads, and checks the rest of the batch.

        Raises:
            ValueError: see `check_crafted`.
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
    """Checks the attacked images and `CRAFTED_AT` of a batch. Clean images are checked elsewhere.

    Args:
        images: the dict of `TrainsOnCraftedBatches`.
        bounds: smallest and largest pixel value.

    Raises:
        ValueError: if a key is missing or unknown, shapes differ, the attacked images are not floats in `bounds`, or
            `CRAFTED_AT` is not one integer per image or not the same for the whole batch.
    """
    parts = {CLEAN, ADVERSARIAL, CRAFTED_AT}
    if set(images) != parts:
        raise ValueError(f"Crafted images must be a dict of {sorted(parts)}. Received: a dict of {sorted(images)}")
    clean, adversarial, crafted_at = (np.asarray(images[name]) for name in (CLEAN, ADVERSARIAL, CRAFTED_AT))
    if adversarial.shape != clean.shape:
        raise ValueError(
            "Attacked images must have the shape of the clean images. "
            f"Received: {ADVERSARIAL} of shape {adversarial.shape}, {CLEAN} of shape {clean.shape}"
        )
    check_images(adversarial, bounds)
    if crafted_at.dtype.kind != "i" or crafted_at.shape != clean.shape[:1] or np.unique(crafted_at).size != 1:
        raise ValueError(
            f"{CRAFTED_AT} must hold one integer per image, the same for the whole batch. "
            f"Received: {CRAFTED_AT} of shape {crafted_at.shape}, {crafted_at.dtype}, values {np.unique(crafted_at)}"
        )
