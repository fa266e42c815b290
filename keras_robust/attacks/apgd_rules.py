"""How Auto-PGD starts, steps and adapts its step size: one rule for Linf and L2, one for L1.

A rule works on the rows of a state. Every rule has the keys `images`, `point`, `gradient` (at the point), `best`,
`best_gradient` and `best_loss` (of the stage), and `step_size`. All draws have the shape of the batch.
"""

import math
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from keras_robust.attacks.attack import State
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import flatten, per_example

FIRST_STEP_IN_FULL = 1.0
KEPT_OF_STEP = 0.75
"""alpha of Croce & Hein (2020), section 3: the weight of the new step. The rest is the weight of the last step."""
LARGER_RADII = (3.0, 2.0, 1.0)
"""Radii in units of epsilon, for 30, 30 and 40 % of the steps (Croce & Hein, 2021, section 4.3)."""


class ScheduleEntry(NamedTuple):
    """Scalars that describe one evaluation.

    Attributes:
        starts_stage: bool: a stage begins. There is no step, only the loss and the gradient at the start.
        draws_start: bool: this start is drawn at random (first stage of a run).
        kept_of_step: float32 weight of the new step; 1 if there is no step before it.
        steps_since_check: int32: steps since the last checkpoint if this is a checkpoint, otherwise 0.
        radius: float32, in units of epsilon.
        counts: bool: points of this stage are inside the threat model.
    """

    starts_stage: Tensor
    draws_start: Tensor
    kept_of_step: Tensor
    steps_since_check: Tensor
    radius: Tensor
    counts: Tensor


class Schedule(NamedTuple):
    """The table of a run: `entries` holds arrays with one entry per evaluation.

    A run has one stage, or three stages with a shrinking radius. A stage of n steps has n + 1 evaluations (forward pass
    and input gradient): one at its start and one after each step.

    Attributes:
        entries: one array per field.
        before_step: (steps,) int32: number of the evaluation with which each step begins. For the first step of a stage
            this is the evaluation of the start.
    """

    entries: ScheduleEntry
    before_step: np.ndarray

    @property
    def evaluations(self) -> int:
        """Evaluations per run: its steps, and one per stage."""
        return len(self.entries.starts_stage)

    def evaluation_before(self, step: Tensor) -> Tensor:
        """Returns the number of evaluations, over all runs, that come before step number `step`."""
        steps = len(self.before_step)
        return step // steps * self.evaluations + tf.gather(self.before_step, step % steps)

    def at(self, evaluation: Tensor) -> ScheduleEntry:
        """Returns the `ScheduleEntry` of an evaluation of a run."""
        return ScheduleEntry(*(tf.gather(values, evaluation) for values in self.entries))


def checkpoints(steps: int, sparse: bool) -> list[int]:
    """Returns the checkpoints: after which steps the step size is adapted.

    For Linf and L2, the first one comes after 22 % of the steps. The periods then shrink by 3 % of the steps, down to 6
    %     (Croce & Hein, 2020, section 3.1). For L1 (`sparse`) they come every 4 % (Croce & Hein, 2021, section 4.2).
    """
    period = max(steps * 4 // 100, 1) if sparse else max(steps * 22 // 100, 1)
    shrink, smallest = (0, period) if sparse else (max(steps * 3 // 100, 1), max(steps * 6 // 100, 1))
    after, found = period, []
    while after <= steps:
        found.append(after)
        period = max(period - shrink, smallest)
        after += period
    return found


def stages(steps: int, larger_radii: bool) -> list[tuple[int, float]]:
    """Returns (steps, radius in units of epsilon) of each stage of a run. With few steps in all, a stage may have 0."""
    if not larger_radii:
        return [(steps, 1.0)]
    third = -(-steps * 3 // 10)
    return list(zip((third, third, steps - 2 * third), LARGER_RADII, strict=True))


def make_schedule(steps: int, *, sparse: bool, larger_radii: bool) -> Schedule:
    """Returns the table of a run of `steps` steps."""
    columns: list[tuple[bool, bool, float, int, float, bool]] = []
    before_step: list[int] = []
    parts = stages(steps, larger_radii)
    for index, (length, radius) in enumerate(parts):
        counts = index == len(parts) - 1
        before_step.append(len(columns))
        columns.append((True, index == 0, FIRST_STEP_IN_FULL, 0, radius, counts))
        before_step.extend(len(columns) + step for step in range(1, length))
        checks = checkpoints(length, sparse)
        since = {after: after - before for before, after in zip([0, *checks], checks, strict=False)}
        for step in range(1, length + 1):
            kept = FIRST_STEP_IN_FULL if step == 1 else KEPT_OF_STEP
            columns.append((False, False, kept, since.get(step, 0), radius, counts))
    kinds = (np.bool_, np.bool_, np.float32, np.int32, np.float32, np.bool_)
    arrays: list[np.ndarray] = [
        np.array(values, kind) for values, kind in zip(zip(*columns, strict=True), kinds, strict=True)
    ]
    return Schedule(ScheduleEntry(*arrays), np.array(before_step, np.int32))


class Rule(Protocol):
    """The interface of a rule. Each function returns the entries of the state that change."""

    sparse: ClassVar[bool]

    def extra(self, images: Tensor) -> State:
        """Returns the rule's own entries of the state, before the first stage."""

    def draw(self, ball: ThreatModel, images: Tensor, radius: Tensor, seed: Tensor) -> Tensor:
        """Returns a random start."""

    def shrink(self, ball: ThreatModel, points: Tensor, images: Tensor, radius: Tensor) -> Tensor:
        """Returns the points moved into a smaller ball."""

    def start_stage(self, state: State, entry: ScheduleEntry, radius: Tensor, larger_radii: bool) -> State:
        """Returns step size and counters at the start of a stage, whose start is `state["point"]`."""

    def move(self, ball: ThreatModel, state: State, entry: ScheduleEntry, radius: Tensor) -> State:
        """Returns the next point."""

    def observe(self, state: State, entry: ScheduleEntry, loss: Tensor) -> State:
        """Returns the counters after the loss at the new point is known."""

    def check(self, state: State, entry: ScheduleEntry, radius: Tensor, rho: float) -> State:
        """Returns step sizes, and points that go back to the best one, at a checkpoint."""


class MomentumRule:
    """Linf and L2: steps with momentum; a checkpoint halves the step size (Croce & Hein, 2020, section 3)."""

    sparse: ClassVar[bool] = False

    def extra(self, images: Tensor) -> State:
        """The previous point, and the counters of the two conditions of section 3.1."""
        zeros = per_row_zeros(images)
        return {
            "point_before": images,
            "loss_before": zeros,
            "increases": tf.cast(zeros, tf.int32),
            "checked_loss": zeros,
            "was_halved": tf.cast(zeros, tf.bool),
        }

    def draw(self, ball: ThreatModel, images: Tensor, radius: Tensor, seed: Tensor) -> Tensor:
        """Returns a point on the surface of the ball, clipped to the pixel range, as the original code does."""
        if ball.norm == "linf":
            noise = 2.0 * seeds.uniform(tf.shape(images), seed) - 1.0
            largest = tf.reduce_max(tf.abs(flatten(noise)), axis=1)
            noise = tf.math.divide_no_nan(noise, per_example(largest, images))
        else:
            noise = ball.steepest_ascent(seeds.normal(tf.shape(images), seed))
        return ball.clip(images + per_example(radius, images) * noise)

    def shrink(self, ball: ThreatModel, points: Tensor, images: Tensor, radius: Tensor) -> Tensor:
        """Returns the points inside the ball: pixel by pixel (Linf), or on the line to the image (L2)."""
        if ball.norm == "linf":
            room = per_example(radius, images)
            return ball.clip(tf.clip_by_value(points, images - room, images + room))
        delta = flatten(points - images)
        scale = tf.minimum(1.0, tf.math.divide_no_nan(radius, euclidean(delta)))
        return ball.clip(images + tf.reshape(scale[:, None] * delta, tf.shape(images)))

    def start_stage(self, state: State, entry: ScheduleEntry, radius: Tensor, larger_radii: bool) -> State:
        """Starts with steps of twice the radius."""
        return {
            "point_before": state["point"],
            "step_size": tf.zeros_like(state["step_size"]) + 2.0 * radius,
            "increases": tf.zeros_like(state["increases"]),
            "was_halved": tf.ones_like(state["was_halved"]),
        }

    def move(self, ball: ThreatModel, state: State, entry: ScheduleEntry, radius: Tensor) -> State:
        """Steps to z = P(x + step direction), then P(x + alpha (z - x) + (1 - alpha) (x - x_before)) (section 3)."""
        point, images = state["point"], state["images"]
        if ball.norm == "linf":
            step = per_example(state["step_size"], images) * ball.steepest_ascent(state["gradient"])
        else:
            step = tf.reshape(state["step_size"][:, None] * unit_rows(flatten(state["gradient"])), tf.shape(images))
        there = self.shrink(ball, point + step, images, radius)
        kept = entry.kept_of_step
        there = point + (there - point) * kept + (point - state["point_before"]) * (1.0 - kept)
        return {"point": self.shrink(ball, there, images, radius), "point_before": point}

    def observe(self, state: State, entry: ScheduleEntry, loss: Tensor) -> State:
        """Counts steps that increased the loss. As in the original code, the first counts if its loss is above 0."""
        grew = ~entry.starts_stage & (loss > state["loss_before"])
        return {
            "increases": state["increases"] + tf.cast(grew, tf.int32),
            "loss_before": tf.where(entry.starts_stage, 0.0, loss),
        }

    def check(self, state: State, entry: ScheduleEntry, radius: Tensor, rho: float) -> State:
        """Halves the step size and returns to the best point if one of the conditions of section 3.1 holds.

        1. Fewer than a share `rho` of the steps since the last checkpoint increased the loss.
        2. The step size was not halved at the last checkpoint, and the best loss has not grown since then.
        """
        few = tf.cast(state["increases"], tf.float32) <= rho * tf.cast(entry.steps_since_check, tf.float32)
        stuck = ~state["was_halved"] & (state["checked_loss"] >= state["best_loss"])
        halved = few | stuck
        return {
            **back_to_best(state, halved),
            "step_size": tf.where(halved, state["step_size"] / 2.0, state["step_size"]),
            "increases": tf.zeros_like(state["increases"]),
            "checked_loss": state["best_loss"],
            "was_halved": halved,
        }


class SparseRule:
    """L1: sparse steps without momentum, whose sparsity follows the best point (Croce & Hein, 2021, section 4)."""

    sparse: ClassVar[bool] = True

    def extra(self, images: Tensor) -> State:
        """`density`: share of pixels that a step moves. `support`: number of pixels that the best point moved."""
        zeros = per_row_zeros(images)
        return {"density": zeros, "support": zeros}

    def draw(self, ball: ThreatModel, images: Tensor, radius: Tensor, seed: Tensor) -> Tensor:
        """Returns the projection of the image plus standard normal noise."""
        return self.shrink(ball, images + seeds.normal(tf.shape(images), seed), images, radius)

    def shrink(self, ball: ThreatModel, points: Tensor, images: Tensor, radius: Tensor) -> Tensor:
        """Returns the closest points of the threat model."""
        return project_l1(points, images, radius, ball.bounds)

    def start_stage(self, state: State, entry: ScheduleEntry, radius: Tensor, larger_radii: bool) -> State:
        """Starts with steps of the radius. In a run of one stage they are dense, as in the original code."""
        zeros, size = tf.zeros_like(state["step_size"]), math.prod(state["images"].shape[1:])
        if larger_radii:
            support = count_moved(state["point"], state["images"])
            density = support / size / 1.5
        else:
            support, density = zeros + float(size), zeros + 0.2
        return {"step_size": zeros + radius, "density": density, "support": support}

    def move(self, ball: ThreatModel, state: State, entry: ScheduleEntry, radius: Tensor) -> State:
        """Moves the share `density` of the pixels with the largest absolute gradient, all by the same amount."""
        point, gradient = state["point"], state["gradient"]
        absolute = tf.abs(flatten(gradient))
        size = absolute.shape[1]
        skipped = tf.cast(tf.clip_by_value((1.0 - state["density"]) * size, 0.0, size - 1.0), tf.int32)
        threshold = kth_largest(absolute, size - skipped)
        # A sum over signs, not over booleans, because it passes NaN on.
        sign = tf.sign(gradient) * tf.reshape(tf.cast(absolute >= threshold[:, None], tf.float32), tf.shape(gradient))
        moved = tf.reduce_sum(tf.abs(flatten(sign)), axis=1)
        step = sign * per_example(tf.math.divide_no_nan(state["step_size"], moved), point)
        return {"point": self.shrink(ball, point + step, state["images"], radius)}

    def observe(self, state: State, entry: ScheduleEntry, loss: Tensor) -> State:
        """Counts nothing."""
        return {}

    def check(self, state: State, entry: ScheduleEntry, radius: Tensor, rho: float) -> State:
        """Steps from the best point: large while it gets sparser by 5 %, otherwise smaller, down to a tenth."""
        support = count_moved(state["best"], state["images"])
        sparser = support / state["support"] < 0.95
        smaller = tf.maximum(state["step_size"] / 1.5, radius / 10.0)
        return {
            **back_to_best(state, sparser),
            "step_size": tf.where(sparser, radius, smaller),
            "density": support / math.prod(state["images"].shape[1:]) / 1.5,
            "support": support,
        }


RULES: dict[str, Rule] = {"linf": MomentumRule(), "l2": MomentumRule(), "l1": SparseRule()}
"""Rules by norm."""


def back_to_best(state: State, chosen: Tensor) -> State:
    """Returns point and gradient; where `chosen`, (batch,) bool, those of the best point."""
    rows = per_example(chosen, state["point"])
    return {
        "point": tf.where(rows, state["best"], state["point"]),
        "gradient": tf.where(rows, state["best_gradient"], state["gradient"]),
    }


def euclidean(rows: Tensor) -> Tensor:
    """Returns the length of each row, (batch,)."""
    return tf.sqrt(tf.reduce_sum(rows * rows, axis=1))


def unit_rows(rows: Tensor) -> Tensor:
    """Returns `L2.steepest_ascent` of (batch, size), by operations that are also fast on CPU. Rows of 0 stay 0."""
    # Scale by the largest entry first: the square of a small one would underflow.
    rows = divide_rows(rows, tf.reduce_max(tf.abs(rows), axis=1))
    return divide_rows(rows, euclidean(rows))


def divide_rows(rows: Tensor, by: Tensor) -> Tensor:
    """Returns each row divided by its entry of `by`, (batch,). A row with the entry 0 stays as it is."""
    return rows / tf.where(by == 0, 1.0, by)[:, None]


def per_row_zeros(images: Tensor) -> Tensor:
    """Returns float32 zeros, (batch,)."""
    return tf.zeros(tf.shape(images)[:1])


def count_moved(points: Tensor, images: Tensor) -> Tensor:
    """Returns how many pixels differ, float32 (batch,)."""
    return tf.reduce_sum(tf.cast(flatten(points != images), tf.float32), axis=1)


def kth_largest(values: Tensor, ranks: Tensor) -> Tensor:
    """Returns the value of rank `ranks` (from 1) of each row, exactly.

    It bisects the bits, because non-negative floats and their bits as integers have the same order. This takes 31
    passes, however long the row.

    Args:
        values: (batch, size) float32, at least 0.
        ranks: int32 (batch,).
    """
    bits = tf.bitcast(values, tf.int32)

    def add_bit(index: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        candidate = found | tf.bitwise.left_shift(1, 30 - index)
        above = tf.reduce_sum(tf.cast(bits >= candidate[:, None], tf.int32), axis=1)
        return index + 1, tf.where(above >= ranks, candidate, found)

    _, found = tf.while_loop(lambda index, _: index < 31, add_bit, (tf.constant(0), tf.zeros_like(ranks)))
    return tf.bitcast(found, tf.float32)


def project_l1(points: Tensor, images: Tensor, radius: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Returns argmin ||z - points||_2 over z in bounds with ||z - images||_1 <= radius, to float32 accuracy.

    The optimum moves each pixel by clip(|points - images| - theta, 0, room) (Croce & Hein, 2021, proposition 2.1), as
    in `L1.project`; theta is found by Newton's method inside a shrinking bracket, instead of by sorting. A row
    that has its theta does not change.

    Args:
        points: (batch, ...) float32.
        images: (batch, ...) float32 in bounds.
        radius: float32, a scalar or (batch,).
        bounds: smallest and largest pixel value.
    """
    delta = flatten(points - images)
    room = flatten(tf.where(points > images, bounds[1] - images, images - bounds[0]))
    moved = tf.abs(delta)

    def newton(low: Tensor, high: Tensor, theta: Tensor, done: Tensor) -> tuple[Tensor, ...]:
        step = tf.clip_by_value(moved - theta[:, None], 0.0, room)
        total = tf.reduce_sum(step, axis=1)
        moving = tf.reduce_sum(tf.cast((step > 0) & (step < room), tf.float32), axis=1)
        too_long = total > radius
        low, high = tf.where(too_long, theta, low), tf.where(too_long, high, theta)
        middle = 0.5 * (low + high)
        better = theta + tf.math.divide_no_nan(total - radius, moving)
        better = tf.where((low < better) & (better < high), better, middle)
        done |= (tf.abs(total - radius) <= 1e-6 * radius) | (middle <= low) | (middle >= high)
        return low, high, tf.where(done, theta, better), done

    zeros = per_row_zeros(images)
    inside = ~(tf.reduce_sum(tf.minimum(moved, room), axis=1) > radius)
    start = (zeros, tf.reduce_max(moved, axis=1), zeros, inside)
    theta = tf.while_loop(lambda *state: ~tf.reduce_all(state[3]), newton, start, maximum_iterations=60)[2]
    step = tf.clip_by_value(moved - theta[:, None], 0.0, room)
    return tf.clip_by_value(images + tf.reshape(tf.sign(delta) * step, tf.shape(images)), *bounds)
