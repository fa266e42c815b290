"""What is said of images, labels and logits that are not what they must be."""

import warnings

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.core.checks import ONE_LOGIT, check_images, check_labels, check_logits, warn_of_scale

UNIT, BYTES = (0.0, 1.0), (0.0, 255.0)
RANDOM = np.random.default_rng(0).uniform(size=(40, 4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("bounds", "advice"),
    [(UNIT, "divide them by 255"), (BYTES, "cast uint8 images to float32, e.g."), ((-1.0, 1.0), "scale uint8 images")],
)
def test_bytes_are_converted_to_the_bounds(bounds, advice):
    with pytest.raises(ValueError, match=f"{advice}.*Received: images of dtype uint8") as error:
        check_images((255 * RANDOM).astype(np.uint8), bounds)
    assert ("255" in str(error.value).replace("255.0", "")) == (bounds == UNIT)


def test_floats_of_bytes_are_divided():
    with pytest.raises(ValueError, match=r"divide pixels from 0 to 255 by 255.*Received: images from"):
        check_images(255 * RANDOM, UNIT)
    with pytest.raises(ValueError, match="normalisation belongs in a layer"):
        check_images(4 * RANDOM - 2, UNIT)


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match=r"Received: images of shape \(0, 4, 4, 1\)"):
        check_images(RANDOM[:0], UNIT)


WHOLE = np.round(RANDOM)
SCALED = {
    "divided by 255": (RANDOM, BYTES),
    "one image divided by 255": (RANDOM[:1], BYTES),
    "scaled to [-1, 1]": (2 * RANDOM - 1, (-128.0, 127.0)),
    "binary images": (WHOLE, BYTES),
    "16-bit bounds": (RANDOM, (0.0, 65535.0)),
}
RIGHT = {
    "in [0, 1]": (RANDOM, UNIT),
    "dark in [0, 1]": (RANDOM / 255, UNIT),
    "in [-1, 1]": (2 * RANDOM - 1, (-1.0, 1.0)),
    "bytes": (np.round(255 * RANDOM), BYTES),
    "a few dark bytes": (WHOLE[:31], BYTES),
    "black": (0 * RANDOM, BYTES),
    "all of one grey": (0 * RANDOM + 0.5, BYTES),
    "one bright pixel among dark ones": (np.where(np.arange(40)[:, None, None, None] == 7, 200, RANDOM), BYTES),
    "wide, not as bytes": (RANDOM, (-3.0, 3.0)),
}


@pytest.mark.parametrize("case", SCALED)
def test_images_in_a_tiny_part_of_the_bounds_are_warned_of(case):
    with pytest.warns(UserWarning, match=r"tiny part of bounds=.*divided by 255.*Received: \d+ images from"):
        warn_of_scale(*SCALED[case])


@pytest.mark.parametrize("case", RIGHT)
def test_no_false_alarm(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(*RIGHT[case])


def test_evaluate_and_fit_warn(linear_classifier):
    attack, labels = kr.attacks.FGSM(kr.Linf(8.0, BYTES)), np.arange(40) % 3
    with pytest.warns(UserWarning, match="tiny part"):
        kr.evaluate(linear_classifier(), (RANDOM, labels), attack, verbose=False)
    model = kr.AdversarialTraining(linear_classifier(), attack)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.warns(UserWarning, match="tiny part"):
        model.fit(RANDOM, labels, verbose=0)


def test_names_are_no_labels():
    for names in (np.array(["cat", "dog"]), np.array([b"cat", b"dog"]), np.array(["cat", "dog"], object)):
        with pytest.raises(ValueError, match=r"number the classes\. Received: labels of dtype"):
            check_labels(names, 3, 2)


def test_no_number_is_no_label():
    with pytest.raises(ValueError, match="labels from nan to nan"):
        check_labels(np.array([0.0, np.nan]), 3, 2)
    with pytest.raises(ValueError, match="row sums from nan"):
        check_labels(np.array([[0.5, 0.5], [np.nan, 1.0]]), 2, 2)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_one_logit_has_one_message(shape):
    with pytest.raises(ValueError, match="Received: an output of shape") as error:
        check_logits(np.zeros(shape), 5)
    assert ONE_LOGIT in str(error.value)


@pytest.mark.parametrize("output", [{"logits": np.zeros((5, 3))}, [np.zeros((5, 3))] * 2])
def test_one_output_is_expected(output):
    with pytest.raises(ValueError, match=r"one tensor of logits.*Received: a (dict of the keys|list of 2 outputs)"):
        check_logits(output, 5)
