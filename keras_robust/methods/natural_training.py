"""Training on clean images, with or without noise."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.core import seeds
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
        **kwargs: of `RobustModel`, such as `validation_attack`.

    Raises:
        ValueError: if `input_noise` is negative.
    """

    NEEDS_ATTACK = False

    def __init__(self, classifier: keras.Layer, *, input_noise: float = 0.0, **kwargs: Any) -> None:
        check_weight("input_noise", input_noise)
        super().__init__(classifier, None, **kwargs)
        self.input_noise = input_noise

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
        return {**config, "input_noise": self.input_noise}
