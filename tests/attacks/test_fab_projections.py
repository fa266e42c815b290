"""The way to a hyperplane inside a box, against bisection in float64 and the reference code."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks.fab import project_l1, project_l2, project_linf

pytestmark = pytest.mark.graph

PROJECTIONS = {"linf": project_linf, "l2": project_l2, "l1": project_l1}
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "fab.json").read_text())
NORMS = pytest.mark.parametrize("norm", sorted(PROJECTIONS))


def lengths(displacements: np.ndarray, norm: str) -> np.ndarray:
    return np.linalg.norm(displacements, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=-1)


def cases(bounds: tuple[float, float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 points of 12 pixels, some on the bounds; normals with zeros and ties; excesses of both signs and sizes."""
    rng = np.random.default_rng(seed)
    low, high = bounds
    points = rng.uniform(low, high, size=(200, 12))
    points[::5] = np.where(points[::5] > (low + high) / 2, high, low)
    normal = rng.normal(size=(200, 12)) * 10.0 ** rng.uniform(-6, 3, size=(200, 1))
    normal[::3, :4] = 0.0
    normal[1::3, :6] = np.sign(normal[1::3, :6]) * np.abs(normal[1::3, :1])
    reach = np.abs(normal).sum(axis=1) * (high - low)
    excess = reach * rng.normal(size=200) * rng.choice([1e-3, 0.1, 0.5], size=200)
    return tuple(array.astype(np.float32) for array in (points, normal, excess))


def brute_force(points, normal, excess, bounds, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least length, in float64, and whether the hyperplane is in reach.

    How far the function can fall with a length of at most r grows with r: in Linf every pixel moves by r, in L2 by
    lambda |normal| for the lambda that grows with r; bisection finds the multiplier. In L1 a greedy loop over pixels.
    """
    points, normal, excess = (np.asarray(array, np.float64) for array in (points, normal, excess))
    falling = np.sign(normal) * np.sign(excess)[:, None] > 0
    room, rate = np.where(falling, points - bounds[0], bounds[1] - points), np.abs(normal)
    feasible = (rate * room).sum(axis=1) > np.abs(excess) * (1 + 1e-5)
    if norm == "l1":
        length = np.zeros(len(points))
        for i in range(len(points)):
            left = abs(excess[i])
            for j in np.argsort(-rate[i]):
                move = min(room[i, j], left / rate[i, j]) if rate[i, j] > 0 else 0.0
                length[i], left = length[i] + move, left - move * rate[i, j]
        return length, feasible
    speed = np.where(rate > 0, 1.0 if norm == "linf" else rate, 0.0)
    low, high = np.zeros(len(points)), np.full(len(points), 1e12)
    for _ in range(200):
        middle = np.sqrt(np.maximum(low, 1e-30) * high)
        enough = (rate * np.minimum(middle[:, None] * speed, room)).sum(axis=1) >= np.abs(excess)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return lengths(np.minimum(high[:, None] * speed, room), norm), feasible


@NORMS
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)], ids=str)
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.xla)], ids=["graph", "xla"])
def test_shortest_way_to_the_hyperplane(norm, bounds, jit_compile):
    """On the hyperplane, in the box, as short as brute force; where out of reach, all pixels at their bounds."""
    points, normal, excess = cases(bounds)
    project = tf.function(lambda *args: PROJECTIONS[norm](*args, bounds), jit_compile=jit_compile)
    moved = np.asarray(project(points, normal, excess), np.float64)
    length, feasible = brute_force(points, normal, excess, bounds, norm)
    assert 20 < (~feasible).sum() < 180
    scale = np.abs(normal).sum(axis=1) * (bounds[1] - bounds[0])
    after = ((normal * moved).sum(axis=1) + excess) / scale
    np.testing.assert_allclose(after[feasible], 0.0, atol=1e-6)
    np.testing.assert_allclose(lengths(moved, norm)[feasible], length[feasible], rtol=1e-4, atol=1e-6)
    assert (points + moved).min() >= bounds[0] - 1e-6
    assert (points + moved).max() <= bounds[1] + 1e-6
    assert np.all(moved[normal == 0] == 0)
    far = ~feasible[:, None] & (normal != 0)
    target = np.where(normal * excess[:, None] > 0, bounds[0], bounds[1])
    nearly = np.abs(excess) < (1 + 1e-4) * (np.abs(normal) * np.abs(target - points)).sum(axis=1)
    far &= ~nearly[:, None]
    np.testing.assert_allclose((points + moved)[far], target[far], atol=1e-6)


@NORMS
def test_reference(norm):
    """The displacements of the reference code, which takes the offset <normal, z> = offset for the excess."""
    golden = {key: np.array(value, np.float32) for key, value in GOLDEN[norm]["projection"].items()}
    excess = (golden["normals"] * golden["points"]).sum(axis=1) - golden["offsets"]
    moved = PROJECTIONS[norm](golden["points"], golden["normals"], excess, (0.0, 1.0))
    np.testing.assert_allclose(moved, golden["displacements"], atol=1e-5)


@NORMS
def test_points_that_share_a_normal(norm):
    """A leading dimension of points goes through the same normals, as if projected one after the other."""
    points, normal, excess = cases((0.0, 1.0))
    others, excesses = points[::-1].copy(), np.stack([excess, -0.5 * excess])
    project = PROJECTIONS[norm]
    both = project(tf.stack([points, others]), normal, excesses, (0.0, 1.0))
    for side, alone in enumerate((points, others)):
        np.testing.assert_allclose(both[side], project(alone, normal, excesses[side], (0.0, 1.0)), atol=1e-6)


@NORMS
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_only_the_hyperplane_counts(norm, scale):
    """<normal, d> = -excess is the same for any multiple of both, even where its square leaves float32."""
    points, normal, excess = cases((0.0, 1.0))
    normal, excess = normal / np.abs(normal).max(axis=1, keepdims=True), excess / np.abs(normal).max(axis=1)
    expected = PROJECTIONS[norm](points, normal, excess, (0.0, 1.0))
    moved = PROJECTIONS[norm](points, (scale * normal).astype("f"), (scale * excess).astype("f"), (0.0, 1.0))
    np.testing.assert_allclose(lengths(moved, norm), lengths(expected, norm), rtol=1e-4, atol=1e-5)


@NORMS
def test_nothing_to_do_and_nothing_to_be_done(norm):
    """Points on the hyperplane stay; so do those without a hyperplane, whose normal is 0."""
    points, normal, excess = cases((0.0, 1.0))
    assert np.all(PROJECTIONS[norm](points, normal, 0 * excess, (0.0, 1.0)) == 0)
    assert np.all(PROJECTIONS[norm](points, 0 * normal, excess, (0.0, 1.0)) == 0)


@NORMS
def test_nan_stays_nan(norm):
    """NaN in an excess or in an entry of a normal, for the example that has it and for no other."""
    points, normal, excess = cases((0.0, 1.0))
    normal[4, 7], excess[6] = np.nan, np.nan
    moved = np.asarray(PROJECTIONS[norm](points, normal, excess, (0.0, 1.0)))
    assert np.isnan(moved[4]).any()
    assert np.isnan(moved[6]).any()
    assert np.isfinite(np.delete(moved, [4, 6], axis=0)).all()
