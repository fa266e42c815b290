"""Images for the eye: attacked to the end, the misclassified too."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import BIM, PGD
from keras_robust.evaluation.large_epsilon_images import large_epsilon_images

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(12, 3, 3, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=(9, 2)).astype(np.float32)
LABELS = np.arange(12) % 2
SIDE = np.where(LABELS == 0, 1.0, -1.0)[:, None, None, None]
CORNER = np.clip(IMAGES + 0.8 * SIDE * np.sign(WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(3, 3, 1), 0, 1)
ATTACK = BIM(kr.Linf(0.8), steps=4)
PREFIX = f"large_epsilon/{ATTACK.name}"


def linear(x):
    return tf.reshape(x, (-1, 9)) @ WEIGHTS


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("batch_size", [2, 128])
def test_a_linear_classifier_is_attacked_to_the_corner(one_hot, batch_size):
    """Every image, also those that are wrong before or on the way."""
    labels = keras.utils.to_categorical(LABELS, 2) if one_hot else LABELS
    facts, arrays = large_epsilon_images(linear, (IMAGES, labels), ATTACK, examples=5, batch_size=batch_size)
    assert (linear(IMAGES[:5]).numpy().argmax(1) != LABELS[:5]).any()
    np.testing.assert_array_equal(arrays[f"{PREFIX}/images"], IMAGES[:5])
    np.testing.assert_allclose(arrays[f"{PREFIX}/attacked"], CORNER[:5], atol=1e-6)
    np.testing.assert_array_equal(arrays[f"{PREFIX}/labels"], LABELS[:5])
    np.testing.assert_array_equal(arrays[f"{PREFIX}/attacked_predictions"], 1 - LABELS[:5])
    assert set(arrays) == {f"{PREFIX}/{name}" for name in ("images", "attacked", "labels", "attacked_predictions")}
    seconds = facts.pop("seconds")
    assert seconds > 0
    assert facts == {
        "kind": "large_epsilon_images",
        "attack": ATTACK.name,
        "epsilon": 0.8,
        "arrays": PREFIX,
    }
    assert json.loads(json.dumps(facts)) == facts


def test_all_examples_are_shown_where_there_are_few():
    _, arrays = large_epsilon_images(linear, (IMAGES, LABELS), ATTACK, examples=100)
    np.testing.assert_allclose(arrays[f"{PREFIX}/attacked"], CORNER, atol=1e-6)


def test_the_seed_decides_the_start_and_of_restarts_the_first_is_shown():
    """An attack of a tiny step stays at its start."""

    def attacked(restarts, seed):
        attack = PGD(kr.Linf(0.8), steps=1, step_size=1e-6, restarts=restarts)
        facts, arrays = large_epsilon_images(linear, (IMAGES, LABELS), attack, seed=seed)
        return arrays[f"{facts['arrays']}/attacked"]

    np.testing.assert_array_equal(attacked(1, 0), attacked(2, 0))
    assert np.abs(attacked(1, 0) - attacked(1, 1)).max() > 0.1


@pytest.mark.multi_device
def test_two_replicas_share_a_batch_that_is_filled_up(two_replicas):
    with two_replicas.scope():
        _, arrays = large_epsilon_images(linear, (IMAGES, LABELS), ATTACK, examples=3)
    np.testing.assert_allclose(arrays[f"{PREFIX}/attacked"], CORNER[:3], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": 0.3}, "attack=0.3 of type float"),
        ({"examples": 0}, "examples=0"),
        ({"examples": 2.0}, "examples=2.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"attack": PGD(kr.Linf(0.1, bounds=(0, 0.5)))}, r"bounds=\[0.0, 0.5\]"),
    ],
)
def test_bad_arguments_of_large_epsilon_images_are_named(options, message):
    options = {"attack": ATTACK, **options}
    with pytest.raises(ValueError, match=message):
        large_epsilon_images(linear, (IMAGES, LABELS), options.pop("attack"), **options)
