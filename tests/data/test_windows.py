"""Windows are inside the image, as large and as wide as they may be, and uniform where nothing is in the way."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.data.windows import ATTEMPTS, central_window, random_window

pytestmark = pytest.mark.graph

SIDES = st.integers(8, 600)
compiled_window = tf.function(random_window, input_signature=[tf.TensorSpec(2, tf.int32)] * 2)


@tf.function(reduce_retracing=True)
def windows(size: tf.Tensor, count: tf.Tensor, smallest_area: tf.Tensor = 0.08) -> tf.Tensor:
    """(count, 4) windows of as many seeds."""
    return tf.map_fn(lambda number: random_window(size, tf.stack([7, number]), smallest_area), tf.range(count))


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 8 * min(size)), st.integers(0, 2**31 - 1))
def test_random_windows_are_what_they_may_be(size, seed):
    """Where no draw fits, the largest window of an allowed shape is above 8 % of an image of at most 8 : 1."""
    top, left, height, width = compiled_window(size, [0, seed]).numpy()
    assert 0 <= top <= top + height <= size[0]
    assert 0 <= left <= left + width <= size[1]
    assert (height + 0.5) * (width + 0.5) >= 0.08 * math.prod(size)
    assert (width - 0.5) / (height + 0.5) <= 4 / 3
    assert (height - 0.5) / (width + 0.5) <= 4 / 3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_tiny_images_have_windows(size):
    for top, left, height, width in windows(tf.constant(size), 20).numpy():
        assert 1 <= height <= height + top <= size[0]
        assert 1 <= width <= width + left <= size[1]


def test_areas_and_shapes_are_uniform():
    """In a square, every draw with less than 3/4 of the area fits: given that, area and log ratio are uniform.

    Of the larger areas A, the draws fit whose log ratio is at most -log A: a part of -log A / log 4/3 of them. The
    integral of -log A from a to 1 is 1 - a + a log a.
    """
    side, count = 4000, 4000
    top, left, height, width = windows(tf.constant([side, side]), count).numpy().T.astype(float)
    area = height * width / side**2
    below = area < 0.7
    for values, low, high in (
        (area, 0.08, 0.7),
        (np.log(width / height), -np.log(4 / 3), np.log(4 / 3)),
        (top / (side - height + 1), 0, 1),
        (left / (side - width + 1), 0, 1),
    ):
        counts, _ = np.histogram(values[below], 4, (low, high))
        assert counts.sum() >= below.sum() - 4  # rounding to pixels
        assert np.all(abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean()))
    rest, large = ((1 - least + least * np.log(least)) / np.log(4 / 3) for least in (0.75, 0.9))
    expected = count * large / (0.75 - 0.08 + rest)
    assert abs(np.sum(area > 0.9) - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 3.0])
def test_random_windows_are_about_as_wide_as_what_they_are_resized_to(aspect):
    """Up to a factor of 4/3, and so is the largest window of an image that is much too narrow."""
    for size in ((600, 1200), (900, 900), (2000, 100)):
        drawn = tf.map_fn(
            lambda number, size=size: random_window(tf.constant(size), tf.stack([7, number]), aspect=aspect),
            tf.range(50),
        )
        height, width = drawn.numpy().T[2:].astype(float)
        assert np.all(width - 0.5 <= 4 / 3 * aspect * (height + 0.5))
        assert np.all(height - 0.5 <= 4 / 3 / aspect * (width + 0.5))
        assert np.all((drawn.numpy()[:, :2] + drawn.numpy()[:, 2:]) <= size)


def test_the_smallest_area():
    areas = np.prod(windows(tf.constant([100, 100]), 1000, 0.5).numpy()[:, 2:], axis=1)
    assert 0.49 * 100**2 <= areas.min() < 0.55 * 100**2


def test_the_same_seed_draws_the_same_window():
    size = tf.constant([300, 400])
    np.testing.assert_array_equal(random_window(size, tf.constant([3, 4])), compiled_window(size, [3, 4]))
    assert len(np.unique(windows(size, 100).numpy(), axis=0)) == 100


def test_most_draws_fit():
    """Of an image of 4 : 3, less than half of the area is refused, so that ten draws nearly always suffice."""
    assert ATTEMPTS == 10
    whole = np.all(windows(tf.constant([300, 400]), 2000).numpy()[:, 2:] == [300, 400], axis=1)
    assert whole.mean() < 0.005


@pytest.mark.parametrize(
    ("size", "target", "window"),
    [
        ((256, 341), (224, 224), (16, 58, 224, 224)),  # resize to 256 and crop 224, where there is nothing to resize
        ((341, 256), (224, 224), (58, 16, 224, 224)),
        ((512, 600), (224, 224), (32, 76, 448, 448)),
        ((224, 224), (224, 224), (0, 0, 224, 224)),
        ((224, 225), (224, 224), (14, 14, 196, 196)),
        ((32, 32), (224, 224), (2, 2, 28, 28)),
        ((1, 9), (64, 64), (0, 4, 1, 1)),
        ((256, 512), (112, 224), (16, 32, 224, 448)),  # the whole has the shape: 7/8 of each side
        ((512, 512), (112, 224), (144, 32, 224, 448)),
        ((300, 100), (64, 128), (128, 6, 44, 88)),
        ((64, 128), (64, 128), (0, 0, 64, 128)),
        ((1, 9), (64, 32), (0, 4, 1, 1)),
    ],
)
def test_central_windows(size, target, window):
    np.testing.assert_array_equal(central_window(tf.constant(size), target), window)
