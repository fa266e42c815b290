"""What attacks share that see only logits: state, checks of options, restarts."""

from typing import Any, ClassVar

import tensorflow as tf

from keras_robust.attacks.attack import IterativeAttack, ModelFn, State, check_compute_dtype
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import check_integer
from keras_robust.core.objectives import as_sparse, margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import per_example

BEGIN = 2**31 - 1
"""Folded into the seed of a run for its start. No step has this number."""


class ScoreBasedAttack(IterativeAttack):
    """Base class of attacks that maximise the margin from logits, without gradients. Subclasses are frozen dataclasses.

    The state holds `images`, sparse `labels`, `points`, their margin as `value`, and `broken`. A point is misclassified
    if its margin is above 0 or NaN. From then on the example does not change, also in later restarts. A subclass
    defines `steps_per_run`, `_first_points` and `_step`.
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
        """Returns the state at the random start: see `IterativeAttack.start`. It costs one forward pass.

        Raises:
            ValueError: if targets are given, or the attack does not accept the shape of the images.
        """
        images = tf.convert_to_tensor(images)
        if targets is not None:
            raise ValueError(f"{self.name} is untargeted: give no targets. Received: targets={targets!r}")
        self._check_image(tuple(images.shape[1:]))
        return self._begin(model_fn, images, as_sparse(labels), seed)

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if the attack does not accept the shape of the images: see `Attack.check_fits`."""
        del classes
        self._check_image(image_shape)

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more steps, or when all are broken: see `IterativeAttack.advance`."""

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
        """See `IterativeAttack.go_on`. The next misclassified point is kept."""
        return {**super().go_on(state), "value": tf.minimum(state["value"], 0.0)}

    def _begin(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> State:
        state = {"images": images, "labels": labels, **self._first_points(images, seed)}
        value = margin(labels, model_fn(state["points"]))
        return {**state, "value": value, "broken": ~(value <= 0)}

    def _check_image(self, image_shape: tuple[int, ...]) -> None:
        """Raises `ValueError` if the attack does not accept images of this shape. Most accept any."""

    def _first_points(self, images: Tensor, seed: Tensor) -> State:
        """Returns the start as `points`, and whatever else the attack keeps per example."""
        raise NotImplementedError

    def _step(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> State:
        """Returns the entries of the state that step `number` of a run changes, at least `points` and `value`."""
        raise NotImplementedError


def choose(which: Tensor, yes: State, no: State) -> State:
    """Returns the rows of `yes` where `which`, (batch,) bool, and those of `no` elsewhere."""
    return {name: tf.where(per_example(which, value), value, no[name]) for name, value in yes.items()}


def check_options(attack: Any, norms: tuple[str, ...], whole: tuple[str, ...], positive: tuple[str, ...]) -> None:
    """Checks the fields of an attack.

    Args:
        attack: has the fields `threat_model` and `compute_dtype`, and those named here.
        norms: allowed norms of its threat model.
        whole: names of fields that must be integers of at least 1.
        positive: names of fields that must be positive numbers.

    Raises:
        ValueError: if a field is out of its range. The message says what was received.
    """
    ball = attack.threat_model
    if not isinstance(ball, ThreatModel) or ball.norm not in norms:
        raise ValueError(
            f"threat_model must be a ThreatModel with one of the norms {norms}, such as Linf(0.3). "
            f"Received: threat_model={ball!r} of type {type(ball).__name__}"
        )
    for name in whole:
        value = getattr(attack, name)
        check_integer(name, value)
    for name in positive:
        value = getattr(attack, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number. Received: {name}={value!r}")
    check_compute_dtype(attack.compute_dtype)
