"""Projections against a search in float64 NumPy, and against the inequality that only projections satisfy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.core import L1, L2, Linf, ThreatModel

pytestmark = pytest.mark.graph

BALLS = {"linf": Linf, "l2": L2, "l1": L1}
NORMS = {
    "linf": lambda delta: np.abs(delta).max(axis=1),
    "l2": lambda delta: np.sqrt((delta**2).sum(axis=1)),
    "l1": lambda delta: np.abs(delta).sum(axis=1),
}


def flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def along_multiplier(norm: str, multiplier: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Minimises (z - p)^2 / 2 + multiplier * penalty(z - x) per pixel, for delta = p - x: no pixel range yet.

    L2, penalty t^2 / 2: stationary at t = delta / (1 + multiplier). L1, penalty |t|: soft thresholding. Both are convex
    in each pixel alone, so the minimum inside the range is the free one clipped to it.
    """
    if norm == "l2":
        return delta / (1 + multiplier)
    return np.sign(delta) * np.maximum(np.abs(delta) - multiplier, 0)


def search(ball: ThreatModel, points: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Bisects for the multiplier at which the constraint of the ball is met with equality (0 if it is met at 0)."""
    points, images = flat(points), flat(images)
    low_pixel, high_pixel = ball.bounds

    def solve(multiplier: np.ndarray) -> np.ndarray:
        return np.clip(images + along_multiplier(ball.norm, multiplier, points - images), low_pixel, high_pixel)

    low, high = np.zeros((len(images), 1)), np.full((len(images), 1), 1e12)
    inside = NORMS[ball.norm](solve(low) - images) <= ball.epsilon
    for _ in range(200):
        middle = np.where(low > 0, np.sqrt(low * high), np.minimum(high / 2, 1e-12 + high * 1e-3))
        far = NORMS[ball.norm](solve(middle) - images)[:, None] > ball.epsilon
        low, high = np.where(far, middle, low), np.where(far, high, middle)
    return np.where(inside[:, None], solve(np.zeros_like(low)), solve(high))


@st.composite
def problems(draw: st.DrawFn, norm: str) -> tuple[ThreatModel, np.ndarray, np.ndarray]:
    """A ball, points, and the images around which it is; many pixels lie on the bounds."""
    low, high = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]))
    reach = 1.0 if norm == "linf" else 100.0
    fraction = draw(st.one_of(st.just(0.0), st.floats(1e-3, min(reach, 3.0)), st.just(reach)))
    ball = BALLS[norm](fraction * (high - low), (low, high))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = draw(st.sampled_from([(1, 1), (3, 5), (2, 4, 4, 1), (2, 3, 2, 3), (2, 40)]))
    images = np.where(rng.uniform(size=shape) < 0.3, rng.choice([low, high], shape), rng.uniform(low, high, shape))
    spread = draw(st.sampled_from([0.0, 0.01, 1.0, 10.0])) * (high - low)
    points = images + spread * rng.normal(size=shape)
    return ball, points.astype(np.float32), images.astype(np.float32)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_project_is_the_closest_point_of_the_ball_and_the_range(norm, data):
    """The minimum of a convex problem is where its Lagrangian is stationary: see `along_multiplier`."""
    ball, points, images = data.draw(problems(norm))
    projected = flat(ball.project(tf.constant(points), tf.constant(images)))
    scale = np.abs(points).max() + 1
    np.testing.assert_allclose(projected, search(ball, points, images), atol=4e-6 * scale)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_project_satisfies_the_variational_inequality(norm, data):
    """The point z is the projection of p on a convex set if and only if <p - z, y - z> <= 0 for all y of the set.

    y = clip(x + d) with d in the ball is such a point: clipping moves each pixel towards x, which is in the range.
    """
    ball, points, images = data.draw(problems(norm))
    once = ball.project(tf.constant(points), tf.constant(images))
    z, p, x = flat(once), flat(points), flat(images)
    scale = np.abs(p).max() + 1
    assert np.all(NORMS[norm](z - x) <= ball.epsilon + 2e-6 * scale * x.shape[1] ** 0.5)
    assert z.min() >= ball.bounds[0]
    assert z.max() <= ball.bounds[1]
    rng = np.random.default_rng(0)
    for corner in (rng.normal(size=(50, *x.shape)), np.sign(p - x) * rng.uniform(size=(50, *x.shape))):
        for d in corner:
            y = np.clip(x + ball.epsilon * d / np.maximum(NORMS[norm](d), 1e-12)[:, None], *ball.bounds)
            assert np.all(((p - z) * (y - z)).sum(axis=1) <= 1e-5 * scale**2 * x.shape[1])
    np.testing.assert_allclose(ball.project(once, tf.constant(images)), once, atol=4e-6 * scale)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_project_leaves_what_is_inside(norm):
    """A point of the set is its own projection; so is any point in the range where the ball covers all of it."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (3, 4, 4, 1)).astype(np.float32)
    inside = images + 0.001 * rng.uniform(-1, 1, images.shape).astype(np.float32)
    np.testing.assert_allclose(BALLS[norm](0.1).project(inside, images), inside, atol=1e-7)
    covering = {"linf": 1.0, "l2": 4.0, "l1": 16.0}[norm]
    anywhere = rng.uniform(size=images.shape).astype(np.float32)
    np.testing.assert_allclose(BALLS[norm](covering).project(anywhere, images), anywhere, atol=1e-6)


@pytest.mark.parametrize("ball", [L2(1e25), L1(1e25)])
def test_project_with_a_huge_epsilon_is_the_clip(ball):
    images = np.full((1, 4), 0.5, np.float32)
    points = np.array([[0.7, 3.0, -2.0, 0.5]], np.float32)
    np.testing.assert_allclose(ball.project(points, images), [[0.7, 1.0, 0.0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_project_with_epsilon_0_returns_the_images(norm):
    images = np.random.default_rng(0).uniform(size=(2, 3, 3, 1)).astype(np.float32)
    np.testing.assert_array_equal(BALLS[norm](0.0).project(images + 0.5, images), images)


@pytest.mark.xla
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_project_compiles_to_the_same(norm):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(size=(4, 5, 5, 1)), tf.float32)
    points = images + tf.constant(rng.normal(size=images.shape), tf.float32)
    ball = BALLS[norm](0.7)
    compiled = tf.function(ball.project, jit_compile=True)
    np.testing.assert_allclose(compiled(points, images), ball.project(points, images), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_project_works_in_a_graph_of_unknown_batch(norm):
    ball = BALLS[norm](0.5)
    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    spec = tf.TensorSpec((None, 2, 2, 1), tf.float32)
    graph = tf.function(ball.project, input_signature=[spec, spec])
    np.testing.assert_allclose(graph(images + 3, images), ball.project(images + 3, images), atol=1e-7)
