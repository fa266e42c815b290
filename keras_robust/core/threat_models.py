"""Threat models: which perturbations an attacker may use.

A threat model is a norm ball with radius epsilon around each image, intersected with the pixel range. Images are
(batch, ...) float tensors in `bounds`; epsilon is in the same units.

    ball = Linf(8 / 255)
    x_adv = ball.project(x_adv + step * ball.steepest_ascent(gradient), x)
"""

import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE, Serializable

QUANTILE = 0.99
"""Default quantile of the absolute gradients for L1, as in SLIDE."""


def flatten(images: Tensor) -> Tensor:
    """Returns (batch, ...) as (batch, size)."""
    return tf.reshape(images, (tf.shape(images)[0], math.prod(images.shape[1:])))


def per_example(values: float | Tensor, images: Tensor) -> float | Tensor:
    """Returns (batch,) as (batch, 1, ..., 1), for broadcasting against `images`. A number stays a number."""
    if len(getattr(values, "shape", ())) == 0:
        return values
    return tf.reshape(values, (-1,) + (1,) * (len(images.shape) - 1))


def in_words(value: float | Tensor) -> str:
    """Returns text: "0.3" for a number, "0.1 to 0.3" for an array, "known at run time" for a tensor."""
    if isinstance(value, np.ndarray):
        least, most = (f"{end:.4g}" for end in (value.min(), value.max()))
        return least if least == most else f"{least} to {most}"
    return "known at run time" if tf.is_tensor(value) else f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class ThreatModel(Serializable):
    """A norm ball around each image, intersected with the pixel range. Use one of its subclasses.

    In a graph, `Attack.scaled` and `Attack.resized` replace epsilon by a tensor: a scalar, or (batch,) radii, one per
    example.

    Args:
        epsilon: radius of the ball, >= 0, in the units of the images.
        bounds: smallest and largest pixel value.

    Raises:
        ValueError: if epsilon is negative or not finite, or the bounds are not two increasing numbers.
    """

    epsilon: float
    bounds: tuple[float, float] = (0.0, 1.0)
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, int | float):
            raise ValueError(f"epsilon must be a number. Received: epsilon={self.epsilon!r}")
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be finite and at least 0. Received: epsilon={self.epsilon}")
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds must be two increasing numbers. Received: bounds={self.bounds}")
        object.__setattr__(self, "bounds", (float(self.bounds[0]), float(self.bounds[1])))

    def __str__(self) -> str:
        return f"{self.norm.capitalize()} {in_words(self.epsilon)}"

    def clip(self, images: Tensor) -> Tensor:
        """Returns `images` clipped to the pixel range."""
        return tf.clip_by_value(images, *self.bounds)

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns the point of the threat model around `images` that is closest to `points` (Euclidean)."""
        raise NotImplementedError

    def random_point(self, images: Tensor, seed: Tensor) -> Tensor:
        """Returns a point drawn uniformly from the ball around `images`, clipped to the pixel range."""
        raise NotImplementedError

    def steepest_ascent(self, gradient: Tensor) -> Tensor:
        """Returns the direction, of unit norm, in which a function with this `gradient` grows fastest."""
        raise NotImplementedError

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns the norm of `points - images` per example, shape (batch,)."""
        raise NotImplementedError

    def covering_epsilon(self, size: int) -> float:
        """Returns the smallest epsilon whose ball around any image, of `size` numbers, contains all images."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Linf(ThreatModel):
    """Every pixel moves by at most epsilon.

    Raises:
        ValueError: if epsilon is negative, not finite or larger than the pixel range, or the bounds are not two
            increasing numbers.
    """

    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.bounds
        if self.epsilon > (high - low) * (1 + 1e-6):  # 0.7 - 0.3 is a little less than 0.4
            raise ValueError(
                f"epsilon is in the units of the images and must be at most their range {high - low:g} "
                f"(8/255, not 8, for images in [0, 1]). Received: epsilon={self.epsilon}"
            )

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns argmin ||z - points||_2 over z in bounds with |z - images| <= epsilon: a clip per pixel."""
        radius = per_example(self.epsilon, images)
        return self.clip(tf.clip_by_value(points, images - radius, images + radius))

    def random_point(self, images: Tensor, seed: Tensor) -> Tensor:
        """Returns images + U(-epsilon, epsilon) per pixel, clipped to the pixel range."""
        noise = tf.cast(2.0 * seeds.uniform(tf.shape(images), seed) - 1.0, images.dtype)
        return self.clip(images + per_example(self.epsilon, images) * noise)

    def steepest_ascent(self, gradient: Tensor) -> Tensor:
        """Returns argmax <gradient, d> over max |d| <= 1: the sign."""
        return tf.sign(gradient)

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns the largest absolute difference per example, shape (batch,)."""
        return tf.reduce_max(tf.abs(flatten(points - images)), axis=1)

    def covering_epsilon(self, size: int) -> float:
        """Returns the pixel range."""
        return self.bounds[1] - self.bounds[0]


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class L2(ThreatModel):
    """The perturbation has at most the Euclidean length epsilon."""

    norm: ClassVar[str] = "l2"

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns argmin ||z - points||_2 over z in bounds with ||z - images||_2 <= epsilon.

        The optimum is clip(images + s * (points - images)) with the largest s in [0, 1] that stays in the ball
        (stationarity of the Lagrangian). With the pixels that the clip stops known, s has a closed form; starting
        from none, each round can only add pixels and s only grows, so the rounds end at the optimum, and every
        round before it is inside the ball.
        """
        delta = flatten(points - images)
        room = flatten(tf.where(points > images, self.bounds[1] - images, images - self.bounds[0]))
        moved = tf.abs(delta)

        def scale_for(stopped: Tensor) -> Tensor:
            zeros = tf.zeros_like(moved)
            left = self.epsilon**2 - tf.reduce_sum(tf.where(stopped, room**2, zeros), axis=1)
            free = tf.reduce_sum(tf.where(stopped, zeros, moved**2), axis=1)
            cut = tf.sqrt(tf.math.divide_no_nan(tf.maximum(left, 0.0), free))
            return tf.where(free <= left, tf.ones_like(cut), cut)

        def grow(stopped: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            reached = stopped | (scale_for(stopped)[:, None] * moved > room)
            return reached, tf.reduce_any(reached != stopped)

        stopped, _ = tf.while_loop(lambda _, more: more, grow, (tf.zeros_like(moved, tf.bool), tf.constant(True)))
        return self.clip(images + per_example(scale_for(stopped), images) * (points - images))

    def random_point(self, images: Tensor, seed: Tensor) -> Tensor:
        """Returns a point drawn uniformly from the ball (a random direction times U^(1/d)), clipped to the range."""
        direction = self.steepest_ascent(seeds.normal(tf.shape(images), seeds.fold(seed, 0)))
        size = math.prod(images.shape[1:])
        radius = seeds.uniform((tf.shape(images)[0],), seeds.fold(seed, 1)) ** (1.0 / size)
        delta = tf.cast(per_example(radius, images) * direction, images.dtype)
        return self.clip(images + per_example(self.epsilon, images) * delta)

    def steepest_ascent(self, gradient: Tensor) -> Tensor:
        """Returns argmax <gradient, d> over ||d||_2 <= 1: the gradient at unit length (0 where it is 0)."""
        # Scale by the largest entry first: the square of a small gradient would underflow.
        largest = tf.reduce_max(tf.abs(flatten(gradient)), axis=1)
        scaled = tf.math.divide_no_nan(gradient, per_example(largest, gradient))
        return tf.math.divide_no_nan(scaled, per_example(tf.norm(flatten(scaled), axis=1), gradient))

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns the Euclidean length of the difference per example, shape (batch,)."""
        return tf.norm(flatten(points - images), axis=1)

    def covering_epsilon(self, size: int) -> float:
        """Returns the diagonal of the cube of all images: the pixel range times the square root of `size`."""
        return (self.bounds[1] - self.bounds[0]) * math.sqrt(size)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class L1(ThreatModel):
    """The absolute changes of all pixels add up to at most epsilon.

    Args:
        epsilon: radius of the ball, >= 0, in the units of the images.
        bounds: smallest and largest pixel value.
        quantile: a step moves, by equal amounts, the pixels whose absolute gradient is at or above this quantile, in
            [0, 1]. 1 is the exact steepest ascent (one pixel). 0.99 is SLIDE (Tramèr & Boneh, 2019, section 4.1), which
            ascends much faster, because single pixels soon reach the end of the pixel range.
    """

    quantile: float = QUANTILE
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"quantile must be in [0, 1]. Received: quantile={self.quantile}")

    def __str__(self) -> str:
        chosen = "" if self.quantile == QUANTILE else f", quantile {self.quantile:.4g}"
        return super().__str__() + chosen

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns argmin ||z - points||_2 over z in bounds with ||z - images||_1 <= epsilon.

        The optimum moves each pixel by clip(|points - images| - theta, 0, room), with the smallest theta >= 0 for
        which these add up to at most epsilon (Croce & Hein, 2021, "Mind the box", proposition 2.1). Their sum is
        piecewise linear in theta, with bends where a pixel meets its room or starts to move: theta is found exactly
        from the sorted bends.
        """
        delta = flatten(points - images)
        room = flatten(tf.where(points > images, self.bounds[1] - images, images - self.bounds[0]))
        moved = tf.abs(delta)
        # As theta falls from the largest entry, the sum grows with slope +1 from `moved` to `moved - room`.
        bends = tf.concat([moved, tf.maximum(moved - room, 0.0)], axis=1)
        slopes = tf.concat([tf.ones_like(moved), -tf.ones_like(moved)], axis=1)
        order = tf.argsort(bends, axis=1, direction="DESCENDING")
        bends, slopes = tf.gather(bends, order, batch_dims=1), tf.gather(slopes, order, batch_dims=1)
        slope = tf.cumsum(slopes, axis=1)  # number of moving pixels below each bend
        falls = tf.concat([bends[:, :-1] - bends[:, 1:], bends[:, -1:]], axis=1)
        total_below = tf.cumsum(slope * falls, axis=1)  # the sum at the next bend (at 0 after the last)
        index = tf.reduce_sum(tf.cast(total_below <= per_example(self.epsilon, moved), tf.int32), axis=1)
        last = tf.minimum(index, tf.shape(bends)[1] - 1)
        before = tf.gather(total_below - slope * falls, last, batch_dims=1)
        slope_there = tf.maximum(tf.gather(slope, last, batch_dims=1), 1.0)
        theta = tf.gather(bends, last, batch_dims=1) - (self.epsilon - before) / slope_there
        theta = tf.where(index > last, tf.zeros_like(theta), theta)
        step = tf.clip_by_value(moved - theta[:, None], 0.0, room)
        return self.clip(images + tf.reshape(tf.sign(delta) * step, tf.shape(images)))

    def random_point(self, images: Tensor, seed: Tensor) -> Tensor:
        """Returns a point drawn uniformly from the ball, clipped to the pixel range.

        Exponential variables divided by their sum, one of them left out, are uniform on the solid simplex (Devroye,
        1986, chapter V, theorem 2.1); random signs spread it over the ball.
        """
        batch, size = tf.shape(images)[0], math.prod(images.shape[1:])
        draws = seeds.exponential((batch, size + 1), seeds.fold(seed, 0))
        sign = tf.where(seeds.uniform((batch, size), seeds.fold(seed, 1)) < 0.5, -1.0, 1.0)
        delta = sign * draws[:, :-1] / tf.reduce_sum(draws, axis=1, keepdims=True)
        delta = tf.cast(tf.reshape(delta, tf.shape(images)), images.dtype)
        return self.clip(images + per_example(self.epsilon, images) * delta)

    def steepest_ascent(self, gradient: Tensor) -> Tensor:
        """Returns the signs of the pixels with the largest absolute gradient, at unit L1 norm (0 where it is 0)."""
        size = math.prod(gradient.shape[1:])
        absolute = tf.abs(flatten(gradient))
        kept = max(1, round((1.0 - self.quantile) * size))
        threshold = tf.math.top_k(absolute, kept).values[:, -1:]
        chosen = tf.cast((absolute >= threshold) & (absolute > 0), gradient.dtype)
        direction = tf.math.divide_no_nan(chosen, tf.reduce_sum(chosen, axis=1, keepdims=True))
        return tf.sign(gradient) * tf.reshape(direction, tf.shape(gradient))

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Returns the sum of absolute differences per example, shape (batch,)."""
        return tf.reduce_sum(tf.abs(flatten(points - images)), axis=1)

    def covering_epsilon(self, size: int) -> float:
        """Returns the pixel range times `size`."""
        return (self.bounds[1] - self.bounds[0]) * size
