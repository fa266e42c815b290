"""Free adversarial training."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import PGD, Attack
from keras_robust.core import CrossEntropy
from keras_robust.core.checks import check_integer
from keras_robust.core.execution import full_precision
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL
from keras_robust.methods.replica_state import KeepsReplicaState
from keras_robust.methods.robust_model import unpack_batch


@keras.saving.register_keras_serializable(PACKAGE)
class FreeAdversarialTraining(KeepsReplicaState):
    """Adversarial training at the cost of natural training (Shafahi et al., 2019, algorithm 1).

    Each batch is replayed m times. Each replay is one forward and one backward pass on x + d. Its gradients update both
    the weights and the perturbation d:

        d <- project(d + step_size * steepest_ascent(dL/dx)).

    The next batch starts with the d of the last one. Each replica has its own d, which is saved with the model. One
    batch of `fit` makes m updates, so train for 1/m of the epochs of natural training, and count schedules in updates
    (`optimizer.iterations`).

    Args:
        classifier: as in `RobustModel`.
        attack: a `PGD` of one step from the clean image. Only its threat model and step size are used, so its other
            options must not be set. The paper uses `FGSM(ball)`, whose step is epsilon. With epsilon 0 this is natural
            training with replays (figure 1 of the paper).
        replays: m, at least 1: 8 in the paper for CIFAR-10, 4 for ImageNet.
        still_when_clipped: True keeps d unchanged at pixels at which x + d is outside the pixel range, as in the
            authors' code, which takes the gradient through the clipping. False changes d there, too. With True, d can
            stay below 0 in the background of digits, which is 0 in nearly all images, and is no attack there.
        **kwargs: arguments of `RobustModel`, without `weight_perturbation` and `epsilon_schedule`.

    Raises:
        ValueError: if `attack` is not a `PGD` of one step or has other options, `replays` is not an integer of at least
            1, or `weight_perturbation` or `epsilon_schedule` is given; see also `RobustModel`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        replays: int = 8,
        still_when_clipped: bool = False,
        **kwargs: Any,
    ) -> None:
        step = _checked_step(attack)
        check_integer("replays", replays)
        for option in ("weight_perturbation", "epsilon_schedule"):
            if kwargs.get(option) is not None:
                raise ValueError(
                    f"{option} must be None in free adversarial training. Received: {option}={kwargs[option]!r}"
                )
        super().__init__(classifier, attack, **kwargs)
        self.replays = replays
        self.still_when_clipped = still_when_clipped
        self._step_size = step.resolved_step_size
        # The pixel range limits the sum of image and perturbation, not the perturbation itself.
        self._ball = dataclasses.replace(attack.threat_model, bounds=(-math.inf, math.inf))

    @property
    def updates_per_batch(self) -> int:
        """The number of replays."""
        return self.replays

    def replica_state_specs(self, images: Any, labels: Any) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns shape and dtype of the perturbations: one per image of a batch."""
        del labels
        return {"perturbation": (tuple(images.shape), full_precision())}

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Makes the m updates of a batch. The metrics are means over all of them."""
        images, labels, sample_weight = unpack_batch(data)
        state = self.replica_state["perturbation"]
        count = tf.shape(images)[0]
        perturbation = state.value[:count]
        for _ in range(self.replays):
            perturbed = images + perturbation
            adversarial = tf.clip_by_value(perturbed, *self.bounds)
            self.note_images(images, adversarial)
            results, gradient = self._update(adversarial, labels, sample_weight)
            climbed = tf.where(perturbed == adversarial, gradient, 0.0) if self.still_when_clipped else gradient
            ascent = self._step_size * self._ball.steepest_ascent(climbed)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                # It skips a step whose scaled gradients overflow. The perturbation must skip this step, too.
                ascent = tf.where(tf.reduce_all(tf.math.is_finite(gradient)), ascent, tf.zeros_like(ascent))
            perturbation = self._ball.project(perturbation + ascent, tf.zeros_like(perturbation))
        state.assign(tf.concat([perturbation, state.value[count:]], axis=0))
        self.steps_taken.assign_add(1)
        self.averages.follow(self, {ADVERSARIAL: adversarial})
        return results

    def _update(
        self, adversarial: Tensor, labels: Tensor, sample_weight: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Updates the weights, and returns (metrics, gradient of the loss with respect to the images).

        `keras.Model.train_step` is not used, because it does not return this gradient from its backward pass.
        """
        with tf.GradientTape() as tape:
            tape.watch(adversarial)
            logits = self({ADVERSARIAL: adversarial}, training=True)
            loss = self.compute_loss(None, labels, logits, sample_weight)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        *gradients, of_images = tape.gradient(scaled, [*weights, adversarial])
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self.loss_metric.update_state(loss * replicas, sample_weight=tf.shape(adversarial)[0])
        return self.compute_metrics(None, labels, logits, sample_weight), of_images

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        return {**super().get_config(), "replays": self.replays, "still_when_clipped": self.still_when_clipped}


def _checked_step(attack: Any) -> PGD:
    """Returns `attack`. Raises `ValueError` unless it is `FGSM`, with any step size: other options have no effect."""
    if not isinstance(attack, PGD) or attack.steps != 1:
        raise ValueError(
            f"The attack of free adversarial training must be a PGD of one step. Received: attack={attack!r}"
        )
    used = PGD(attack.threat_model, 1, attack.step_size, CrossEntropy(), random_start="none")
    resolved = attack.resolved()
    given = dataclasses.replace(resolved, objective=attack.resolved_objective)
    names = [field.name for field in dataclasses.fields(PGD)]
    ignored = [f"{name}={getattr(resolved, name)!r}" for name in names if getattr(given, name) != getattr(used, name)]
    if ignored:
        raise ValueError(
            "The attack of free adversarial training must be PGD(threat_model, steps=1, step_size=..., "
            "random_start='none'). Other options have no effect, because the perturbation maximises the training loss "
            f"and starts where the last replay ended. Received: {', '.join(ignored)}"
        )
    return attack
