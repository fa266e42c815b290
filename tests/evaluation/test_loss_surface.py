"""The loss along two directions, against closed forms on linear classifiers."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.evaluation.loss_surface import loss_surface

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, 3, 3, 1)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 1, 0])
WEIGHTS = RNG.normal(size=9).astype(np.float32)


def linear(x):
    """The margin of class 1 is x @ WEIGHTS."""
    score = tf.reshape(x, (-1, 9)) @ WEIGHTS[:, None]
    return tf.concat([tf.zeros_like(score), score], axis=1)


def loss_of(margins):
    """The cross-entropy of two classes whose margin is known."""
    return np.log1p(np.exp(-margins))


def margins_of(losses):
    return -np.log(np.expm1(losses))


MARGINS = np.where(LABELS, 1, -1) * (IMAGES.reshape(6, 9) @ WEIGHTS)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_along_the_gradient_a_linear_margin_falls_by_the_dual_norm(norm, dual):
    """Beyond the pixel range, too: the radius takes most points out of it."""
    surface = loss_surface(linear, (IMAGES, LABELS), 0.8, norm=norm, points=5, examples=6, batch_size=7)
    losses = np.array(surface["losses"])
    assert losses.shape == (6, 5, 5)
    offsets = np.linspace(-0.8, 0.8, 5)
    expected = loss_of(MARGINS[:, None] - offsets * np.linalg.norm(WEIGHTS, dual))
    np.testing.assert_allclose(losses[:, :, 2], expected, rtol=1e-3)
    np.testing.assert_allclose(surface["first"], offsets, rtol=1e-6)
    assert surface["second"] == surface["first"]
    assert (surface["kind"], surface["norm"], surface["radius"]) == ("loss_surface", norm, 0.8)
    assert surface["axes"] == ["gradient", "random"]
    assert surface["labels"] == LABELS.tolist()
    assert json.loads(json.dumps(surface)) == surface


def test_a_surface_of_a_linear_classifier_is_that_of_a_sum():
    """The margin at (a, b) is that at (a, 0) plus that at (0, b) less that at the image."""
    margins = margins_of(np.array(loss_surface(linear, (IMAGES, LABELS), 0.3, points=7)["losses"]))
    expected = margins[:, :, 3:4] + margins[:, 3:4, :] - margins[:, 3:4, 3:4]
    np.testing.assert_allclose(margins, expected, atol=2e-3)


@pytest.mark.parametrize(("norm", "unit"), [("linf", 1), ("l2", 0.5), ("l1", 0.25)])
def test_random_directions_are_signs_of_unit_norm_and_the_same_for_all_examples(norm, unit):
    """With the weights 1, 2, 4 and 8 the slope of the margin is an odd number that says all four signs."""
    weights = np.array([[1.0], [2.0], [4.0], [8.0]], np.float32)

    def binary(x):
        score = tf.reshape(x, (-1, 4)) @ weights
        return tf.concat([score, tf.zeros_like(score)], axis=1) / 10

    images = RNG.uniform(size=(3, 2, 2, 1)).astype(np.float32)
    surface = loss_surface(binary, (images, np.zeros(3, int)), 0.5, norm=norm, axes="random_random", points=3)
    margins = margins_of(np.array(surface["losses"]))
    slopes = [margins[:, 2, 1] - margins[:, 0, 1], margins[:, 1, 2] - margins[:, 1, 0]]
    slopes = np.array(slopes) * 10 / unit
    signs = np.round((slopes - 1) / 2) * 2 + 1
    np.testing.assert_allclose(slopes, signs, atol=0.02)
    assert np.abs(signs).max() <= 15
    assert (signs == signs[:, :1]).all()
    assert signs[0, 0] != signs[1, 0]
    assert surface["axes"] == ["random", "random"]
    assert surface["verdict"].startswith("Along two random directions the loss changes by at most")


def test_the_middle_is_the_image_and_the_seed_decides_the_rest():
    options = {"points": 3, "examples": 2}
    surfaces = [loss_surface(linear, (IMAGES, LABELS), 0.3, seed=seed, **options) for seed in (1, 1, 3)]
    losses = np.array([surface["losses"] for surface in surfaces])
    np.testing.assert_allclose(losses[:, :, 1, 1], np.tile(loss_of(MARGINS[:2]), (3, 1)), rtol=1e-5)
    np.testing.assert_array_equal(losses[0], losses[1])
    assert np.abs(losses[0] - losses[2]).max() > 0.01
    assert len(surfaces[0]["labels"]) == 2


def test_a_gradient_that_leads_is_no_sign_of_masking():
    verdict = loss_surface(linear, (IMAGES, LABELS), 0.3, points=5)["verdict"]
    assert verdict.startswith("No sign of masked gradients")
    assert "for 4 of 4 examples" in verdict
    assert verdict.endswith("it never falls for 4 of 4.")


def test_a_gradient_that_leads_nowhere_is_a_sign_of_masking():
    def masked(x):
        return linear(tf.stop_gradient(x)) + 0 * linear(x)

    verdict = loss_surface(masked, (IMAGES, LABELS), 0.3, points=5)["verdict"]
    assert verdict.startswith("Gradients may be masked")
    assert "for 0 of 4 examples" in verdict


def test_a_loss_that_falls_on_the_way_is_counted():
    """Up to 0.1 from the image the loss rises, and then it falls."""

    def hill(x):
        height = -tf.abs(tf.reshape(x, (-1, 9)) @ np.full((9, 1), 1 / 9, np.float32) - 0.6)
        return tf.concat([tf.zeros_like(height), 10 * height], axis=1)

    images = np.full((1, 3, 3, 1), 0.5, np.float32)
    assert loss_surface(hill, (images, [0]), 0.3, points=7)["verdict"].endswith("it never falls for 0 of 1.")
    assert loss_surface(hill, (images, [0]), 0.1, points=7)["verdict"].endswith("it never falls for 1 of 1.")


@pytest.mark.multi_device
def test_two_replicas_compute_the_same_surface(two_replicas):
    alone = loss_surface(linear, (IMAGES, LABELS), 0.3, points=5)
    with two_replicas.scope():
        spread = loss_surface(linear, (IMAGES, LABELS), 0.3, points=5, batch_size=8)
    np.testing.assert_allclose(spread["losses"], alone["losses"], rtol=1e-5)


CASES = {
    "norm": ({"norm": "l3"}, "norm='l3'"),
    "axes": ({"axes": "gradient"}, "axes='gradient'"),
    "even": ({"points": 4}, "points=4"),
    "one point": ({"points": 1}, "points=1"),
    "no examples": ({"examples": 0}, "examples=0"),
    "radius 0": ({"radius": 0}, "radius=0"),
    "negative": ({"radius": -1.0}, "radius=-1"),
    "text": ({"radius": "0.3"}, "radius='0.3'"),
    "larger than the range": ({"radius": 8}, "epsilon=8"),
    "bounds": ({"bounds": (0.0, 0.5)}, r"bounds=\[0.0, 0.5\]"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_of_a_loss_surface_are_named(options, message):
    options = {"radius": 0.3, **options}
    with pytest.raises(ValueError, match=message):
        loss_surface(linear, (IMAGES, LABELS), options.pop("radius"), **options)
