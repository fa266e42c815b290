"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce & Hein, 2020; for L1, 2021).

    attack = APGD(Linf(0.3))
    targeted = APGD(Linf(0.3), objective="dlr", targeted=9)
    x_adv = attack(as_model_fn(classifier), images, labels, seed=0)

A run costs `steps` + 1 forward passes and input gradients, at its start and after each step (`steps` + 3 with
`larger_radii`), times `eot_iter`. The number of runs is `restarts` times the number of target classes. Finding these
classes costs one forward pass.
"""

import dataclasses
from typing import Any, Self

import keras
import tensorflow as tf

from keras_robust.attacks.apgd_rules import RULES, Rule, Schedule, ScheduleEntry, make_schedule, per_row_zeros, stages
from keras_robust.attacks.attack import (
    IterativeAttack,
    ModelFn,
    State,
    check_compute_dtype,
    value_and_gradient,
)
from keras_robust.core import Objective, ThreatModel, seeds
from keras_robust.core.checks import check_integer
from keras_robust.core.objectives import Goal, as_sparse, get_objective
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE, replace_unchecked
from keras_robust.core.threat_models import per_example


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class APGD(IterativeAttack):
    """Auto-PGD (Croce & Hein, 2020; for L1, Croce & Hein, 2021).

    It returns, per example, the first misclassified point that it met. If there was none, it returns the point with the
    largest objective. A point whose logits are not finite counts as misclassified.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: gradient steps per run, at least 1.
        objective: what is maximised: "cross_entropy", "dlr", "margin", "kl_divergence" or an `Objective`. None lets the
            method that trains with the attack choose: the divergence in `TRADES`, the cross-entropy elsewhere.
        targeted: 0, or the number of target classes. The attack runs towards one after the other, the most likely wrong
            class of the clean image first. 9 with "dlr" is APGD-T.
        restarts: independent runs (per target), at least 1.
        rho: in [0, 1], for Linf and L2. A checkpoint halves the step size unless more than this share of the steps
            increased the objective.
        larger_radii: for L1: first run 30 % of the steps within three times epsilon and 30 % within twice epsilon, each
            from the best point so far (Croce & Hein, 2021, section 4.3). AutoAttack does this.
        eot_iter: number of passes over which a gradient is averaged, at least 1. More than 1 is for classifiers that
            are random at inference (expectation over transformation, Athalye et al., 2018). The last pass gives the
            objective.
        compute_dtype: "bfloat16" or "float16" runs the attack's passes in low precision over the float32 weights,
            "float32" in full precision if the classifier computes in 16 bits, "auto" in the faster of "bfloat16" and
            "float32" on this machine: see `PGD`.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    steps: int = 100
    objective: str | Objective | None = None
    targeted: int = 0
    restarts: int = 1
    rho: float = 0.75
    larger_radii: bool = False
    eot_iter: int = 1
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threat_model, ThreatModel) or self.threat_model.norm not in RULES:
            raise ValueError(
                "threat_model must be Linf, L2 or L1, such as Linf(0.3). "
                f"Received: threat_model={self.threat_model!r} of type {type(self.threat_model).__name__}"
            )
        for name, least in (("steps", 1), ("restarts", 1), ("eot_iter", 1), ("targeted", 0)):
            value = getattr(self, name)
            check_integer(name, value, least)
        if isinstance(self.rho, bool) or not isinstance(self.rho, int | float) or not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1]. Received: rho={self.rho!r}")
        check_compute_dtype(self.compute_dtype)
        get_objective(self.resolved_objective)
        if self.targeted and not self.resolved_objective.takes_targets:
            raise ValueError(f"{self.resolved_objective.name} takes no targets. Received: targeted={self.targeted}")
        self._check_radii()

    def _check_radii(self) -> None:
        if not isinstance(self.larger_radii, bool):
            raise ValueError(f"larger_radii must be a bool. Received: larger_radii={self.larger_radii!r}")
        if self.larger_radii and self.threat_model.norm != "l1":
            raise ValueError(f"larger_radii works only with L1. Received: threat_model={self.threat_model}")
        if any(steps < 1 for steps, _ in stages(self.steps, self.larger_radii)):
            raise ValueError(
                f"larger_radii needs a step in each of three radii: use more steps. Received: steps={self.steps}"
            )

    @property
    def resolved_objective(self) -> Objective:
        """The objective, as an object: as given, or the cross-entropy."""
        return get_objective("cross_entropy" if self.objective is None else self.objective)

    def with_defaults(self, **defaults: Any) -> Self:
        """Returns this attack with the objective of a training method, where it was given none: see `Attack`."""
        return self if self.objective is not None else dataclasses.replace(self, objective=defaults.get("objective"))

    def resolved(self) -> Self:
        """Returns this attack with its objective filled in."""
        return dataclasses.replace(self, objective="cross_entropy" if self.objective is None else self.objective)

    @property
    def name(self) -> str:
        """Such as "APGD-100 (Linf 0.3, cross_entropy)" and "APGD-T-100 (Linf 0.3, dlr, 9 targets)"."""
        parts = [str(self.threat_model), self.resolved_objective.display_name]
        if self.targeted:
            parts.append(f"{self.targeted} target{'s' * (self.targeted > 1)}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.rho != 0.75:
            parts.append(f"rho {self.rho:.4g}")
        if self.larger_radii:
            parts.append("larger radii")
        if self.eot_iter > 1:
            parts.append(f"gradients of {self.eot_iter} passes")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"APGD-{'T-' if self.targeted else ''}{self.steps} ({', '.join(parts)})"

    @property
    def total_steps(self) -> int:
        """Steps of all runs: steps of a run, times restarts, times target classes."""
        return self.steps * self.restarts * max(self.targeted, 1)

    @property
    def _rule(self) -> Rule:
        return RULES[self.threat_model.norm]

    @property
    def _schedule(self) -> Schedule:
        return make_schedule(self.steps, sparse=self._rule.sparse, larger_radii=self.larger_radii)

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state before the first step. Runs draw their starts when they begin.

        Raises:
            ValueError: if targets are given, or the classifier has too few classes.
        """
        if targets is not None:
            raise ValueError("APGD chooses its target classes itself. Received: targets=a tensor")
        images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
        zeros = per_row_zeros(images)
        images_of = dict.fromkeys(("images", "point", "gradient", "best", "best_gradient", "result"), images)
        numbers = {"best_loss": zeros, "step_size": zeros, "result_loss": zeros - float("inf")}
        state = {**images_of, **numbers, "labels": labels, "broken": tf.cast(zeros, tf.bool)}
        if self.targeted or self.resolved_objective.needs_clean_logits:
            logits = tf.stop_gradient(model_fn(images))
            self._check_classes(logits.shape[1])
            state["clean_logits"] = logits
        if self.targeted:
            is_label = tf.one_hot(as_sparse(labels), logits.shape[1], True, False)
            state["targets"] = tf.math.top_k(tf.where(is_label, -float("inf"), logits), self.targeted).indices
        return state | self._rule.extra(images)

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more steps, which may continue from one run into the next."""
        schedule = self._schedule
        first = tf.convert_to_tensor(first_step, tf.int32)
        begin, end = schedule.evaluation_before(first), schedule.evaluation_before(first + steps)

        def evaluate(evaluation: Tensor, state: State) -> tuple[Tensor, State]:
            run, entry = evaluation // schedule.evaluations, schedule.at(evaluation % schedule.evaluations)
            radius = entry.radius * self.threat_model.epsilon
            state = tf.cond(
                entry.starts_stage,
                lambda: self._start_stage(state, entry, radius, seeds.fold(seed, run)),
                lambda: state | self._rule.move(self.threat_model, state, entry, radius),
            )
            state, logits, loss = self._differentiate(model_fn, state, run)
            state = self._observe(state, entry, logits, loss)
            return evaluation + 1, tf.cond(
                entry.steps_since_check > 0,
                lambda: state | self._rule.check(state, entry, radius, self.rho),
                lambda: state,
            )

        return tf.while_loop(lambda evaluation, _: evaluation < end, evaluate, (begin, state))[1]

    def finish(self, state: State) -> Tensor:
        """Returns the first misclassified point of an example, or else the one with the largest objective."""
        return state["result"]

    def first_gradient(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and the gradient of the objective, towards the first target, at a random point of the ball."""
        state = self.start(model_fn, images, labels, seed) | {"point": self.threat_model.random_point(images, seed)}
        single = replace_unchecked(self, eot_iter=1)
        state, logits, _ = single._differentiate(model_fn, state, tf.constant(0))
        return logits, state["gradient"]

    def _start_stage(self, state: State, entry: ScheduleEntry, radius: Tensor, seed: Tensor) -> State:
        ball, images = self.threat_model, state["images"]
        point = tf.cond(
            entry.draws_start,
            lambda: self._rule.draw(ball, images, radius, seed),
            lambda: self._rule.shrink(ball, state["best"], images, radius),
        )
        state = state | {"point": point}
        return state | self._rule.start_stage(state, entry, radius, self.larger_radii)

    def _differentiate(self, model_fn: ModelFn, state: State, run: Tensor) -> tuple[State, Tensor, Tensor]:
        """Returns the state with the gradient at its point, the logits, and the objective per example."""
        targets = tf.gather(state["targets"], run // self.restarts, axis=1) if self.targeted else None
        goal = Goal(state["labels"], targets, state.get("clean_logits"))
        point = state["point"]

        def value(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = model_fn(point)
            self._check_classes(logits.shape[1])
            return self.resolved_objective(logits, goal), logits

        def once() -> tuple[Tensor, Tensor, Tensor]:
            (loss, logits), gradient = value_and_gradient(value, point)
            return gradient, logits, loss

        def again(index: Tensor, gradient: Tensor, _logits: Tensor, _loss: Tensor) -> tuple[Tensor, ...]:
            other, logits, loss = once()
            return index + 1, gradient + other, logits, loss

        gradient, logits, loss = once()
        if self.eot_iter > 1:
            passes = (tf.constant(1), gradient, logits, loss)
            _, gradient, logits, loss = tf.while_loop(lambda index, *_: index < self.eot_iter, again, passes)
            gradient /= self.eot_iter
        return state | {"gradient": gradient}, logits, loss

    def _observe(self, state: State, entry: ScheduleEntry, logits: Tensor, loss: Tensor) -> State:
        """Keeps the best point of the stage, and the result of all runs. A misclassified result stays."""
        point = state["point"]
        improved = entry.starts_stage | (loss > state["best_loss"])
        rows = per_example(improved, point)
        wrong = ~tf.reduce_all(tf.math.is_finite(logits), axis=1)
        wrong |= tf.argmax(logits, axis=1, output_type=tf.int32) != as_sparse(state["labels"])
        kept = entry.counts & ~state["broken"] & (wrong | (loss > state["result_loss"]))
        seen = {
            "best": tf.where(rows, point, state["best"]),
            "best_gradient": tf.where(rows, state["gradient"], state["best_gradient"]),
            "best_loss": tf.where(improved, loss, state["best_loss"]),
            "result": tf.where(per_example(kept, point), point, state["result"]),
            "result_loss": tf.where(kept, loss, state["result_loss"]),
            "broken": state["broken"] | (entry.counts & wrong),
        }
        return state | seen | self._rule.observe(state, entry, loss)

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if there are too few classes: see `Attack.check_fits`."""
        del image_shape
        self._check_classes(classes)

    def _check_classes(self, classes: int) -> None:
        """Raises `ValueError` if the classifier has too few classes for the objective and the targets."""
        objective = self.resolved_objective
        # Targeted DLR divides by a difference of the first, third and fourth logit; DLR needs the first three.
        needed = objective.min_classes + (self.targeted > 0 and objective.name == "dlr")
        if classes < max(needed, self.targeted + 1):
            raise ValueError(
                f"{self.name} needs a classifier of at least {max(needed, self.targeted + 1)} classes. "
                f"Received: a classifier of {classes} classes"
            )
