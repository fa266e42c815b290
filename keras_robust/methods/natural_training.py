"""Training on clean images, with or without noise."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core import Linf, seeds
from keras_robust.core.checks import check_weight
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import CLEAN
from keras_robust.methods.robust_model import RobustModel


@keras.saving.register_keras_serializable(PACKAGE)
class NaturalTraining(RobustModel):
    """Training without an attack; the base class of methods that craft no attacked images.

    A classifier trained so has a robust accuracy near zero: it is what defences are compared with. With
    `input_noise` it is the Gaussian augmentation of Kannan et al. (2018, section 5.4), which weak attacks take for
    robustness.

    Args:
        classifier: as in `RobustModel`.
        input_noise: standard deviation of Gaussian noise that is added to the images in training only, in their units;
            noisy images are not clipped. It differs per step and replica and goes on after loading.
        bounds: smallest and largest pixel value; None is those of `validation_attack`, or 0 and 1 without one.
        **kwargs: of `RobustModel`, such as `validation_attack`.

    Raises:
        ValueError: if `input_noise` is negative, or `bounds` are not two increasing numbers or not those of the
            `validation_attack`.
    """

    NEEDS_ATTACK = False

    def __init__(
        self,
        classifier: keras.Layer,
        *,
        input_noise: float = 0.0,
        bounds: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        check_weight("input_noise", input_noise)
        super().__init__(classifier, None, **kwargs)
        self.input_noise = input_noise
        self._bounds = None if bounds is None else _checked_bounds(bounds, self.validation_attack)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value."""
        return super().bounds if self._bounds is None else self._bounds

    def perturb(self, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns the images with noise."""
        del labels
        if not self.input_noise:
            return images
        return images + self.input_noise * tf.cast(seeds.normal(tf.shape(images), seed), images.dtype)

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns the noisy images as the clean pass."""
        del images
        return {CLEAN: adversarial}

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss of the clean pass."""
        return self.classification_loss(labels, logits[CLEAN], sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        config = super().get_config()
        del config["attack"]  # always None
        return {**config, "input_noise": self.input_noise, "bounds": self._bounds}


def _checked_bounds(bounds: Any, validation_attack: Attack | None) -> tuple[float, float]:
    """Returns the bounds as two floats; raises `ValueError` unless they are increasing and those of the attack."""
    if isinstance(bounds, str) or not hasattr(bounds, "__len__"):
        raise ValueError(f"bounds are two increasing numbers. Received: bounds={bounds!r}")
    checked = Linf(0.0, bounds).bounds
    if validation_attack is not None and checked != tuple(validation_attack.threat_model.bounds):
        raise ValueError(
            "bounds and validation_attack have one pixel range, that of the images. "
            f"Received: bounds={bounds}, and bounds={validation_attack.threat_model.bounds} of validation_attack"
        )
    return checked
