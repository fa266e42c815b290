"""Random points, steepest ascent, distance, errors and serialisation of threat models."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.core import L1, L2, Linf

COUNT = 20000
KOLMOGOROV = 1.95 / math.sqrt(COUNT)
"""The distance from the uniform distribution that 1 sample in 1000 exceeds."""


def assert_uniform(values: np.ndarray) -> None:
    """Kolmogorov-Smirnov: the sorted values are close to their ranks."""
    values = np.sort(np.asarray(values, np.float64))
    assert np.abs(values - (np.arange(len(values)) + 0.5) / len(values)).max() < KOLMOGOROV


def draw(ball, size: int) -> np.ndarray:
    """Returns perturbations of images whose pixels are far from the range's ends, divided by epsilon."""
    images = tf.fill((COUNT, size), 0.5)
    return (np.asarray(ball.random_point(images, tf.constant([0, 7]))) - 0.5) / ball.epsilon


def test_linf_random_point_is_uniform_per_pixel():
    """U(-1, 1): mean 0, variance 1/3, distribution (t + 1) / 2, and no correlation between pixels."""
    delta = draw(Linf(0.25), 3)
    assert np.abs(delta).max() <= 1 + 1e-6
    np.testing.assert_allclose(delta.mean(axis=0), 0, atol=5 / math.sqrt(3 * COUNT))
    np.testing.assert_allclose(delta.T @ delta / COUNT, np.eye(3) / 3, atol=0.015)
    for pixel in delta.T:
        assert_uniform((pixel + 1) / 2)


def test_l2_random_point_is_uniform_in_the_ball():
    """In d = 3: P(radius < r) = r^3, and a coordinate has density (3/4) (1 - t^2), so P(|t| < s) = (3s - s^3) / 2."""
    delta = draw(L2(0.25), 3)
    radius = np.linalg.norm(delta, axis=1)
    assert radius.max() <= 1 + 1e-6
    assert_uniform(radius**3)
    for pixel in np.abs(delta.T):
        assert_uniform((3 * pixel - pixel**3) / 2)
    np.testing.assert_allclose(delta.mean(axis=0), 0, atol=0.02)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(2.0)], ids=str)
def test_the_dtype_is_that_of_the_images(ball):
    for dtype in ("float32", "float64"):
        images = tf.constant(np.random.default_rng(0).random((4, 6)), dtype)
        points = ball.random_point(images, tf.constant([0, 7]))
        far = ball.project(1 - images, images)
        for result in (points, far, ball.steepest_ascent(points - images), ball.distance(far, images)):
            assert result.dtype == dtype


def test_l1_random_point_is_uniform_in_the_ball():
    """In d = 4: P(norm < r) = r^4, and |coordinate| is Beta(1, 4), so P(|t| < s) = 1 - (1 - s)^4."""
    delta = draw(L1(0.25), 4)
    size = np.abs(delta).sum(axis=1)
    assert size.max() <= 1 + 1e-5
    assert_uniform(size**4)
    for pixel in delta.T:
        assert_uniform(1 - (1 - np.abs(pixel)) ** 4)
        assert abs((pixel > 0).mean() - 0.5) < 0.02


@pytest.mark.parametrize("ball", [Linf(0.4), L2(2.0), L1(3.0, bounds=(-1.0, 1.0))])
def test_random_point_is_in_the_ball_and_the_range_and_differs_per_example(ball):
    low, high = ball.bounds
    images = np.random.default_rng(0).uniform(low, high, (50, 4, 4, 1)).astype(np.float32)
    images[:10] = high
    points = ball.random_point(tf.constant(images), tf.constant([0, 1]))
    assert np.all(ball.distance(points, images) <= ball.epsilon + 1e-5)
    assert low <= np.min(points) <= np.max(points) <= high
    assert len(np.unique(np.asarray(points)[:10].reshape(10, -1), axis=0)) == 10
    assert not np.allclose(points, ball.random_point(tf.constant(images), tf.constant([0, 2])))


def test_linf_steepest_ascent_is_the_sign():
    """The maximum of <g, d> over |d| <= 1 is sum |g|, at the signs."""
    gradient = np.array([[0.5, -2.0, 0.0], [1e-30, 1.0, -1.0]], np.float32)
    np.testing.assert_array_equal(Linf(0.1).steepest_ascent(gradient), [[1, -1, 0], [1, 1, -1]])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_l2_steepest_ascent_is_the_unit_gradient(scale):
    """The maximum of <g, d> over ||d|| <= 1 is ||g||, at g / ||g|| (Cauchy-Schwarz), whatever the scale of g."""
    gradient = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    expected = gradient / np.linalg.norm(gradient.reshape(3, -1), axis=1)[:, None, None, None]
    direction = L2(0.1).steepest_ascent(tf.constant(gradient * scale, tf.float32))
    np.testing.assert_allclose(direction, expected, atol=1e-6)


def test_l1_steepest_ascent_with_quantile_1_is_one_pixel():
    """The maximum of <g, d> over ||d||_1 <= 1 is max |g| (Hölder), at the signed unit vector of that pixel."""
    gradient = np.random.default_rng(0).normal(size=(5, 3, 4, 1)).astype(np.float32)
    direction = np.asarray(L1(0.1, quantile=1.0).steepest_ascent(gradient)).reshape(5, -1)
    flat = gradient.reshape(5, -1)
    expected = np.zeros_like(flat)
    largest = np.abs(flat).argmax(axis=1)
    expected[np.arange(5), largest] = np.sign(flat[np.arange(5), largest])
    np.testing.assert_array_equal(direction, expected)


@pytest.mark.parametrize(("quantile", "moved"), [(0.99, 2), (0.9, 20), (0.0, 200), (1.0, 1)])
def test_l1_steepest_ascent_moves_the_top_quantile_equally(quantile, moved):
    """Of 200 pixels, 1 % are 2: each moves by 1/2, and they are those with the largest absolute gradient."""
    gradient = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    direction = np.asarray(L1(0.1, quantile=quantile).steepest_ascent(gradient))
    for g, d in zip(gradient, direction, strict=True):
        chosen = np.argsort(-np.abs(g))[:moved]
        np.testing.assert_array_equal(np.sort(np.flatnonzero(d)), np.sort(chosen))
        np.testing.assert_allclose(d[chosen], np.sign(g[chosen]) / moved, rtol=1e-6)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1), L1(0.1), L1(0.1, quantile=1.0)])
def test_steepest_ascent_of_no_gradient_is_0_and_nan_stays_visible(ball):
    gradient = np.array([[0.0, 0.0], [np.nan, 1.0]], np.float32)
    direction = np.asarray(ball.steepest_ascent(tf.constant(gradient)))
    np.testing.assert_array_equal(direction[0], [0, 0])
    assert np.isnan(direction[1]).any()


@pytest.mark.parametrize(("ball", "expected"), [(Linf(0.1), 2.0), (L2(0.1), 3.0), (L1(0.1), 5.0)])
def test_distance(ball, expected):
    """(1, -2, 2): largest 2, length sqrt(1 + 4 + 4) = 3, sum 5; and none from itself."""
    delta = np.array([[[1.0, -2.0, 2.0]], [[0.0, 0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(ball.distance(0.5 + delta, np.full_like(delta, 0.5)), [expected, 0.0], rtol=1e-6)


ERRORS = [
    (lambda: Linf(-1), "epsilon=-1"),
    (lambda: L2(math.nan), "epsilon=nan"),
    (lambda: L1(math.inf), "epsilon=inf"),
    (lambda: L2("8/255"), "epsilon='8/255'"),
    (lambda: Linf(True), "epsilon=True"),
    (lambda: Linf(8), "epsilon=8"),
    (lambda: Linf(8, (0, 7)), "epsilon=8"),
    (lambda: Linf(0.1, (1, 0)), "bounds=(1, 0)"),
    (lambda: L2(0.1, (0, 0)), "bounds=(0, 0)"),
    (lambda: L2(0.1, (0, 1, 2)), "bounds=(0, 1, 2)"),
    (lambda: L1(0.1, quantile=1.5), "quantile=1.5"),
]


@pytest.mark.parametrize(("make", "received"), ERRORS)
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match="Received") as error:
        make()
    assert received in str(error.value)


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(128, (0, 255)), L1(12.0, (-1.0, 1.0), quantile=0.9)])
def test_serialisation_round_trip(ball):
    text = json.dumps(keras.saving.serialize_keras_object(ball))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again == ball
    assert type(again) is type(ball)
    assert isinstance(again.bounds, tuple)
    assert hash(again) == hash(ball)


def test_str_says_norm_and_epsilon():
    assert [str(ball) for ball in (Linf(0.3), L2(1), L1(12.5))] == ["Linf 0.3", "L2 1", "L1 12.5"]


def test_the_whole_pixel_range_is_allowed_however_it_is_rounded():
    """0.7 - 0.3 is less than 0.4 in float64."""
    assert Linf(0.4, bounds=(0.3, 0.7)).epsilon == 0.4
    with pytest.raises(ValueError, match=r"Received: epsilon=0\.4001"):
        Linf(0.4001, bounds=(0.3, 0.7))
