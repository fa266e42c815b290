"""Images outside the ball or the pixel range are refused, whichever norm, image or pixel it is."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import BIM, FGSM
from keras_robust.evaluation.attack_run import check_inside

IMAGES = np.full((3, 2, 2, 1), 0.5, np.float32)


def move(pixels, image=1, images=IMAGES):
    """Images of which one moved by the given amounts in its four pixels."""
    attacked = images.copy()
    attacked[image] += np.reshape(np.float32(pixels), (2, 2, 1))
    return attacked


@pytest.mark.parametrize(
    ("ball", "inside", "outside", "distance"),
    [
        (kr.Linf(0.25), [0.25, -0.25, 0.25, -0.25], [0.0, 0.0, -0.26, 0.0], 0.26),
        (kr.L2(0.5), [0.25, -0.25, 0.25, -0.25], [0.3, -0.3, 0.3, 0.0], 0.519615),
        (kr.L2(0.5), [0.4, 0.3, 0.0, 0.0], [0.26, 0.26, 0.26, 0.26], 0.52),
        (kr.L1(0.5), [0.5, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, -0.3], 0.6),
        (kr.L1(0.5), [0.125, -0.125, 0.125, -0.125], [0.13, 0.13, -0.13, 0.13], 0.52),
    ],
    ids=str,
)
def test_no_image_may_be_farther_than_epsilon(ball, inside, outside, distance):
    check_inside(FGSM(ball), move(inside), IMAGES)
    for image in range(3):
        with pytest.raises(ValueError, match=rf"left its threat model.*Received: .*distance {distance:g}$"):
            check_inside(FGSM(ball), move(outside, image), IMAGES)


@pytest.mark.parametrize(
    ("bounds", "clean", "moved", "low", "high"),
    [
        ((0.0, 1.0), 0.9, 0.1001, "0.9", "1.0001"),
        ((0.0, 1.0), 0.1, -0.1001, "-0.0001", "0.1"),
        ((-1.0, 1.0), 0.9, 0.1001, "0.9", "1.0001"),
        ((-1.0, 1.0), -0.9, -0.1001, "-1.0001", "-0.9"),
    ],
)
@pytest.mark.parametrize("norm", [kr.Linf, kr.L2, kr.L1])
def test_no_pixel_may_leave_the_range(norm, bounds, clean, moved, low, high):
    attack, images = FGSM(norm(0.5, bounds)), np.full_like(IMAGES, clean)
    check_inside(attack, move([0.999 * moved, 0, 0, 0], images=images), images)
    with pytest.raises(ValueError, match=f"left its threat model.*Received: pixels from {low}[0-9]* to {high}"):
        check_inside(attack, move([moved, 0, 0, 0], images=images), images)


@pytest.mark.parametrize("norm", [kr.Linf, kr.L2, kr.L1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_are_finite(norm, value):
    for image in range(3):
        with pytest.raises(ValueError, match=r"PGD-1 .* not finite.*Received: .* in 1 of 3 examples"):
            check_inside(FGSM(norm(0.5)), move([value, 0, 0, 0], image), IMAGES)


def nowhere(x):
    """A classifier whose logits are finite, and whose gradient is not for images below 0.5."""

    @tf.custom_gradient
    def divide(mean):
        return mean, lambda upstream: upstream * tf.where(mean < 0.5, np.nan, 1.0)

    mean = divide(tf.reduce_mean(x, axis=(1, 2, 3)))
    return tf.stack([0.6 - mean, mean - 0.6], axis=1)


def test_every_measurement_refuses_images_that_are_not_finite():
    """Two of four images meet NaN; the others are attacked as ever."""
    levels = np.float32([0.2, 0.3, 0.52, 0.54])
    dataset = (levels[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32), np.zeros(4, np.int64))
    attack = BIM(kr.Linf(0.01), steps=2)
    options = {"batch_size": 4, "verbose": False}
    for call in (
        lambda: kr.evaluate(nowhere, dataset, attack, **options),
        lambda: kr.evaluate(lambda x: 2.0 * nowhere(x), dataset, attack, source=nowhere, **options),
        lambda: kr.evaluation.iteration_curve(nowhere, dataset, attack, (1, 2), **options),
        lambda: kr.evaluation.epsilon_curve(nowhere, dataset, attack, (0.01,), **options),
        lambda: kr.evaluation.transfer_matrix({"a": nowhere, "b": nowhere}, dataset, attack, **options),
    ):
        with pytest.raises(ValueError, match=r"PGD-.* not finite.*Received: .* in 2 of 4 examples"):
            call()
