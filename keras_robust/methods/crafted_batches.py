"""Batches that were attacked elsewhere, with earlier weights: what `fit` reads in asynchronous training."""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.checks import check_images
from keras_robust.core.seeds import Tensor
from keras_robust.layers import ADVERSARIAL, CLEAN

CRAFTED_AT = "crafted_at"
NOT_CRAFTED = -1


class TakesCraftedBatches(keras.Model):
    """A model whose `fit` reads plain images, and also batches that are attacked already.

    The images of such a batch are a dict:

    - `CLEAN`: (batch, height, width, channels);
    - `ADVERSARIAL`: the attacked images, of the same shape;
    - `CRAFTED_AT`: (batch,) integers, how many training steps had made the weights that the images were attacked with,
      the same for the whole batch. Where it is negative (`NOT_CRAFTED`) the training step attacks the clean images.

    `staleness`, the mean number of steps between attack and training (0 where the step attacks), is then logged.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Keras looks for no state in it: other training has no such metric, nor do saved models.
        self._staleness = types.SimpleNamespace(metric=None, is_logged=False)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Those of other training, and the staleness where there was any."""
        return super().metrics + ([self._staleness.metric] if self._staleness.metric else [])

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; on the clean images of what `fit` reads, with which Keras builds a model."""
        return super().__call__(clean_images(inputs), *args, **kwargs)

    def prepare_crafted(self, images: Any, bounds: tuple[float, float]) -> Any:
        """Returns the clean ones of the first images that `fit` reads, after a check of the others.

        Raises:
            ValueError: as `check_crafted`.
        """
        if not _is_crafted(images):
            return images
        check_crafted(images, bounds)
        if self._staleness.metric is None:
            with self.distribute_strategy.scope():
                self._staleness.metric = keras.metrics.Mean(name="staleness")
        return images[CLEAN]

    def attacked(self, images: Any, steps_taken: Tensor, perturb: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Returns clean and attacked images of a training step, and measures the staleness.

        Args:
            images: as `fit` reads them.
            steps_taken: before this step.
            perturb: from clean to attacked images.
        """
        self._staleness.is_logged = _is_crafted(images) and self._staleness.metric is not None
        if not _is_crafted(images):
            return images, perturb(images)
        clean = images[CLEAN]
        crafted_at = tf.cast(images[CRAFTED_AT][0], steps_taken.dtype)
        is_crafted = crafted_at >= 0
        adversarial = tf.cond(is_crafted, lambda: images[ADVERSARIAL], lambda: perturb(clean))
        if self._staleness.is_logged:
            self._staleness.metric.update_state(tf.where(is_crafted, steps_taken - crafted_at, 0))
        return clean, adversarial

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Takes Keras's training step; returns its results, and the staleness where it was measured."""
        results = super().train_step(data)
        if self._staleness.is_logged:
            results["staleness"] = self._staleness.metric.result()
        return results


def clean_images(images: Any) -> Any:
    """Returns the clean images of a dict of crafted ones, and anything else as it is."""
    return images[CLEAN] if _is_crafted(images) else images


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
