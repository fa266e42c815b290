"""Adversarial training, with or without clean images."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.methods.robust_model import RobustModel


@keras.saving.register_keras_serializable(PACKAGE)
class AdversarialTraining(RobustModel):
    """Adversarial training on attacked images (Madry et al., 2018), or on attacked and clean images.

    With m attacked images, n = round(clean_fraction * m) clean images (at least 1) and w = clean_weight, the loss is
    the weighted mean

        (w * sum of clean losses + (1 - w) * sum of adversarial losses) / (w * n + (1 - w) * m).

    `clean_fraction=0` trains on attacked images only, as Madry et al. do. `clean_fraction=1` is mixed-minibatch PGD
    (Kannan et al., 2018, equation 2); its loss is that of Xie & Yuille (2020, equation 1) with alpha = w. Fractions
    between 0 and 1 are in figure 1 of Xie & Yuille.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`.
        clean_fraction: clean images per attacked image, in [0, 1].
        clean_weight: weight of a clean image, in [0, 1). The weight of an attacked image is 1 - clean_weight. With 0.5
            both are equal. Without clean images it has no effect.
        **kwargs: arguments of `RobustModel`.

    Raises:
        ValueError: if an argument is out of its range; see also `RobustModel`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        clean_fraction: float = 0.0,
        clean_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if not 0 <= clean_fraction <= 1:
            raise ValueError(f"clean_fraction must be in [0, 1]. Received: clean_fraction={clean_fraction!r}")
        if not 0 <= clean_weight < 1:
            raise ValueError(f"clean_weight must be in [0, 1). Received: clean_weight={clean_weight!r}")
        super().__init__(classifier, attack, **kwargs)
        self.clean_fraction = clean_fraction
        self.clean_weight = clean_weight

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns the attacked images and, if `clean_fraction` is above 0, this fraction of the clean images."""
        if self.clean_fraction == 0:
            return {ADVERSARIAL: adversarial}
        if images.shape[0] is None:
            count = tf.cast(tf.round(self.clean_fraction * tf.cast(tf.shape(images)[0], tf.float32)), tf.int32)
            count = tf.maximum(count, 1)  # batch statistics of 0 images would be NaN
        else:
            count = max(round(self.clean_fraction * images.shape[0]), 1)
        return {CLEAN: images[:count], ADVERSARIAL: adversarial}

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the weighted mean of the class docstring, by one call of the compiled loss on all logits."""
        if CLEAN not in logits:
            return super().robust_loss(labels, logits, sample_weight)
        count = tf.shape(logits[CLEAN])[0]
        both = tf.concat([logits[CLEAN], logits[ADVERSARIAL]], axis=0)
        weight = None
        if sample_weight is not None or self.clean_weight != 0.5:
            given = tf.ones(tf.shape(labels)[:1]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
            given = tf.reshape(given, (-1,))  # Keras also accepts (batch, 1)
            weight = tf.concat([given[:count], given], axis=0) * self._relative_weights(count, tf.shape(labels)[0])
        return super().robust_loss(tf.concat([labels[:count], labels], axis=0), {ADVERSARIAL: both}, weight)

    def _relative_weights(self, clean: Tensor, attacked: Tensor) -> Tensor:
        """Returns w or 1 - w per image, (clean + attacked,), scaled to mean 1: Keras divides by the image count."""
        weights = tf.concat(
            [tf.fill((clean,), self.clean_weight), tf.fill((attacked,), 1.0 - self.clean_weight)], axis=0
        )
        return weights / tf.reduce_mean(weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        return {**super().get_config(), "clean_fraction": self.clean_fraction, "clean_weight": self.clean_weight}
