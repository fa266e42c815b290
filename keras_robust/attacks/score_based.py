"""What attacks have in common that only see logits: state, checks of options, restarts."""

from typing import Any

import tensorflow as tf

from keras_robust.attacks.attack import ModelFn
from keras_robust.attacks.iterative import IterativeAttack, State
from keras_robust.attacks.model_fn import check_compute_dtype
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.labels import as_sparse
from keras_robust.core.objectives import margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import per_example


class ScoreBasedAttack(IterativeAttack):
    """Base class of attacks on the margin that use logits and no gradients, as frozen dataclasses.

    The state holds `images`, sparse `labels`, `points`, their margin as `value`, and `broken`. A point is misclassified
    where its margin is above 0; from then on the example stays as it is.
    """

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state at the random start, for one forward pass: see `IterativeAttack.start`.

        Raises:
            ValueError: if targets are given, or images are not (batch, height, width, channels).
        """
        images = tf.convert_to_tensor(images)
        if targets is not None:
            raise ValueError(f"{self.name} is untargeted. Received: targets={targets!r}")
        if images.shape.rank != 4:
            raise ValueError(f"Images are (batch, height, width, channels). Received: images of shape {images.shape}")
        state = {"images": images, "labels": as_sparse(labels), **self._first_points(images, seed)}
        state["value"] = margin(state["labels"], model_fn(state["points"]))
        state["broken"] = state["value"] > 0
        return state

    def _first_points(self, images: Tensor, seed: Tensor) -> State:
        """Returns the start as `points`, and what else the attack keeps per example."""
        raise NotImplementedError

    def finish(self, state: State) -> Tensor:
        """Returns the attacked images."""
        return state["points"]

    def __call__(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: see `Attack.__call__`. A restart is for the examples that are not broken yet."""
        images, seed = tf.convert_to_tensor(images), seeds.as_seed(seed)

        def run(state: State, seed: Tensor) -> State:
            return self.advance(model_fn, state, tf.constant(0), self.total_steps, seeds.fold(seed, 1))

        def restart(index: Tensor, state: State) -> tuple[Tensor, State]:
            own_seed = seeds.fold(seed, index)
            fresh = self.start(model_fn, images, labels, seeds.fold(own_seed, 0))
            return index + 1, run(choose(state["broken"], state, fresh), own_seed)

        state = run(self.start(model_fn, images, labels, seeds.fold(seed, 0), targets), seed)
        if self.restarts > 1:
            loop = (tf.constant(2), state)
            _, state = tf.while_loop(lambda index, _: index <= self.restarts, restart, loop)
        return tf.stop_gradient(self.finish(state))


def choose(which: Tensor, yes: State, no: State) -> State:
    """Returns the rows of `yes` where `which` (batch,), and those of `no` elsewhere."""
    return {name: tf.where(per_example(which, value), value, no[name]) for name, value in yes.items()}


def check_options(attack: Any, norms: tuple[str, ...], whole: tuple[str, ...], positive: tuple[str, ...]) -> None:
    """Checks the fields of an attack.

    Args:
        attack: with the fields `threat_model` and `compute_dtype`, and those named here.
        norms: which its threat model may have.
        whole: names of fields that are integers of at least 1.
        positive: names of fields that are positive numbers.

    Raises:
        ValueError: if a field is out of its range; the message names what was received.
    """
    ball = attack.threat_model
    if not isinstance(ball, ThreatModel) or ball.norm not in norms:
        raise ValueError(
            f"threat_model is a ThreatModel with a norm of {norms}, such as Linf(0.3). "
            f"Received: threat_model={ball!r} of type {type(ball).__name__}"
        )
    for name in whole:
        value = getattr(attack, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is an integer of at least 1. Received: {name}={value!r}")
    for name in positive:
        value = getattr(attack, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{name} is a positive number. Received: {name}={value!r}")
    check_compute_dtype(attack.compute_dtype)
