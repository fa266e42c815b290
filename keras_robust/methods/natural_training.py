"""Training without an attack: on clean images, on noisy images, and on mixtures of two images (Mixup)."""

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
    """Training on clean images, and the base class of the other methods without an attack.

    The robust accuracy of the classifier will be near 0. Defences are compared with it. With `input_noise`, this is the
    Gaussian augmentation of Kannan et al. (2018, section 5.4), which only looks robust under weak attacks.

    Args:
        classifier: as in `RobustModel`.
        input_noise: standard deviation of Gaussian noise that is added to the images in training, in their units, at
            least 0. Noisy images are not clipped. Each step and replica has its own noise; a loaded model continues
            the sequence.
        bounds: smallest and largest pixel value. None is that of `validation_attack`, or (0, 1) without one.
        **kwargs: arguments of `RobustModel`, such as `validation_attack`.

    Raises:
        ValueError: if `input_noise` is negative, or if `bounds` are not two increasing numbers or differ from those of
            `validation_attack`; see also `RobustModel`.
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
        """Returns the images plus noise."""
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
        """Returns the arguments that rebuild the model."""
        config = super().get_config()
        del config["attack"]  # always None
        return {**config, "input_noise": self.input_noise, "bounds": self._bounds}


def _checked_bounds(bounds: Any, validation_attack: Attack | None) -> tuple[float, float]:
    """Returns the bounds as two floats. Raises `ValueError` unless they increase and equal those of the attack."""
    if isinstance(bounds, str) or not hasattr(bounds, "__len__"):
        raise ValueError(f"bounds must be two increasing numbers. Received: bounds={bounds!r}")
    checked = Linf(0.0, bounds).bounds
    if validation_attack is not None and checked != tuple(validation_attack.threat_model.bounds):
        raise ValueError(
            "bounds and validation_attack must have the same pixel range, that of the images. "
            f"Received: bounds={bounds}, and bounds={validation_attack.threat_model.bounds} of validation_attack"
        )
    return checked


BISECTIONS = 24
"""So many halvings of [0, 1] reach the precision of float32."""


def beta_quantile(probability: Tensor, alpha: float) -> Tensor:
    """Returns x with P(X <= x) = probability for X ~ Beta(alpha, alpha). Bisection gives the same x with XLA."""
    low, high = tf.zeros_like(probability), tf.ones_like(probability)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = tf.math.betainc(alpha, alpha, middle) < probability
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return (low + high) / 2


@keras.saving.register_keras_serializable(PACKAGE)
class Mixup(NaturalTraining):
    """Training on convex combinations of images and of their labels (Zhang et al., 2018).

    In each step, a replica draws one share s ~ Beta(alpha, alpha), and a random partner j for each image i. The image
    s x_i + (1 - s) x_j has the label s y_i + (1 - s) y_j.

    With sample weights w, the mixture has the weight s w_i + (1 - s) w_j, and its label is the mean of y_i and y_j with
    the weights s w_i and (1 - s) w_j.

    Mixup is not a defence: on ImageNet, 0.1 % accuracy is left under PGD (Kannan et al., 2018, table 9).

    Args:
        classifier: as in `RobustModel`.
        alpha: parameter of the Beta distribution, above 0: 0.2 in the paper for ImageNet, 1 for CIFAR-10.
        **kwargs: arguments of `NaturalTraining`.

    Raises:
        ValueError: if `alpha` is not above 0; in training, if labels are not one-hot; see also `NaturalTraining`.
    """

    NEEDS_ONE_HOT_LABELS = True

    def __init__(self, classifier: keras.Layer, *, alpha: float = 0.2, **kwargs: Any) -> None:
        check_positive("alpha", alpha)
        super().__init__(classifier, **kwargs)
        self.alpha = alpha

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Mixes the batch, then continues as natural training does. Returns soft labels."""
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
        """Returns the arguments that rebuild the model."""
        return {**super().get_config(), "alpha": self.alpha}
