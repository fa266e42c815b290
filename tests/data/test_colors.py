"""The one affine map of an image's colours is the four changes, one after the other."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.data.colors import EIGENVECTORS, color_map, recolor

GRAY = (0.299, 0.587, 0.114)
"""Of ITU-R BT.601."""
DEVIATIONS = (0.2175, 0.0188, 0.0045)
COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""`pca` of datasets/imagenet.lua in fb.resnet.torch, in rows of red, green and blue: each column is a component."""

FACTOR = st.floats(0.6, 1.4)
LIGHT = st.floats(-0.1, 0.1)


def one_after_the_other(image: np.ndarray, factors: list[float], light: list[float], order: list[int]) -> np.ndarray:
    """Brightness, contrast, saturation and lighting as fb.resnet.torch does them: blends of images."""

    def blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
        return factor * image + (1 - factor) * other

    for change in order:
        gray = (image @ np.array(GRAY))[..., np.newaxis]
        if change < 3:
            image = blend(image, (np.zeros_like(image), gray.mean(), gray)[change], factors[change])
        else:
            image = image + light
    return image


@settings(deadline=None)
@given(st.tuples(FACTOR, FACTOR, FACTOR), st.tuples(LIGHT, LIGHT, LIGHT), st.permutations(range(4)))
def test_the_map_is_the_four_changes(factors, light, order):
    image = np.random.default_rng(0).uniform(size=(5, 7, 3))
    mean = image.mean(axis=(0, 1), keepdims=True)[0].astype(np.float32)
    matrix, shift = color_map(mean, tf.constant([factors]), tf.constant([light]), tf.constant([order]))
    mapped = image @ matrix[0].numpy().T + shift[0].numpy()
    np.testing.assert_allclose(mapped, one_after_the_other(image, factors, light, order), atol=1e-5)


def test_without_strength_and_light_nothing_changes():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    recolored = recolor(tf.constant(images), tf.constant([0, 1]), strength=0.0, lighting=0.0)
    assert recolored.dtype == tf.float32
    np.testing.assert_allclose(recolored, images / 255, atol=1e-6)


def test_draws_differ_between_images_and_seeds_and_stay_in_range():
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8))
    images = tf.tile(images, (50, 1, 1, 1))
    once, again, other = (recolor(images, tf.constant([0, seed])).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert len({image.tobytes() for image in [*once, *other]}) == 100
    assert (once.min(), once.max()) == (0.0, 1.0)


def test_strengths_and_lighting():
    """Of a gray image, contrast and saturation change nothing: brightness and lighting are what is seen."""
    images = tf.fill((4000, 1, 1, 3), tf.constant(102, tf.uint8))
    factors = recolor(images, tf.constant([0, 1]), lighting=0.0).numpy()[:, 0, 0, 0] / 0.4
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4 + 1e-6
    assert abs(factors.mean() - 1) < 5 * 0.4 / np.sqrt(3 * 4000)
    added = recolor(images, tf.constant([0, 1]), strength=0.0).numpy()[:, 0, 0] - 0.4
    spread = (added @ np.array(COMPONENTS)).std(axis=0)
    np.testing.assert_allclose(spread, 0.1 * np.array(DEVIATIONS), rtol=5 / np.sqrt(2 * 4000))


def test_the_components_are_orthonormal():
    np.testing.assert_allclose(np.array(EIGENVECTORS).T @ np.array(EIGENVECTORS), np.eye(3), atol=1e-3)


def test_gray_images_are_refused():
    with pytest.raises(ValueError, match=r"three channels. Received: images of shape \(1, 2, 2, 1\)"):
        recolor(tf.zeros((1, 2, 2, 1), tf.uint8), tf.constant([0, 1]))
