"""Mixup."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.checks import check_positive
from keras_robust.core.objectives import as_one_hot
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.methods.attacking import unpack_batch
from keras_robust.methods.natural_training import NaturalTraining

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
