"""PGD's goal, start and ascent, called one after the other."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import PGD
from keras_robust.core import L2, Linf, seeds

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
WEIGHTS = tf.constant(RNG.normal(size=(9, 4)), tf.float32)
IMAGES = tf.constant(RNG.uniform(size=(10, 3, 3, 1)), tf.float32)
LABELS = np.arange(10) % 4


def wavy(images: tf.Tensor) -> tf.Tensor:
    return tf.sin(9 * tf.reshape(images, (-1, 9))) @ WEIGHTS


@pytest.mark.parametrize(
    "attack",
    [
        PGD(Linf(0.1), steps=7),
        PGD(Linf(0.1), steps=30, step_size=0.01, target="random"),
        PGD(L2(0.5), steps=7, objective="kl_divergence"),
    ],
    ids=lambda attack: attack.name,
)
def test_an_ascent_that_is_continued_is_the_attack(attack):
    """3 steps and the rest, their numbers given as tensors, from the goal and the start that a call draws."""
    seed = seeds.as_seed(5)
    goal = attack.goal(wavy, IMAGES, LABELS, seeds.fold(seed, 0))
    points = attack.start(IMAGES, seeds.fold(seed, 1))

    @tf.function
    def ascend(points, steps):
        return attack.ascend(wavy, IMAGES, points, goal, steps)

    for steps in (3, attack.steps - 3):
        points = ascend(points, tf.constant(steps))
    np.testing.assert_allclose(points, attack(wavy, IMAGES, LABELS, 5), atol=1e-5)
    assert ascend.experimental_get_tracing_count() == 1
