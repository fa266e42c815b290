"""Attacks that run in blocks of steps, so that broken examples can leave between blocks."""

import tensorflow as tf

from keras_robust.attacks.attack import Attack, ModelFn
from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor

State = dict[str, Tensor]
"""Tensors with the batch as first dimension: rows can be dropped and batches of rows put together anew."""


class IterativeAttack(Attack):
    """Base class of attacks with a state per example that is advanced step by step.

    A subclass defines `total_steps`, `start`, `advance` and `finish`; calling the attack is running all its steps. The
    state holds at least `broken`, (batch,) bool: a misclassified point was found, and `finish` returns it.

    What an attack does to an example depends on that example, the seed and the step, and never on its neighbours in
    the batch, as far as the source of the attack allows.

    Above 1, `eot_iter` says that the attack is for classifiers that are random at inference: its examples are judged
    once, at its end, since a look after each block would be a chance more for the noise.
    """

    eot_iter: int = 1

    @property
    def total_steps(self) -> int:
        """The number of steps, of all runs."""
        raise NotImplementedError

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state before the first step.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, height, width, channels) float32 inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: int32 tensor of shape (2,).
            targets: for attacks on given targets, sparse or one-hot.
        """
        raise NotImplementedError

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more steps, the first of which is number `first_step` (from 0): int32."""
        raise NotImplementedError

    def finish(self, state: State) -> Tensor:
        """Returns the attacked images."""
        raise NotImplementedError

    def go_on(self, state: State) -> State:
        """Returns the state of examples of which none is broken, whatever it says: another judge finds them right.

        Such a judge classifies in another precision than the attack, or looks for the label among the top k.
        """
        return {**state, "broken": tf.zeros_like(state["broken"])}

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: see `Attack.perturb`."""
        images, seed = tf.convert_to_tensor(images), seeds.as_seed(seed)
        state = self.start(model_fn, images, labels, seeds.fold(seed, 0), targets)
        state = self.advance(model_fn, state, tf.constant(0), tf.constant(self.total_steps), seeds.fold(seed, 1))
        return tf.stop_gradient(self.finish(state))
