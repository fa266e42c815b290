"""The passes through a classifier that a training step of each method runs, and their numbers of images."""

import dataclasses

import keras
import tensorflow as tf

from keras_robust.attacks import PGD, Attack, VirtualAdversarial, as_model_fn
from keras_robust.core.seeds import Tensor
from keras_robust.methods import (
    EnsembleAdversarialTraining,
    FreeAdversarialTraining,
    RobustModel,
    StaleAdversarialTraining,
)

ATTACK, UPDATE, VALIDATION = "attack", "update", "validation"

LOOKS_AT_CLEAN_IMAGE = ("untargeted_from_prediction", "least_likely")
"""Targets that depend on the logits of the clean image. For random targets the compiler removes that pass."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass through a classifier, and how often a step runs it.

    Attributes:
        part: part of the step: `ATTACK` or `UPDATE` in training, `ATTACK` or `VALIDATION` in validation.
        classifier: a built Keras model.
        images: number of images in the pass.
        count: passes per step. A fraction is the mean of a number that is drawn at random.
        of_images: whether the gradient with respect to the images is computed.
        of_weights: whether the gradient with respect to the weights is computed, in training mode.
        training: whether the classifier is in training mode.
        compute_dtype: `compute_dtype` of the attack.
    """

    part: str
    classifier: keras.Model
    images: int
    count: float
    of_images: bool = False
    of_weights: bool = False
    training: bool = False
    compute_dtype: str | None = None

    @property
    def name(self) -> str:
        """Name in tables."""
        if self.of_weights:
            return "training with input gradient" if self.of_images else "training"
        return "input gradient" if self.of_images else "forward"

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy, (batch,) float32, of float images and integer labels."""
        if self.of_weights:
            logits = tf.cast(self.classifier(images, training=True), tf.float32)
        else:
            logits = as_model_fn(self.classifier, training=self.training, compute_dtype=self.compute_dtype)(images)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def image_shape(classifier: keras.Model) -> tuple[int, ...]:
    """Returns the shape of an image that a classifier takes.

    Raises:
        ValueError: if the classifier is not built for images of one size.
    """
    shape = getattr(classifier, "input_shape", None)
    if shape is None and classifier.built:
        shape = (classifier.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or None in shape[1:]:
        raise ValueError(
            "A plan needs a classifier that is built for images of one size, as by network(keras.Input((32, 32, 3))) "
            f"in the function that makes it. Received: {classifier.name!r} with an input of shape {shape}"
        )
    return tuple(shape[1:])


def training_passes(model: RobustModel, batch_size: int) -> list[Pass]:
    """Returns the passes of a training step on `batch_size` images.

    Raises:
        ValueError: if `attack_passes` does not know the attack.
    """
    classifier = model.classifier
    pixels = tf.zeros((batch_size, 1, 1, 1))  # the passes depend only on the number of images
    trained = sum(len(images) for images in model.passes(pixels, pixels).values())
    if isinstance(model, FreeAdversarialTraining):
        return [Pass(UPDATE, classifier, trained, model.replays, of_images=True, of_weights=True, training=True)]
    passes = []
    if model.attack is not None:
        attacked = [classifier]
        if isinstance(model, EnsembleAdversarialTraining):
            attacked += model.source_models
        for source in attacked:
            training = model.attack_in_training_mode and source is classifier
            passes += attack_passes(model.attack, source, batch_size, training, share=1 / len(attacked))
    if isinstance(model, StaleAdversarialTraining):
        passes.append(Pass(ATTACK, classifier, batch_size, 1))  # measures the accuracy on freshly attacked images
    updates = 1 if model.weight_perturbation is None else 2
    return [*passes, Pass(UPDATE, classifier, trained, updates, of_weights=True, training=True)]


def validation_passes(model: RobustModel, batch_size: int) -> list[Pass]:
    """Returns the passes of a validation step on `batch_size` images.

    Raises:
        ValueError: if `attack_passes` does not know the attack.
    """
    if model.validation_attack is None:
        return [Pass(VALIDATION, model.classifier, batch_size, 1)]
    attack = attack_passes(model.validation_attack, model.classifier, batch_size)
    return [*attack, Pass(VALIDATION, model.classifier, 2 * batch_size, 1)]


def attack_passes(
    attack: Attack, classifier: keras.Model, images: int, training: bool = False, share: float = 1
) -> list[Pass]:
    """Returns the passes of an attack.

    Args:
        attack: any form of PGD, or the virtual adversarial perturbation.
        classifier: the attacked classifier.
        images: number of images that are attacked at once.
        training: whether the classifier is in training mode.
        share: share of the steps that run this attack, in [0, 1].

    Raises:
        ValueError: if the attack is another one.
    """
    if isinstance(attack, PGD):
        compared = attack.restarts if attack.restarts > 1 else 0
        gradients, forwards = (attack.eot_iter * count for count in (attack.steps * attack.restarts, compared))
        forwards += attack.resolved_objective.needs_clean_logits or attack.target in LOOKS_AT_CLEAN_IMAGE
    elif isinstance(attack, VirtualAdversarial):
        gradients, forwards = attack.power_iterations, 1
    else:
        raise ValueError(
            "A plan can count only the passes of PGD in any form and of virtual adversarial perturbations. "
            f"Received: {attack}"
        )
    one = Pass(ATTACK, classifier, images, share * forwards, training=training, compute_dtype=attack.compute_dtype)
    gradient = dataclasses.replace(one, count=share * gradients, of_images=True)
    return [each for each in (gradient, one) if each.count]
