"""What Auto-PGD does at which evaluation of a run: a table, computed before anything is traced."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor

FIRST_STEP_IN_FULL = 1.0
KEPT_OF_STEP = 0.75
"""alpha of Croce & Hein (2020), section 3: the share of the new step; the rest is the step before."""
LARGER_RADII = (3.0, 2.0, 1.0)
"""In units of epsilon, for 30, 30 and 40 % of the steps (Croce & Hein, 2021, section 4.3)."""


class Moment(NamedTuple):
    """Scalars that say what happens at one evaluation.

    Attributes:
        enters: bool: a leg begins: no step, only the loss and the gradient at its start.
        draws: bool: that start is drawn at random (the first leg of a run).
        kept_of_step: float32, 1 where there is no step before.
        steps_since_check: int32: steps since the last checkpoint if this is a checkpoint, otherwise 0.
        radius: float32, in units of epsilon.
        counts: bool: points of this leg are inside the threat model.
    """

    enters: Tensor
    draws: Tensor
    kept_of_step: Tensor
    steps_since_check: Tensor
    radius: Tensor
    counts: Tensor


class Schedule(NamedTuple):
    """The table of a run: `moments` holds arrays with one entry per evaluation.

    A run has one leg, or three with shrinking radius. A leg of n steps has n + 1 evaluations (forward and input
    gradient): of its start, and after each step.

    Attributes:
        moments: of arrays.
        before_step: (steps,) int32: the evaluation with which each step begins, that of a leg's start included.
    """

    moments: Moment
    before_step: np.ndarray

    @property
    def evaluations(self) -> int:
        """Evaluations per run: its steps, and one per leg."""
        return len(self.moments.enters)

    def evaluation_before(self, step: Tensor) -> Tensor:
        """Returns the number of evaluations, over all runs, that come before step number `step`."""
        steps = len(self.before_step)
        return step // steps * self.evaluations + tf.gather(self.before_step, step % steps)

    def at(self, evaluation: Tensor) -> Moment:
        """Returns what happens at an evaluation of a run."""
        return Moment(*(tf.gather(values, evaluation) for values in self.moments))


def checkpoints(steps: int, sparse: bool) -> list[int]:
    """Returns after which steps the step size is looked at.

    For Linf and L2 after 22 % of the steps, then in periods that shrink by 3 % of the steps down to 6 % (Croce & Hein,
    2020, section 3.1); for L1 (`sparse`) every 4 % (Croce & Hein, 2021, section 4.2).
    """
    period = max(steps * 4 // 100, 1) if sparse else max(steps * 22 // 100, 1)
    shrink, smallest = (0, period) if sparse else (max(steps * 3 // 100, 1), max(steps * 6 // 100, 1))
    after, found = period, []
    while after <= steps:
        found.append(after)
        period = max(period - shrink, smallest)
        after += period
    return found


def legs(steps: int, larger_radii: bool) -> list[tuple[int, float]]:
    """Returns (steps, radius in units of epsilon) of each leg of a run; some steps may be 0 where there are few."""
    if not larger_radii:
        return [(steps, 1.0)]
    third = -(-steps * 3 // 10)
    return list(zip((third, third, steps - 2 * third), LARGER_RADII, strict=True))


def make_schedule(steps: int, *, sparse: bool, larger_radii: bool) -> Schedule:
    """Returns the table of a run of `steps` steps."""
    columns: list[tuple[bool, bool, float, int, float, bool]] = []
    before_step: list[int] = []
    parts = legs(steps, larger_radii)
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
    return Schedule(Moment(*arrays), np.array(before_step, np.int32))
