"""FAB, the fast adaptive boundary attack (Croce & Hein, 2020): it looks for the closest misclassified point.

    attack = FAB(Linf(0.3), targets=9)  # FAB-T as in AutoAttack
    x_adv = attack(as_model_fn(classifier), images, labels, seed=0)

A run makes `steps` steps. Each step linearises the classifier at the current point and goes past the closest linear
boundary (`project_linf` and related functions), biased towards the image. If the new point is misclassified, the step
goes part of the way back to the image. The search ignores the norm ball. An example counts as broken when a
misclassified point within epsilon was found.

Cost: one forward pass of the clean images. Per step, a forward pass, an input gradient, and another forward pass, which
classifies the new point. (The next step cannot reuse this pass: if the point is misclassified, the next step starts
elsewhere.) A targeted step needs the gradient of one difference of logits. An untargeted step needs one gradient per
wrong class; they are computed one after the other, so that memory does not grow with the number of classes.
"""

import dataclasses
import math

import keras
import tensorflow as tf

from keras_robust.attacks.attack import (
    IterativeAttack,
    ModelFn,
    State,
    check_compute_dtype,
    check_gradient,
    own_function,
    value_and_gradient,
)
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import check_integer
from keras_robust.core.objectives import as_sparse, margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import flatten, per_example

LARGEST_KEY = 2**24


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class FAB(IterativeAttack):
    """Fast adaptive boundary attack, FAB and FAB-T (Croce & Hein, 2020, algorithm 1).

    The constants are those of the code of AutoAttack. There is one run per target class and restart. The first run per
    class starts at the image. Later runs start at half of epsilon from it, or at half the distance of the closest
    misclassified point so far if that is less.

    Besides `broken`, the state holds `closest`, the closest misclassified point so far, and its `distance` (infinite if
    there is none, 0 if the image itself is misclassified).

    Args:
        threat_model: `Linf`, `L2` or `L1`. FAB minimises its norm.
        steps: steps per run, at least 1.
        targets: the number of target classes: the most likely wrong ones, one after the other (FAB-T). None is
            untargeted: each step goes to the closest linear boundary of any class.
        alpha_max: largest weight of the projection of the image against that of the point, in [0, 1].
        eta: how far to go beyond a boundary, as a multiple of the way to it, at least 1.
        beta: the part of its way from the image that a misclassified point keeps, in (0, 1).
        restarts: runs per target class, at least 1. Their starts do not depend on the other examples of a batch.
        compute_dtype: "bfloat16", "float16", "float32" or "auto": see `PGD`. Low precision is not recommended, because
            it makes the boundary coarse.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    steps: int = 100
    targets: int | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    restarts: int = 1
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threat_model, ThreatModel) or self.threat_model.norm not in PROJECTIONS:
            raise ValueError(
                f"threat_model must be a ThreatModel, such as Linf(0.3), with one of the norms {sorted(PROJECTIONS)}. "
                f"Received: threat_model={self.threat_model!r} of type {type(self.threat_model).__name__}"
            )
        for name in ("steps", "restarts", "targets"):
            value = getattr(self, name)
            if value is None and name == "targets":
                continue
            check_integer(name, value)
        if not 0 <= self.alpha_max <= 1:
            raise ValueError(f"alpha_max must be in [0, 1]. Received: alpha_max={self.alpha_max!r}")
        if not 1 <= self.eta < math.inf:
            raise ValueError(f"eta must be finite and at least 1. Received: eta={self.eta!r}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be between 0 and 1. Received: beta={self.beta!r}")
        check_compute_dtype(self.compute_dtype)

    @property
    def total_steps(self) -> int:
        """Steps of all runs."""
        return self.steps * self.restarts * (self.targets or 1)

    @property
    def name(self) -> str:
        """Such as "FAB-T-100 (Linf 0.3, 9 targets)". It contains every setting that is not the default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        parts = [str(self.threat_model)]
        if self.targets:
            parts.append(f"{self.targets} targets" if self.targets > 1 else "1 target")
        for name in ("alpha_max", "eta", "beta"):
            if getattr(self, name) != defaults[name]:
                parts.append(f"{name} {getattr(self, name):.4g}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"FAB-{'T-' if self.targets else ''}{self.steps} ({', '.join(parts)})"

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state before the first step: see `IterativeAttack.start`.

        Raises:
            ValueError: if targets are given, or there are too few classes.
        """
        if targets is not None:
            raise ValueError("FAB chooses its target classes itself. Received: targets=a tensor")
        images, labels = tf.convert_to_tensor(images), as_sparse(labels)
        logits = tf.stop_gradient(model_fn(images))
        self.check_fits(tuple(images.shape[1:]), logits.shape[1])
        wrong = margin(labels, logits) > 0
        state = {
            "images": images,
            "labels": labels,
            "point": images,
            "closest": images,
            "distance": tf.where(wrong, 0.0, tf.constant(float("inf"), images.dtype)),
            "broken": wrong,
        }
        if self.targets:
            others = tf.where(tf.one_hot(labels, logits.shape[1], True, False), logits.dtype.min, logits)
            state["targets"] = tf.math.top_k(others, self.targets).indices
        if self.restarts > 1:
            state["key"] = seeds.integers(tf.shape(labels), seed, LARGEST_KEY)
        return state

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if there are too few classes: see `Attack.check_fits`."""
        del image_shape
        needed = (self.targets or 1) + 1
        if classes < needed:
            raise ValueError(
                f"{self.targets or 1} target classes need a classifier of at least {needed} classes. "
                f"Received: targets={self.targets} and a classifier of {classes} classes"
            )

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after more steps: see `IterativeAttack.advance`."""
        fixed = {name: value for name, value in state.items() if name not in ("point", "closest", "distance")}

        def step(done: Tensor, point: Tensor, closest: Tensor, distance: Tensor) -> tuple[Tensor, ...]:
            run, step_of_run = (first_step + done) // self.steps, (first_step + done) % self.steps
            if self.total_steps > self.steps:
                now = {**fixed, "point": point, "distance": distance}
                point = tf.cond(step_of_run == 0, lambda: self._first_point(now, run, seed), lambda: point)
            point = self._across(model_fn, fixed, point, run)
            wrong = margin(fixed["labels"], model_fn(point)) > 0
            length = self.threat_model.distance(point, fixed["images"])
            closer = wrong & (length < distance)
            closest = tf.where(per_example(closer, point), point, closest)
            back = fixed["images"] + self.beta * (point - fixed["images"])
            point = tf.where(per_example(wrong, point), back, point)
            return done + 1, point, closest, tf.where(closer, length, distance)

        loop = (tf.constant(0), state["point"], state["closest"], state["distance"])
        _, point, closest, distance = tf.while_loop(lambda done, *_: done < steps, step, loop)
        broken = distance <= self.threat_model.epsilon
        return {**state, "point": point, "closest": closest, "distance": distance, "broken": broken}

    def finish(self, state: State) -> Tensor:
        """Returns the misclassified point within epsilon, otherwise the clean image; NaN if the search met NaN."""
        numbers = _all_finite(state["point"])
        kept = tf.where(per_example(numbers, state["images"]), state["images"], state["point"])
        return tf.where(per_example(state["broken"], kept), state["closest"], kept)

    def go_on(self, state: State) -> State:
        """See `IterativeAttack.go_on`. The closest point so far no longer counts."""
        return {**super().go_on(state), "distance": tf.fill(tf.shape(state["distance"]), float("inf"))}

    def _first_point(self, state: State, run: Tensor, seed: Tensor) -> Tensor:
        """Returns the start of a run. A point that is not finite stays, so that a later run does not hide it."""
        images = state["images"]
        start = images if self.restarts == 1 else self._random_start(state, run, seeds.fold(seed, run))
        return tf.where(per_example(_all_finite(state["point"]), images), start, state["point"])

    def _random_start(self, state: State, run: Tensor, seed: Tensor) -> Tensor:
        """Returns the image in the first run per class, later a random point around it, clipped to the range."""
        images, ball = state["images"], self.threat_model
        shape = images.shape[1:]

        def draw(key: Tensor) -> Tensor:
            own = seeds.fold(seed, key)
            return 2.0 * seeds.uniform(shape, own) - 1.0 if ball.norm == "linf" else seeds.normal(shape, own)

        direction = tf.map_fn(draw, state["key"], fn_output_signature=tf.TensorSpec(shape, tf.float32))
        length = ball.distance(direction, tf.zeros_like(direction))
        radius = 0.5 * tf.minimum(state["distance"], ball.epsilon) * tf.cast(run % self.restarts > 0, images.dtype)
        return ball.clip(images + per_example(radius / length, images) * direction)

    def _across(self, model_fn: ModelFn, state: State, point: Tensor, run: Tensor) -> Tensor:
        """Returns the next point: past the linear boundary, from the point and from the image (equations 8 and 9)."""
        images, ball = state["images"], self.threat_model
        gap, gradient = self._boundary(model_fn, state, point, run)
        normal = flatten(gradient)
        gap_of_image = gap + tf.reduce_sum(normal * flatten(images - point), axis=1)
        starts, gaps = tf.stack([flatten(point), flatten(images)]), tf.stack([gap, gap_of_image])
        ways = PROJECTIONS[ball.norm](starts, normal, gaps, ball.bounds)
        from_point, from_image = (tf.reshape(ways[side], tf.shape(images)) for side in (0, 1))
        zeros = tf.zeros_like(images)
        length_of_point = tf.maximum(ball.distance(from_point, zeros), 1e-8)
        length_of_image = tf.maximum(ball.distance(from_image, zeros), 1e-8)
        alpha = tf.minimum(length_of_point / (length_of_point + length_of_image), self.alpha_max)
        alpha = per_example(alpha, images)
        return ball.clip((1.0 - alpha) * (point + self.eta * from_point) + alpha * (images + self.eta * from_image))

    def _boundary(self, model_fn: ModelFn, state: State, point: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z_k - z_y, (batch,), and its gradient, for the target class k or for the closest boundary."""
        labels = state["labels"]
        if self.targets:
            target = tf.gather(state["targets"], run // self.restarts, axis=1)

            def gap(point: Tensor) -> Tensor:
                logits = model_fn(point)
                return tf.gather(logits, target, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)

            return value_and_gradient(gap, point)

        return own_function(lambda point: self._closest_boundary(model_fn, point, labels))(point)

    def _closest_boundary(self, model_fn: ModelFn, point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z_k - z_y and its gradient for the wrong class k whose linear boundary is closest.

        Each class has its own backward pass. Only the closest boundary so far is kept.
        """
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(point)
            logits = model_fn(point)
        classes = logits.shape[1]

        def closer(number: Tensor, shortest: Tensor, *closest: Tensor) -> tuple[Tensor, ...]:
            other = number + tf.cast(number >= labels, tf.int32)  # the classes without the label
            gap = tf.gather(logits, other, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)
            of_gap = tf.one_hot(other, classes, dtype=logits.dtype) - tf.one_hot(labels, classes, dtype=logits.dtype)
            gradient = check_gradient(tape.gradient(logits, point, output_gradients=of_gap), point)
            way = tf.abs(gap) / (1e-12 + _dual_norm(gradient, self.threat_model.norm))
            way = tf.where(tf.math.is_nan(way), -1.0, way)  # NaN first, so that it shows
            chosen = (way < shortest) | (number == 0)
            pairs = zip((way, gap, gradient), (shortest, *closest), strict=True)
            return number + 1, *(tf.where(per_example(chosen, new), new, old) for new, old in pairs)

        zeros = tf.zeros_like(logits[:, 0])
        loop = (tf.constant(0), zeros, zeros, tf.zeros_like(point))
        return tf.while_loop(lambda number, *_: number < classes - 1, closer, loop, parallel_iterations=1)[2:]


def _dual_norm(gradient: Tensor, norm: str) -> Tensor:
    """Returns the norm of (batch, ...) dual to `norm`, (batch,): how fast a function can fall."""
    flat = flatten(gradient)
    if norm == "l2":
        return tf.sqrt(tf.reduce_sum(flat**2, axis=1))
    return (tf.reduce_sum if norm == "linf" else tf.reduce_max)(tf.abs(flat), axis=1)


def _all_finite(images: Tensor) -> Tensor:
    return tf.reduce_all(tf.math.is_finite(flatten(images)), axis=1)


def project_linf(points: Tensor, normal: Tensor, excess: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Returns argmin_d ||d||_inf over <normal, d> = -excess and points + d in bounds; pixels of normal 0 stay.

    Every pixel moves downhill by min(lambda, its room), with the lambda for which the function falls by the excess.
    """
    normal, excess = _unit(normal, excess)
    rate, room = tf.abs(normal), _room(points, normal, excess, bounds)
    multiplier = _multiplier(rate, tf.where(rate > 0, room, 0.0), rate * room, tf.abs(excess))
    return _downhill(normal, excess, tf.minimum(multiplier, room))


def project_l2(points: Tensor, normal: Tensor, excess: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Returns argmin_d ||d||_2 over <normal, d> = -excess and points + d in bounds.

    Every pixel moves downhill by min(lambda |normal|, its room), with the lambda for which the function falls by the
    excess.
    """
    normal, excess = _unit(normal, excess)
    rate, room = tf.abs(normal), _room(points, normal, excess, bounds)
    bend = tf.math.divide_no_nan(room, tf.broadcast_to(rate, tf.shape(room)))
    multiplier = _multiplier(rate**2, bend, rate * room, tf.abs(excess))
    return _downhill(normal, excess, tf.where(multiplier >= bend, room, multiplier * rate))


def project_l1(points: Tensor, normal: Tensor, excess: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Returns argmin_d ||d||_1 over <normal, d> = -excess and points + d in bounds.

    Pixels move to their bounds in the order of |normal|, the largest first, until the function has fallen by the
    excess. The last ones, of equal |normal|, all move the same part of their room.
    """
    normal, excess = _unit(normal, excess)
    rate, room = tf.abs(normal), _room(points, normal, excess, bounds)
    fall, wanted = rate * room, tf.abs(excess)
    ranked, order = tf.math.top_k(rate, rate.shape[-1])
    falls = tf.gather(fall, tf.broadcast_to(order, tf.shape(fall)), batch_dims=len(fall.shape) - 1)
    index = tf.reduce_sum(tf.cast(tf.cumsum(falls, axis=-1) < wanted[..., None], tf.int32), axis=-1)
    index = tf.minimum(index, rate.shape[-1] - 1)
    ranked = tf.broadcast_to(ranked, tf.shape(fall))
    last = tf.gather(ranked, index, batch_dims=len(index.shape))[..., None]
    before = tf.reduce_sum(tf.where(rate > last, fall, 0.0), axis=-1)
    there = tf.reduce_sum(tf.where(rate == last, fall, 0.0), axis=-1)
    part = tf.clip_by_value(tf.math.divide_no_nan(wanted - before, there), 0.0, 1.0)[..., None]
    return _downhill(normal, excess, tf.where(rate > last, room, tf.where(rate == last, part * room, 0.0)))


def _unit(normal: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
    """Scales a hyperplane so that its largest entry is 1: squares of small gradients would underflow."""
    largest = tf.reduce_max(tf.abs(normal), axis=-1)
    scale = tf.where(largest == 0, 1.0, largest)
    return normal / scale[:, None], excess / scale


def _room(points: Tensor, normal: Tensor, excess: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Returns how far each pixel can move in the direction in which the excess shrinks."""
    falling = (normal > 0) == (excess >= 0)[..., None]
    return tf.maximum(tf.where(falling, points - bounds[0], bounds[1] - points), 0.0)


def _downhill(normal: Tensor, excess: Tensor, moved: Tensor) -> Tensor:
    """Returns the displacement that moves each pixel by `moved` in the direction in which the excess shrinks."""
    down = tf.where(excess >= 0, -1.0, 1.0)
    down = tf.where(tf.math.is_nan(excess), excess, down)[..., None]
    still = tf.broadcast_to(normal == 0, tf.shape(moved))  # false for NaN, whose sign is NaN
    return tf.where(still, 0.0, down * tf.sign(normal) * moved)


def _multiplier(slope: Tensor, bend: Tensor, most: Tensor, wanted: Tensor) -> Tensor:
    """Returns the lambda, (..., batch, 1), with sum_i min(lambda slope_i, most_i) = wanted, where most = slope bend.

    Newton's method from the left: the sum is concave and piecewise linear in lambda. With the pixels at their bends
    known, lambda has a closed form; starting from none, each round can only add pixels and lambda only grows, so the
    rounds end at the solution, after about ten. It needs no sort. Where the sum cannot be `wanted`, all pixels end at
    their bends, and lambda is infinite.
    """

    def grow(multiplier: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        reached = multiplier[..., None] > bend
        left = wanted - tf.reduce_sum(tf.where(reached, most, 0.0), axis=-1)
        free = tf.reduce_sum(tf.where(reached, 0.0, slope), axis=-1)
        # The maximum: rounding must not take lambda back to 0 where only tiny slopes are left.
        larger = tf.maximum(tf.where(free > 0, left / free, float("inf")), multiplier)
        return larger, tf.reduce_any(larger > multiplier)

    start = tf.zeros_like(wanted)
    return tf.while_loop(lambda _, grows: grows, grow, (start, tf.constant(True)))[0][..., None]


PROJECTIONS = {"linf": project_linf, "l2": project_l2, "l1": project_l1}
