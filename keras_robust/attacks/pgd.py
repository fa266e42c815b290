"""Projected gradient ascent.

    attack = PGD(Linf(0.3), steps=40, step_size=0.01, restarts=5)
    x_adv = attack(as_model_fn(classifier), images, labels, seed=0)

A call costs exactly `steps` forward passes and input gradients per restart. If there are several restarts, each costs
one more forward pass, to compare them. All this is multiplied by `eot_iter`. An objective or target that looks at the
clean image costs one more forward pass.
"""

import dataclasses
from typing import Any, Self

import keras
import tensorflow as tf

from keras_robust.attacks.attack import Attack, ModelFn, check_compute_dtype, mean_of_passes, value_and_gradient
from keras_robust.core import Objective, ThreatModel, seeds
from keras_robust.core.checks import check_integer, check_positive
from keras_robust.core.objectives import (
    NEEDS_CLEAN_LOGITS,
    Goal,
    Margin,
    as_sparse,
    check_target,
    choose_goal_classes,
    get_objective,
    margin,
)
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import in_words, per_example

RANDOM_STARTS = ("none", "uniform", "sign", "normal")

NORMAL_START = 0.001
"""Standard deviation of a "normal" start."""


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent from a random start (Madry et al., 2018).

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: number of gradient steps, at least 1.
        step_size: in the units of epsilon. None is 2.5 epsilon / steps (Bhat et al., 2018, section 6).
        objective: what is maximised: "cross_entropy", "margin", "dlr", "kl_divergence" or an `Objective`. None lets the
            method that trains with the attack choose: the divergence in `TRADES`, the cross-entropy elsewhere.
        target: "untargeted", "untargeted_from_prediction" (away from the class predicted for the clean image), "given"
            (towards `targets`), "random" (towards a wrong class), "random_any" (any class) or "least_likely".
        random_start: "uniform" in the ball (or True), "none" (or False), "sign": `start_radius` times the signs of
            Gaussian noise (R+FGSM, Tramèr et al., 2018; Linf only), or "normal": `start_radius` times Gaussian noise
            (TRADES, Zhang et al., 2019). None lets the method choose: "normal" in `TRADES` and `MART`, "uniform"
            elsewhere.
        start_radius: for "sign" and "normal", in the units of epsilon. None is epsilon for "sign", and 0.001, as in
            the code of TRADES, for "normal".
        clean_start_probability: probability of starting at the clean image instead (Xie & Yuille, 2020: 0.2).
        clean_start_per: "example" draws this for each image, "batch" once per call, as their original code does.
        restarts: independent starts, at least 1. The worst result per example is kept: a misclassified one if there is
            any, then the one with the largest objective.
        compute_dtype: "bfloat16" or "float16" runs the attack's passes in low precision over the float32 weights.
            "float32" runs them in full precision if the classifier computes in 16 bits. "auto" chooses the faster of
            "bfloat16" and "float32" on the machine that attacks; `name` says which. It acts where `model_fn` is made:
            `RobustModel` and `evaluate` do this.
        eot_iter: number of passes over which each gradient is averaged, at least 1. More than 1 is for classifiers that
            are random at inference (expectation over transformation, Athalye et al., 2018). Restarts are then compared
            by the means of their margins and objectives over this number of passes.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    steps: int = 10
    step_size: float | None = None
    objective: str | Objective | None = None
    target: str = "untargeted"
    random_start: str | bool | None = None
    start_radius: float | None = None
    clean_start_probability: float = 0.0
    clean_start_per: str = "example"
    restarts: int = 1
    compute_dtype: str | None = None
    eot_iter: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.threat_model, ThreatModel):
            raise ValueError(
                "threat_model must be a ThreatModel, such as Linf(0.3). "
                f"Received: threat_model={self.threat_model!r} of type {type(self.threat_model).__name__}"
            )
        for name in ("steps", "restarts", "eot_iter"):
            value = getattr(self, name)
            check_integer(name, value)
        if self.step_size is not None:
            check_positive("step_size", self.step_size)
        get_objective(self.resolved_objective)
        check_target(self.target)
        check_compute_dtype(self.compute_dtype)
        self._check_start()
        if self.aim and not self.resolved_objective.takes_targets:
            raise ValueError(f"{self.resolved_objective.name} takes no targets. Received: target={self.target!r}")

    def _check_start(self) -> None:
        if isinstance(self.random_start, bool):
            object.__setattr__(self, "random_start", "uniform" if self.random_start else "none")
        start = "uniform" if self.random_start is None else self.random_start
        if start not in RANDOM_STARTS:
            raise ValueError(f"random_start must be a bool or one of {RANDOM_STARTS}. Received: random_start={start!r}")
        if start == "sign" and self.threat_model.norm != "linf":
            raise ValueError(f"random_start='sign' works only with Linf. Received: threat_model={self.threat_model}")
        if self.start_radius is not None and not 0 <= self.start_radius <= self.threat_model.epsilon:
            raise ValueError(
                f"start_radius must be in [0, epsilon], or None. Received: start_radius={self.start_radius!r}"
            )
        if not 0 <= self.clean_start_probability <= 1:
            raise ValueError(
                "clean_start_probability must be in [0, 1]. "
                f"Received: clean_start_probability={self.clean_start_probability!r}"
            )
        if self.clean_start_per not in ("example", "batch"):
            raise ValueError(
                f"clean_start_per must be 'example' or 'batch'. Received: clean_start_per={self.clean_start_per!r}"
            )
        if self.resolved_objective.needs_clean_logits and (start == "none" or self.clean_start_probability > 0):
            raise ValueError(
                f"{self.resolved_objective.name} has no gradient at the clean image: use a random start. Received: "
                f"random_start={start!r} and clean_start_probability={self.clean_start_probability!r}"
            )
        if self.restarts > 1 and start == "none":
            raise ValueError(
                f"Without a random start all restarts are equal: use restarts=1. Received: restarts={self.restarts}"
            )

    @property
    def resolved_step_size(self) -> float:
        """The step size: as given, or 2.5 epsilon / steps."""
        return 2.5 * self.threat_model.epsilon / self.steps if self.step_size is None else self.step_size

    @property
    def resolved_objective(self) -> Objective:
        """The objective, as an object: as given, or the cross-entropy."""
        return get_objective("cross_entropy" if self.objective is None else self.objective)

    @property
    def resolved_random_start(self) -> str:
        """The name of the start: as given, or "uniform"."""
        return "uniform" if self.random_start is None else str(self.random_start)

    def with_defaults(self, **defaults: Any) -> Self:
        """Returns this attack with the objective, start and step size of a training method: see `Attack`."""
        changes: dict[str, Any] = {}
        if self.objective is None:
            changes["objective"] = defaults.get("objective")
        if self.random_start is None:
            changes["random_start"] = defaults.get("random_start")
        if self.objective is None and self.step_size is None:
            changes["step_size"] = defaults.get("step_size") or None  # 0 steps of PGD are refused
        return dataclasses.replace(self, **changes)

    def resolved(self) -> Self:
        """Returns this attack with its objective and start filled in."""
        objective = "cross_entropy" if self.objective is None else self.objective
        return dataclasses.replace(self, objective=objective, random_start=self.resolved_random_start)

    @property
    def name(self) -> str:
        """Such as "PGD-40 (Linf 0.3, step 0.01, 5 restarts)". It contains every setting that is not the default."""
        parts = [str(self.threat_model), f"step {in_words(self.resolved_step_size)}"]
        if self.resolved_objective.name != "cross_entropy":
            parts.append(self.resolved_objective.display_name)
        if self.target != "untargeted":
            parts.append(f"target {self.target}")
        if self.resolved_random_start != "uniform":
            parts.append(f"start {self.resolved_random_start}")
        if self.start_radius is not None:
            parts.append(f"start radius {in_words(self.start_radius)}")
        if self.clean_start_probability > 0:
            per = " per batch" if self.clean_start_per == "batch" else ""
            parts.append(f"clean start {self.clean_start_probability:.4g}{per}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.eot_iter > 1:
            parts.append(f"gradients of {self.eot_iter} passes")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"PGD-{self.steps} ({', '.join(parts)})"

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: see `Attack.perturb`.

        Raises:
            ValueError: if targets and `target` do not fit together, or the classifier has too few classes for the
                objective.
        """
        images, seed = tf.convert_to_tensor(images), seeds.as_seed(seed)
        goal = self.goal(model_fn, images, labels, seeds.fold(seed, 0), targets)
        x_adv = self._run(model_fn, images, goal, seeds.fold(seed, 1))
        if self.restarts == 1:
            return tf.stop_gradient(x_adv)

        def score(points: Tensor) -> tuple[Tensor, Tensor]:
            def once() -> tuple[Tensor, Tensor]:
                logits = model_fn(points)
                return margin(labels, logits), self.resolved_objective(logits, goal)

            ahead, value = mean_of_passes(once, self.eot_iter)
            return ahead > 0, value

        def restart(index: Tensor, best: Tensor, wrong: Tensor, value: Tensor) -> tuple[Tensor, ...]:
            other = self._run(model_fn, images, goal, seeds.fold(seed, index))
            other_wrong, other_value = score(other)
            better = (other_wrong & ~wrong) | ((other_wrong == wrong) & (other_value > value))
            best = tf.where(per_example(better, images), other, best)
            return index + 1, best, wrong | other_wrong, tf.where(better, other_value, value)

        state = (tf.constant(2), x_adv, *score(x_adv))
        _, x_adv, _, _ = tf.while_loop(lambda index, *_: index <= self.restarts, restart, state)
        return tf.stop_gradient(x_adv)

    def goal(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> Goal:
        """Returns the goal of the objective. Arguments: see `Attack.perturb`; the seed, (2,), is for random targets.

        If only the number of classes is used, the compiler drops the pass of the clean images.

        Raises:
            ValueError: if targets and `target` do not fit together.
        """
        if (targets is not None) != (self.target == "given"):
            raise ValueError(
                "Give targets exactly if target='given'. "
                f"Received: target={self.target!r} and targets={'None' if targets is None else 'a tensor'}"
            )
        look = self.resolved_objective.needs_clean_logits or self.target in NEEDS_CLEAN_LOGITS
        clean_logits = tf.stop_gradient(model_fn(images)) if look else None
        if targets is None:
            labels, targets = choose_goal_classes(self.target, labels, clean_logits, seed)
        return Goal(labels, targets, clean_logits)

    @property
    def aim(self) -> str | None:
        """The name of the target, or None: see `Attack.aim`."""
        return None if self.target in ("untargeted", "untargeted_from_prediction") else self.target

    def aimed_at(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: int | Tensor, targets: Tensor | None = None
    ) -> Tensor:
        """Returns the targets: see `Attack.aimed_at`. The least likely class costs a pass of the clean images."""
        goal = self.goal(model_fn, images, labels, seeds.fold(seeds.as_seed(seed), 0), targets)
        return as_sparse(goal.targets)

    def start(self, images: Tensor, seed: Tensor) -> Tensor:
        """Returns where a run starts, of the shape of `images`, for an int32 seed of shape (2,)."""
        if self.resolved_random_start == "none":
            return images
        if self.resolved_random_start == "sign":
            radius = self.threat_model.epsilon if self.start_radius is None else self.start_radius
            sign = tf.sign(seeds.uniform(tf.shape(images), seeds.fold(seed, 0)) - 0.5)
            start = self.threat_model.clip(images + per_example(radius, images) * tf.cast(sign, images.dtype))
        elif self.resolved_random_start == "normal":
            deviation = NORMAL_START if self.start_radius is None else self.start_radius
            noise = tf.cast(seeds.normal(tf.shape(images), seeds.fold(seed, 0)), images.dtype)
            start = self.threat_model.project(images + per_example(deviation, images) * noise, images)
        else:
            start = self.threat_model.random_point(images, seeds.fold(seed, 0))
        if self.clean_start_probability == 0:
            return start
        draws = tf.shape(images)[:1] if self.clean_start_per == "example" else (1,)
        clean = seeds.uniform(draws, seeds.fold(seed, 1)) < self.clean_start_probability
        return tf.where(per_example(clean, images), images, start)

    def ascend(self, model_fn: ModelFn, images: Tensor, points: Tensor, goal: Goal, steps: int | Tensor) -> Tensor:
        """Returns `points` after `steps` more steps. Each step is a forward pass, an input gradient, and a projection.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, ...), the centres of the balls.
            points: (batch, ...), in these balls: from `start`, or from an earlier call.
            goal: from `goal`.
            steps: an integer or an int32 scalar. With a tensor, one graph serves any number.

        Raises:
            ValueError: if the classifier has too few classes for the objective.
        """
        ball, step_size = self.threat_model, per_example(self.resolved_step_size, images)

        def value(x_adv: Tensor) -> Tensor:
            logits = model_fn(x_adv)
            self._check_classes(logits.shape[1], goal.targets is not None)
            return self.resolved_objective(logits, goal)

        def step(x_adv: Tensor) -> Tensor:
            gradient = mean_of_passes(lambda: value_and_gradient(value, x_adv)[1], self.eot_iter)
            return ball.project(x_adv + step_size * ball.steepest_ascent(gradient), images)

        loop = (tf.constant(0), points)
        return tf.while_loop(lambda done, _: done < steps, lambda done, x_adv: (done + 1, step(x_adv)), loop)[1]

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if there are too few classes for the objective: see `Attack.check_fits`."""
        del image_shape
        self._check_classes(classes, self.aim is not None)

    def first_gradient(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and the gradient of the objective at a start; for given targets, away from the label."""
        known = self.target != "given"
        goal = self.goal(model_fn, images, labels, seeds.fold(seed, 0)) if known else Goal(labels)

        def value(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = model_fn(points)
            self._check_classes(logits.shape[1], goal.targets is not None)
            return self.resolved_objective(logits, goal), logits

        (_, logits), gradient = value_and_gradient(value, self.start(images, seeds.fold(seed, 1)))
        return logits, gradient

    def _run(self, model_fn: ModelFn, images: Tensor, goal: Goal, seed: Tensor) -> Tensor:
        """Runs the attack from one start."""
        return self.ascend(model_fn, images, self.start(images, seed), goal, self.steps)

    def _check_classes(self, classes: int, has_targets: bool) -> None:
        objective = self.resolved_objective
        needed = objective.min_classes + (has_targets and objective.name == "dlr")
        if classes < needed:
            raise ValueError(
                f"{objective.name} needs at least {needed} classes. Received: a classifier of {classes} classes"
            )


def FGSM(threat_model: ThreatModel, **options: Any) -> PGD:  # noqa: N802
    """The fast gradient sign method (Goodfellow et al., 2015): one step of epsilon from the clean image.

    Args:
        threat_model: `Linf`, or `L2` and `L1` for the fast gradient method.
        **options: arguments of `PGD`, such as `target`.
    """
    return PGD(threat_model, steps=1, step_size=threat_model.epsilon or None, random_start="none", **options)


def RFGSM(threat_model: ThreatModel, *, start_radius: float | None = None, **options: Any) -> PGD:  # noqa: N802
    """R+FGSM (Tramèr et al., 2018, section 4.2): random signs of size alpha, then one step of epsilon - alpha.

    Args:
        threat_model: `Linf`.
        start_radius: alpha, below epsilon (or both 0); None is epsilon / 2.
        **options: arguments of `PGD`, such as `target`.
    """
    if start_radius is not None and start_radius != 0 and not 0 < start_radius < threat_model.epsilon:
        raise ValueError(f"start_radius must be in [0, epsilon), or None. Received: start_radius={start_radius!r}")
    alpha = threat_model.epsilon / 2 if start_radius is None else start_radius
    step_size = threat_model.epsilon - alpha or None
    return PGD(threat_model, steps=1, step_size=step_size, random_start="sign", start_radius=alpha, **options)


def BIM(threat_model: ThreatModel, *, steps: int = 10, step_size: float | None = None, **options: Any) -> PGD:  # noqa: N802
    """The basic iterative method (Kurakin et al., 2017): PGD from the clean image.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: number of gradient steps.
        step_size: in the units of epsilon. None is epsilon / steps, so that the path just reaches the edge of the ball.
        **options: arguments of `PGD`, such as `target`.
    """
    if step_size is None and steps:  # PGD refuses 0 steps
        step_size = threat_model.epsilon / steps or None
    return PGD(threat_model, steps=steps, step_size=step_size, random_start="none", **options)


def CW(threat_model: ThreatModel, *, steps: int = 100, kappa: float | None = 0.0, **options: Any) -> PGD:  # noqa: N802
    """CW-K of Shafahi et al. (2019) and Madry et al. (2018): K steps of PGD on the margin of Carlini & Wagner (2017).

    It is not the attack of Carlini & Wagner, which looks for the smallest perturbation. `FAB` does that.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: K.
        kappa: margin at which an example stops moving: 0 in the code of Shafahi et al., 50 in that of Madry et al.
        **options: arguments of `PGD`, such as `step_size` and `restarts`.
    """
    return PGD(threat_model, steps=steps, objective=Margin(kappa), **options)
