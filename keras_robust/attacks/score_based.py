"""What attacks have in common that only see logits: state, checks of options, restarts."""

from typing import Any, ClassVar

import tensorflow as tf

from keras_robust.attacks.attack import IterativeAttack, ModelFn, State, check_compute_dtype
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import check_integer
from keras_robust.core.objectives import as_sparse, margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import per_example

BEGIN = 2**31 - 1
"""Folded into the seed of a run, it is that of its start: no step has this number."""


class ScoreBasedAttack(IterativeAttack):
    """Base class of attacks on the margin that use logits and no gradients, as frozen dataclasses.

    The state holds `images`, sparse `labels`, `points`, their margin as `value`, and `broken`. A point is misclassified
    where its margin is above 0, or no number; from then on the example stays as it is, in later restarts too. A
    subclass defines `steps_per_run`, `_first_points` and `_step`.
    """

    follows_gradients: ClassVar[bool] = False

    @property
    def steps_per_run(self) -> int:
        """The number of steps after each start."""
        raise NotImplementedError

    @property
    def total_steps(self) -> int:
        """Steps of all runs."""
        return self.steps_per_run * self.restarts

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state at the random start, for one forward pass: see `IterativeAttack.start`.

        Raises:
            ValueError: if targets are given, or the images have a shape that the attack does not take.
        """
        images = tf.convert_to_tensor(images)
        if targets is not None:
            raise ValueError(f"{self.name} is untargeted. Received: targets={targets!r}")
        self._check_image(tuple(images.shape[1:]))
        return self._begin(model_fn, images, as_sparse(labels), seed)

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if the images have a shape that the attack does not take: see `Attack.check_fits`."""
        del classes
        self._check_image(image_shape)

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more steps, or once all are broken: see `IterativeAttack.advance`."""

        def begin(state: State, run_seed: Tensor) -> State:
            fresh = self._begin(model_fn, state["images"], state["labels"], seeds.fold(run_seed, BEGIN))
            return choose(state["broken"], state, fresh)

        def step(done: Tensor, state: State) -> tuple[Tensor, State]:
            run, number = (first_step + done) // self.steps_per_run, (first_step + done) % self.steps_per_run
            run_seed = seeds.fold(seed, run)
            if self.restarts > 1:
                again = (number == 0) & (run > 0)
                state = tf.cond(again, lambda: begin(state, run_seed), lambda: state)
            moved = self._step(model_fn, state, number, seeds.fold(run_seed, number))
            return done + 1, choose(state["broken"], state, {**state, **moved, "broken": ~(moved["value"] <= 0)})

        def more(done: Tensor, state: State) -> Tensor:
            return (done < steps) & ~tf.reduce_all(state["broken"])

        return tf.while_loop(more, step, (tf.constant(0), dict(state)))[1]

    def finish(self, state: State) -> Tensor:
        """Returns the attacked images."""
        return state["points"]

    def go_on(self, state: State) -> State:
        """See `IterativeAttack.go_on`: the next misclassified point is kept."""
        return {**super().go_on(state), "value": tf.minimum(state["value"], 0.0)}

    def _begin(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> State:
        state = {"images": images, "labels": labels, **self._first_points(images, seed)}
        value = margin(labels, model_fn(state["points"]))
        return {**state, "value": value, "broken": ~(value <= 0)}

    def _check_image(self, image_shape: tuple[int, ...]) -> None:
        """Raises `ValueError` if the attack does not take images of a shape; most take any."""

    def _first_points(self, images: Tensor, seed: Tensor) -> State:
        """Returns the start as `points`, and what else the attack keeps per example."""
        raise NotImplementedError

    def _step(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> State:
        """Returns what step `number` of a run changes of the state, at least `points` and `value`."""
        raise NotImplementedError


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
        check_integer(name, value)
    for name in positive:
        value = getattr(attack, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{name} is a positive number. Received: {name}={value!r}")
    check_compute_dtype(attack.compute_dtype)
