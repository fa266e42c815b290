"""Training without an attack: on clean images, on noisy ones, and on mixtures of two (Mixup)."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core import Linf, seeds
from keras_robust.core.checks import check_positive, check_weight
from keras_robust.core.objectives import as_one_hot
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import CLEAN
from keras_robust.methods.robust_model import RobustModel, unpack_batch


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


BISECTIONS = 24
"""Halvings of [0, 1]: to the precision of float32."""


def beta_quantile(probability: Tensor, alpha: float) -> Tensor:
    """Returns x with P(X <= x) = probability for X ~ Beta(alpha, alpha), by bisection: the same under XLA."""
    low, high = tf.zeros_like(probability), tf.ones_like(probability)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = tf.math.betainc(alpha, alpha, middle) < probability
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return (low + high) / 2


@keras.saving.register_keras_serializable(PACKAGE)
class Mixup(NaturalTraining):
    """Training on convex combinations of images and of their labels (Zhang et al., 2018).

    Each batch draws one share s ~ Beta(alpha, alpha) and a random partner for every image:
    s x_i + (1 - s) x_j has the label s y_i + (1 - s) y_j. Where images have weights w, each label counts with that of
    its own image: the mixture weighs s w_i + (1 - s) w_j, and its label is the weighted mean. No defence: 0.1 % are
    left on ImageNet under PGD (Kannan et al., 2018, table 9).

    Args:
        classifier: as in `RobustModel`.
        alpha: positive; 0.2 in the paper for ImageNet, 1 for CIFAR-10.
        **kwargs: of `NaturalTraining`.

    Raises:
        ValueError: if `alpha` is not positive, or, in training, labels are not one-hot.
    """

    NEEDS_ONE_HOT_LABELS = True

    def __init__(self, classifier: keras.Layer, *, alpha: float = 0.2, **kwargs: Any) -> None:
        check_positive("alpha", alpha)
        super().__init__(classifier, **kwargs)
        self.alpha = alpha

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Mixes the batch, then does as natural training; labels become soft."""
        images, labels, sample_weight = unpack_batch(data)
        if labels.shape.rank != 2 or labels.shape[1] == 1:
            raise ValueError(
                "Mixup needs one-hot labels and a loss on them, such as "
                f"keras.losses.CategoricalCrossentropy(from_logits=True). Received: labels of shape {labels.shape}"
            )
        seed = seeds.fold(seeds.as_seed(self.seed), seeds.MIXING, self.steps_taken.value)
        seed = seeds.fold_replica(seed)
        share = beta_quantile(seeds.uniform((), seeds.fold(seed, 0)), self.alpha)
        partners = tf.argsort(seeds.uniform(tf.shape(images)[:1], seeds.fold(seed, 1)))

        def mix(values: Tensor) -> Tensor:
            part = tf.cast(share, values.dtype)
            return part * values + (1.0 - part) * tf.gather(values, partners)

        soft = as_one_hot(labels, labels.shape[1])
        if sample_weight is None:
            return super().attack_batch((mix(images), mix(soft), None))
        weight = tf.reshape(tf.cast(sample_weight, soft.dtype), (-1, 1))
        mixed_weight = mix(weight)
        soft = tf.math.divide_no_nan(mix(weight * soft), mixed_weight)
        return super().attack_batch((mix(images), soft, mixed_weight[:, 0]))

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model."""
        return {**super().get_config(), "alpha": self.alpha}
