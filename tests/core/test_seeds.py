"""Draws: the same with and without compilation, of the right distribution, different per step and per replica."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.core import seeds

pytestmark = pytest.mark.graph

COUNT = 100_000
DRAWS = {
    "uniform": lambda seed: seeds.uniform((5, 7), seed),
    "normal": lambda seed: seeds.normal((5, 7), seed),
    "exponential": lambda seed: seeds.exponential((5, 7), seed),
    "integers": lambda seed: seeds.integers((5, 7), seed, 10),
    "fold": lambda seed: seeds.fold(seed, 3, -1, 2**31 - 1),
    "folded uniform": lambda seed: seeds.uniform((9,), seeds.fold(seeds.fold(seed, 1), 2)),
}


@pytest.mark.xla
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("start", [0, 1, 2**31 - 1])
def test_draws_are_the_same_in_eager_graph_and_xla(name, start):
    """Bitwise for what is made of integers; the transforms by log and cos may differ in the last bits."""
    seed = seeds.as_seed(start)
    eager = DRAWS[name](seed)
    for jit_compile in (False, True):
        compiled = tf.function(DRAWS[name], jit_compile=jit_compile)(seed)
        if name in ("normal", "exponential"):
            np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(compiled, eager)


def test_folded_seeds_are_not_negative():
    """XLA and TensorFlow extend negative int32 seeds to 64 bits differently, so none may occur."""
    folded = np.array([seeds.fold(seeds.as_seed(s), n) for s in range(20) for n in range(20)])
    assert folded.min() >= 0
    assert len(np.unique(folded, axis=0)) == 400
    assert np.asarray(seeds.as_seed(tf.constant([-1, -(2**31)]))).min() >= 0


def test_fold_depends_on_each_number_in_order():
    seed = seeds.as_seed(0)
    results = [tuple(np.asarray(seeds.fold(seed, *numbers))) for numbers in ((), (0,), (1,), (1, 2), (2, 1), (0, 0))]
    assert len(set(results)) == len(results)
    np.testing.assert_array_equal(seeds.fold(seed, 4, 5), seeds.fold(seeds.fold(seed, 4), tf.constant(5)))


def test_uniform_moments_and_quantiles():
    """U[0, 1): mean 1/2, variance 1/12, sorted values at their ranks; multiples of 2**-24 below 1."""
    draws = np.asarray(seeds.uniform((COUNT,), seeds.as_seed(3)), np.float64)
    assert 0 <= draws.min() < draws.max() < 1
    assert abs(draws.mean() - 0.5) < 5 / math.sqrt(12 * COUNT)
    assert abs(draws.var() - 1 / 12) < 0.002
    assert np.abs(np.sort(draws) - np.arange(COUNT) / COUNT).max() < 1.95 / math.sqrt(COUNT)
    np.testing.assert_array_equal(draws * 2**24, np.floor(draws * 2**24))


def test_normal_moments():
    """N(0, 1): mean 0, variance 1, third moment 0, fourth 3, 95 % within 1.96; neighbours uncorrelated."""
    draws = np.asarray(seeds.normal((COUNT,), seeds.as_seed(3)), np.float64)
    moments = [np.mean(draws**k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.1)
    assert abs((np.abs(draws) < 1.959964).mean() - 0.95) < 0.005
    assert abs(np.mean(draws[1:] * draws[:-1])) < 0.015
    assert np.isfinite(draws).all()


def test_exponential_distribution():
    """P(t > s) = exp(-s), so exp(-t) is uniform."""
    draws = np.asarray(seeds.exponential((COUNT,), seeds.as_seed(3)), np.float64)
    uniform = np.sort(np.exp(-draws))
    assert np.abs(uniform - np.arange(COUNT) / COUNT).max() < 1.95 / math.sqrt(COUNT)


@pytest.mark.parametrize("maximum", [1, 2, 7])
def test_integers_take_each_value_equally_often(maximum):
    draws = np.asarray(seeds.integers((COUNT,), seeds.as_seed(3), maximum))
    assert draws.dtype == np.int32
    frequencies = np.bincount(draws, minlength=maximum) / COUNT
    np.testing.assert_allclose(frequencies, np.full(maximum, 1 / maximum), atol=0.01)


@pytest.mark.multi_device
def test_fold_replica_differs_per_replica_and_is_repeatable(two_replicas):
    def draw(step: tf.Tensor) -> tf.Tensor:
        return seeds.uniform((4,), seeds.fold_replica(seeds.fold(seeds.as_seed(0), step)))

    run = tf.function(lambda step: two_replicas.run(draw, (step,)))
    of_step = [[np.asarray(v) for v in two_replicas.experimental_local_results(run(tf.constant(s)))] for s in (0, 1, 0)]
    different = [*of_step[0], *of_step[1]]
    assert len(np.unique(different, axis=0)) == 4
    np.testing.assert_array_equal(of_step[0], of_step[2])
    np.testing.assert_array_equal(draw(tf.constant(0)), of_step[0][0])


def test_fold_replica_outside_any_replica_is_the_seed(two_replicas):
    with two_replicas.scope():
        np.testing.assert_array_equal(seeds.fold_replica(seeds.as_seed(5)), [0, 5])


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, True, "0", [1, 2, 3], tf.constant([1.0, 2.0])])
def test_as_seed_refuses_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="Received: seed="):
        seeds.as_seed(seed)


def test_as_seed_takes_integers_and_pairs():
    np.testing.assert_array_equal(seeds.as_seed(7), [0, 7])
    np.testing.assert_array_equal(seeds.as_seed(tf.constant([3, 4], tf.int64)), [3, 4])
