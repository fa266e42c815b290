"""The Gaussian start of TRADES and MART."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr


@pytest.mark.parametrize(("start_radius", "deviation"), [(None, 0.001), (0.05, 0.05)])
def test_starts_are_normal(start_radius, deviation):
    images = tf.fill((50, 8, 8, 1), 0.5)
    attack = kr.attacks.PGD(kr.Linf(0.3), steps=1, random_start="normal", start_radius=start_radius)
    noise = attack.start(images, tf.constant([0, 3])).numpy() - 0.5
    np.testing.assert_allclose(noise.std(), deviation, rtol=0.03)
    assert abs(noise.mean()) < deviation / 10


def test_starts_stay_in_the_ball():
    images = np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype("float32")
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=1, random_start="normal", start_radius=0.1)
    starts = attack.start(tf.constant(images), tf.constant([0, 3])).numpy()
    assert np.abs(starts - images).max() <= 0.1 + 1e-6
    assert starts.min() >= 0
    assert starts.max() <= 1
    assert (np.abs(starts - images) > 0.0999).mean() > 0.1


def test_the_name_says_it():
    assert "start normal" in kr.attacks.PGD(kr.Linf(0.3), random_start="normal").name
