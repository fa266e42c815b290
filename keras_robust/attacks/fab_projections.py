"""The shortest way to a hyperplane inside a box, in the Linf, L2 and L1 norms (Croce & Hein, 2020, section 3.1).

A linear function with gradient `normal` exceeds the value wanted by `excess` at each of `points`. The way there may
use each pixel only as far as its bound. Points are (..., batch, size) inside `bounds`, normals (batch, size) and
excesses (..., batch), all float32: several points can share a normal. Results are displacements, of the shape of
`points`; NaN in a normal or an excess gives NaN. Where the box does not reach the hyperplane, each function returns
the way to the point of the box that comes closest to it, that is every pixel with a nonzero normal at its bound.
"""

import tensorflow as tf

from keras_robust.core.seeds import Tensor


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
