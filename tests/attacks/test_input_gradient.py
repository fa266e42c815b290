"""A gradient that is none, or of another shape than the images, is refused where attacks take it: in training, too."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, FAB, PGD
from keras_robust.attacks.attack import value_and_gradient, with_whole_gradient

pytestmark = pytest.mark.graph

IMAGES = np.full((3, 2, 2, 1), 0.5, np.float32)
LABELS = np.array([0, 1, 0])
KERNEL = np.array([[1.0, -1.0]] * 4, np.float32)
BALL = kr.Linf(0.1)
ATTACKS = [PGD(BALL), APGD(BALL, steps=3), FAB(BALL, targets=1)]


def on_host(x):
    """Code that is not TensorFlow's, whose gradient TensorFlow takes for the scalar 0."""
    logits = tf.py_function(lambda images: images.numpy().reshape(-1, 4) @ KERNEL, [x], tf.float32)
    return tf.ensure_shape(logits, (len(IMAGES), 2))


def in_eager_function(x):
    """TensorFlow's own code inside `tf.py_function`: its gradient is right, and its shape is known when it runs."""
    return tf.ensure_shape(
        tf.py_function(lambda images: tf.reshape(images, (-1, 4)) @ KERNEL, [x], tf.float32), (None, 2)
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_scalar_gradient_is_refused(attack):
    with pytest.raises(ValueError, match=r"differentiable in its images.*Square.*a gradient of shape \(\)"):
        attack(on_host, IMAGES, LABELS, 0)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_in_a_graph_it_is_refused_when_it_runs(attack):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)\[\].*differentiable_in_its_images"):
        tf.function(lambda: attack(on_host, IMAGES, LABELS, 0))()


def test_a_gradient_whose_shape_is_known_late_is_followed():
    for run in (tf.function, lambda function: function):
        attacked = run(lambda: PGD(BALL, random_start="none")(in_eager_function, IMAGES, LABELS, 0))()
        expected = PGD(BALL, random_start="none")(lambda x: tf.reshape(x, (-1, 4)) @ KERNEL, IMAGES, LABELS, 0)
        np.testing.assert_allclose(attacked, expected, atol=1e-6)


def test_a_scalar_zero_is_spread_where_it_is_asked_for():
    for run in (tf.function, lambda function: function):
        points = tf.constant(IMAGES)
        look = run(lambda points=points: value_and_gradient(with_whole_gradient(on_host), points)[1])
        np.testing.assert_array_equal(look(), np.zeros_like(IMAGES))
