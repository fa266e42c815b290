"""Square Attack: random search that changes one square of the image at a time, and needs no gradients.

    attack = Square(Linf(8 / 255), queries=5000)
    x_adv = attack(as_model_fn(classifier), images, labels, seed=0)

A call costs one forward pass per start and one per query, until all examples are broken.
"""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks.attack import ModelFn, State
from keras_robust.attacks.score_based import ScoreBasedAttack, check_options
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.objectives import margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import flatten, per_example

KEYS = 2**24
"""Number of different keys of examples: the largest that `seeds.integers` can draw."""

BISECTIONS = 24
"""Number of bits of a float32."""

ROUNDING = 1e-6
"""How far an L1 norm may exceed epsilon, as a share of epsilon."""

TINY = 1e-12
"""Keeps quotients of norms finite; from the original code."""


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Square(ScoreBasedAttack):
    """Square Attack (Andriushchenko et al., 2020), with the margin loss and the defaults of AutoAttack's class.

    The squares of a query have the same place in the whole batch. Signs are drawn per example from a key in the state,
    so the result for an example does not depend on the others. This class differs from the code of AutoAttack in two
    places where that code departs from the paper: squares reach the last row and column, and the start for L2 and L1 is
    centred in images that are not square.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        queries: number of candidates after the start, at least 1.
        p_init: share of the pixels in the first squares, in (0, 1].
        resc_schedule: stretch the schedule of sizes, made for 10,000 queries, to `queries`. The suite AutoAttack does
            not stretch it: its squares halve after the same numbers of queries, however many there are.
        restarts: independent starts, at least 1.
        compute_dtype: "bfloat16", "float16" or "auto" runs the passes in low precision: see `PGD`.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    queries: int = 5000
    p_init: float = 0.8
    resc_schedule: bool = True
    restarts: int = 1
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        check_options(self, ("linf", "l2", "l1"), ("queries", "restarts"), ("p_init",))
        if self.p_init > 1:
            raise ValueError(f"p_init must be in (0, 1]. Received: p_init={self.p_init!r}")
        if not isinstance(self.resc_schedule, bool):
            raise ValueError(f"resc_schedule must be a bool. Received: resc_schedule={self.resc_schedule!r}")

    @property
    def steps_per_run(self) -> int:
        """The number of queries after each start."""
        return self.queries

    @property
    def name(self) -> str:
        """Such as "Square-5000 (Linf 0.3)". It contains every setting that is not the default."""
        parts = [str(self.threat_model)]
        if self.p_init != 0.8:
            parts.append(f"p {self.p_init:.4g}")
        if not self.resc_schedule:
            parts.append("fixed schedule")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"Square-{self.queries} ({', '.join(parts)})"

    def _check_image(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) < 2:
            raise ValueError(
                "Square Attack changes squares, so images must be (batch, height, width) or (batch, height, width, "
                "channels). For vectors, list the attacks without it, such as [APGD(ball), FAB(ball)], or use SPSA. "
                f"Received: images of shape {image_shape}"
            )

    def _first_points(self, images: Tensor, seed: Tensor) -> State:
        shape, images = tf.shape(images), with_channels(images)
        key = seeds.integers(shape[:1], seeds.fold(seed, 0), KEYS)
        ball, (height, width, channels) = self.threat_model, images.shape[1:]
        if ball.norm == "linf":
            stripes = signs(key, (1, width, channels), seeds.fold(seed, 1))
            points = ball.project(images + per_example(ball.epsilon, images) * stripes, images)
        else:
            points = self._to_sphere(tiles(key, height, width, channels, ball.norm, seeds.fold(seed, 1)), images)
        return {"key": key, "points": tf.reshape(points, shape)}

    def _step(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> State:
        """Returns the entries that one query changes. The candidate is kept if its margin is larger."""
        value, key, shape = state["value"], state["key"], tf.shape(state["images"])
        images, points = with_channels(state["images"]), with_channels(state["points"])
        firsts = tf.constant(first_queries(self.queries, self.resc_schedule))
        sizes = square_sizes(images.shape[1], images.shape[2], self.p_init, self.threat_model.norm)
        level = tf.reduce_sum(tf.cast(number >= firsts, tf.int32))
        size = tf.gather(tf.constant(sizes), level)
        if self.threat_model.norm == "linf":
            candidates = self._change_square(points, images, key, size, seed)
        else:
            table = eta_table(sizes, self.threat_model.norm)
            candidates = self._move_mass(points, images, key, size, tf.gather(tf.constant(table), level), seed)
        candidates, points = tf.reshape(candidates, shape), state["points"]
        found = margin(state["labels"], model_fn(candidates))
        better = ~(found <= value)  # also for NaN, which counts as misclassified
        return {
            "points": tf.where(per_example(better, points), candidates, points),
            "value": tf.where(better, found, value),
        }

    def _change_square(self, points: Tensor, images: Tensor, key: Tensor, size: Tensor, seed: Tensor) -> Tensor:
        """Linf: moves each channel of one square by + or - 2 epsilon (algorithm 2) and projects."""
        ball, channels = self.threat_model, images.shape[3]
        draws = seeds.integers((2 + channels,), seed, maxima(images, size, squares=1, more=[KEYS] * channels))
        _, _, inside = window(images, size, draws[:2])
        change = 2.0 * per_example(ball.epsilon, images) * parity_signs(key, draws[None, None, 2:])
        return ball.project(points + change * tf.cast(inside, images.dtype)[:, :, None], images)

    def _move_mass(
        self, points: Tensor, images: Tensor, key: Tensor, size: Tensor, pattern: Tensor, seed: Tensor
    ) -> Tensor:
        """L2 and L1: empties one window; its mass and the unused mass go into another one (algorithm 3)."""
        channels = images.shape[3]
        draws = seeds.integers((5 + channels,), seed, maxima(images, size, squares=2, more=[2] + [KEYS] * channels))
        rows, columns, inside = window(images, size, draws[:2])
        _, _, emptied = window(images, size, draws[2:4])
        last = pattern.shape[1] - 1
        placed = tf.gather(tf.gather(pattern, draws[4]), tf.clip_by_value(rows, 0, last), axis=0)
        placed = tf.gather(placed, tf.clip_by_value(columns, 0, last), axis=1)
        here = tf.cast(inside, images.dtype)[:, :, None]
        either = tf.cast(inside | emptied, images.dtype)[:, :, None]

        delta = points - images
        change = here * placed[:, :, None] * parity_signs(key, draws[None, None, 5:])
        change += here * delta / (TINY + self._length(here * delta))
        mass = self._available(delta, self._length(either * delta), channels)
        change *= mass / (TINY + self._length(change))
        return self._to_sphere(change + (1.0 - either) * delta, images)

    def _length(self, delta: Tensor) -> Tensor:
        """Returns the norm per example and channel, (batch, 1, 1, channels)."""
        if self.threat_model.norm == "l2":
            return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=(1, 2), keepdims=True))
        return tf.reduce_sum(tf.abs(delta), axis=(1, 2), keepdims=True)

    def _available(self, delta: Tensor, in_windows: Tensor, channels: int) -> Tensor:
        """Returns the norm per channel that the window may have: both windows plus the unused part of epsilon."""
        power = 2 if self.threat_model.norm == "l2" else 1
        used = self._length(delta) ** power
        most = per_example(self.threat_model.epsilon, delta) ** power
        unused = tf.maximum(most - tf.reduce_sum(used, axis=3, keepdims=True), 0.0)
        if power == 2:
            return tf.sqrt(unused / channels + in_windows**2)
        return unused + channels * in_windows

    def _to_sphere(self, delta: Tensor, images: Tensor) -> Tensor:
        """Returns points of the threat model: L2 scales to epsilon and clips, L1 projects."""
        ball = self.threat_model
        if ball.norm == "l1":
            return project_l1(delta, images, ball)
        length = tf.norm(flatten(delta), axis=1)
        return ball.clip(images + per_example(ball.epsilon / (TINY + length), images) * delta)


def with_channels(images: Tensor) -> Tensor:
    """Returns images as (batch, height, width, channels), with one channel if they have no such axis."""
    if images.shape.rank == 4:
        return images
    height, width, *channels = images.shape[1:]
    return tf.reshape(images, (tf.shape(images)[0], height, width, math.prod(channels)))


def project_l1(delta: Tensor, images: Tensor, ball: ThreatModel) -> Tensor:
    """Returns `ball.project(images + delta, images)` for `L1`, without its sort.

    It bisects for the threshold. If the pixel range already limits all perturbations to epsilon, as nearly always with
    one channel, there is nothing to search.
    """
    low, high = ball.bounds
    moved, room = tf.abs(delta), tf.where(delta > 0, high - images, images - low)

    def outside(theta: Tensor) -> Tensor:
        kept = tf.clip_by_value(moved - per_example(theta, moved), 0.0, room)
        return tf.reduce_sum(flatten(kept), axis=1) > ball.epsilon * (1.0 + ROUNDING)

    def halve(index: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle = 0.5 * (below + above)
        far = outside(middle)
        return index + 1, tf.where(far, middle, below), tf.where(far, above, middle)

    zero = tf.zeros_like(moved[:, 0, 0, 0])
    cut = outside(zero)
    above = tf.where(cut, tf.reduce_max(flatten(moved), axis=1), 0.0)
    rounds = tf.where(tf.reduce_any(cut), BISECTIONS, 0)
    _, _, theta = tf.while_loop(lambda index, *_: index < rounds, halve, (tf.constant(0), zero, above))
    step = tf.clip_by_value(moved - per_example(theta, moved), 0.0, room)
    return ball.clip(images + tf.sign(delta) * step)


def signs(key: Tensor, shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """Draws float32 (batch, *shape) of -1 and 1 that depend on the seed and each example's own key."""
    return parity_signs(key, seeds.integers(shape, seed, KEYS))


def parity_signs(key: Tensor, masks: Tensor) -> Tensor:
    """Returns float32 (batch, *masks.shape) of -1 and 1: the parity of the bits that a key shares with a random mask.

    It is fair, independent over masks, and independent between any two keys. It does not depend on the position of the
    example in the batch.
    """
    shared = tf.bitwise.bitwise_and(tf.reshape(key, (-1,) + (1,) * masks.shape.rank), masks)
    odd = tf.bitwise.bitwise_and(tf.cast(tf.raw_ops.PopulationCount(x=shared), tf.int32), 1)
    return 1.0 - 2.0 * tf.cast(odd, tf.float32)


def maxima(images: Tensor, size: Tensor, squares: int, more: list[int]) -> Tensor:
    """Returns the exclusive maxima of corners of squares inside the image, followed by `more`, for `seeds.integers`."""
    corner = [images.shape[1] - size + 1, images.shape[2] - size + 1]
    return tf.stack(corner * squares + more)


def window(images: Tensor, size: Tensor, corner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rows (height,) and columns (width,) relative to a square's corner, and its pixels (height, width)."""
    rows, columns = tf.range(images.shape[1]) - corner[0], tf.range(images.shape[2]) - corner[1]
    inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))[None, :]
    return rows, columns, inside


def tiles(key: Tensor, height: int, width: int, channels: int, norm: str, seed: Tensor) -> Tensor:
    """Returns the start for L2 and L1, (batch, height, width, channels): a grid of patterns with random signs.

    A pattern has a fifth of the image's height. Its orientation is drawn once for all examples, its sign per example
    and channel.
    """
    size = min(max(height // 5, 1), width)
    down, across = height // size, width // size
    both = tf.constant(eta_table([size], norm)[0])
    turned = tf.gather(both, seeds.integers((down, across), seeds.fold(seed, 0), 2))  # (down, across, size, size)
    grid = tf.reshape(tf.transpose(turned, (0, 2, 1, 3)), (down * size, across * size))[:, :, None]
    sign = signs(key, (down, across, channels), seeds.fold(seed, 1))
    sign = tf.gather(sign, np.arange(down * size) // size, axis=1)
    grid *= tf.gather(sign, np.arange(across * size) // size, axis=2)
    above, left = (height - down * size) // 2, (width - across * size) // 2
    padding = np.array(
        [(0, 0), (above, height - down * size - above), (left, width - across * size - left), (0, 0)], np.int32
    )
    return tf.pad(grid, padding)


SCHEDULED_FOR = 10_000
"""Number of queries that `CHANGES` is made for."""

CHANGES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries after which the share of changed pixels halves (Andriushchenko et al., 2020, section 4.1)."""

DECAY = {"l2": 2, "l1": 4}
"""Power of the decay of a pattern from its centres: from the paper for L2, from AutoAttack's code for L1."""


def first_queries(queries: int, rescale: bool) -> list[int]:
    """Returns the query numbers (from 0) from which on the share is halved once, twice, ... nine times.

    Args:
        queries: queries of the attack in all.
        rescale: stretch the schedule to them. AutoAttack's Square class does so by default, its suite does not.
    """

    def scheduled(query: int) -> int:
        return int(query / queries * SCHEDULED_FOR) if rescale else query

    firsts = []
    for change in CHANGES:
        # Search from just below, because rounding can move the first query by one.
        query = max(0, change * queries // SCHEDULED_FOR - 1) if rescale else change
        while scheduled(query) <= change:
            query += 1
        firsts.append(query)
    return firsts


def square_sizes(height: int, width: int, p_init: float, norm: str) -> list[int]:
    """Returns the sides of the squares in pixels: before the first change, and after each.

    A square covers the share p of the image. For L2 and L1 the side is odd and at least 3. No side is longer than the
    image.
    """
    sizes = []
    for halvings in range(len(CHANGES) + 1):
        size = round(math.sqrt(p_init / 2**halvings * height * width))
        size = max(size, 1) if norm == "linf" else max(size, 3) // 2 * 2 + 1
        sizes.append(min(size, height, width))
    return sizes


def bump(height: int, width: int, norm: str) -> np.ndarray:
    """Returns nested rectangles around the centre at unit norm: sum_k (k + 1)^-decay over those that hold a pixel."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    ring = np.maximum(np.abs(rows)[:, None], np.abs(columns)[None, :])
    terms = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** DECAY[norm]
    return _unit(np.cumsum(terms[::-1])[::-1][ring], norm)


def eta(size: int, norm: str) -> np.ndarray:
    """Returns a (size, size) pattern of unit norm: a bump in the upper half, its opposite in the lower one."""
    upper = size // 2
    halves = [bump(upper, size, norm)] if upper else []
    return _unit(np.concatenate([*halves, -bump(size - upper, size, norm)]), norm)


def eta_table(sizes: list[int], norm: str) -> np.ndarray:
    """Returns float32 (sizes, 2, largest, largest): each pattern and its transpose, padded with 0."""
    largest = max(sizes)
    table = np.zeros((len(sizes), 2, largest, largest), np.float32)
    for index, size in enumerate(sizes):
        pattern = eta(size, norm)
        table[index, 0, :size, :size], table[index, 1, :size, :size] = pattern, pattern.T
    return table


def _unit(pattern: np.ndarray, norm: str) -> np.ndarray:
    length = np.abs(pattern).sum() if norm == "l1" else np.sqrt(np.square(pattern).sum())
    return pattern / length
