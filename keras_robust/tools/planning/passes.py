"""Which passes through a classifier a training step of each method runs, and on how many images."""

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
"""Targets that depend on the logits of the clean image; of random ones the compiler drops that pass."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass through a classifier, and how often a step runs it.

    Attributes:
        part: of a training step, `ATTACK` or `UPDATE`; of a validation step, `ATTACK` or `VALIDATION`.
        classifier: a built Keras model.
        images: how many go through it at once.
        count: passes per step; a fraction where a draw decides.
        of_images: whether the gradient in the images is taken.
        of_weights: whether the gradient in the weights is taken, in training mode.
        training: whether the classifier is in training mode.
        compute_dtype: of an attack.
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
        """What it is called in tables."""
        if self.of_weights:
            return "training with input gradient" if self.of_images else "training"
        return "input gradient" if self.of_images else "forward"

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy (batch,) of float images and integer labels."""
        if self.of_weights:
            logits = tf.cast(self.classifier(images, training=True), tf.float32)
        else:
            logits = as_model_fn(self.classifier, training=self.training, compute_dtype=self.compute_dtype)(images)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def image_shape(classifier: keras.Model) -> tuple[int, ...]:
    """Returns the shape of an image that a classifier takes.

    Raises:
        ValueError: if it was not built for images of one size.
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
        ValueError: if the attack is none that `attack_passes` knows.
    """
    classifier = model.classifier
    pixels = tf.zeros((batch_size, 1, 1, 1))  # what a method trains on depends on the number of images alone
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
        passes.append(Pass(ATTACK, classifier, batch_size, 1))  # its accuracy on fresh images
    updates = 1 if model.weight_perturbation is None else 2
    return [*passes, Pass(UPDATE, classifier, trained, updates, of_weights=True, training=True)]


def validation_passes(model: RobustModel, batch_size: int) -> list[Pass]:
    """Returns the passes of a validation step on `batch_size` images.

    Raises:
        ValueError: if the attack is none that `attack_passes` knows.
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
        attack: PGD in any form, or the virtual adversarial perturbation.
        classifier: the attacked one.
        images: how many are attacked at once.
        training: whether the classifier is in training mode.
        share: of the steps that run the attack.

    Raises:
        ValueError: if it is another attack.
    """
    if isinstance(attack, PGD):
        compared = attack.restarts if attack.restarts > 1 else 0
        gradients, forwards = (attack.eot_iter * count for count in (attack.steps * attack.restarts, compared))
        forwards += attack.resolved_objective.needs_clean_logits or attack.target in LOOKS_AT_CLEAN_IMAGE
    elif isinstance(attack, VirtualAdversarial):
        gradients, forwards = attack.power_iterations, 1
    else:
        raise ValueError(
            f"A plan counts the passes of PGD in any form and of virtual adversarial perturbations. Received: {attack}"
        )
    one = Pass(ATTACK, classifier, images, share * forwards, training=training, compute_dtype=attack.compute_dtype)
    gradient = dataclasses.replace(one, count=share * gradients, of_images=True)
    return [each for each in (gradient, one) if each.count]
