"""The curve over epsilons against closed forms on linear classifiers, and its verdict on masked gradients."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, BIM, FGSM, PGD, RFGSM
from keras_robust.evaluation.curves import epsilon_curve


def linear(kernel):
    return lambda x: tf.reshape(x, (-1, 16)) @ kernel


def first_broken(images, labels, kernel, epsilons, dual):
    """Per example: the worst point of a ball lowers a linear margin by epsilon times the dual norm of the weights."""
    difference = (kernel[:, 1] - kernel[:, 0]) * np.where(labels, 1, -1)[:, None]
    margins = (images.reshape(len(images), -1) * difference).sum(1)
    reach = np.linalg.norm(difference[0], dual)
    return [next((float(epsilon) for epsilon in epsilons if m < epsilon * reach), None) for m in margins]


def curve(model, dataset, attack, epsilons, **options):
    return epsilon_curve(model, dataset, attack, epsilons, **{"verbose": False, **options})


CLOSED_FORMS = {
    "linf": (BIM(kr.Linf(0.1), steps=2), 1, (0.01, 0.02, 0.05)),
    "l2": (BIM(kr.L2(0.1), steps=2), 2, (0.05, 0.1, 0.2)),
    "l1": (BIM(kr.L1(0.1, quantile=1.0), steps=2), np.inf, (0.05, 0.1, 0.25)),
    "one step": (FGSM(kr.Linf(0.1)), 1, (0.02, 0.05)),
    "step sizes in proportion": (PGD(kr.Linf(0.01), steps=2, step_size=0.005, random_start="none"), 1, (0.02, 0.05)),
    "step sizes of 2.5 epsilon / steps": (PGD(kr.Linf(0.3), steps=5), 1, (0.02, 0.05)),
    "chosen step sizes": (APGD(kr.Linf(0.3), steps=10), 1, (0.02, 0.05)),
}


@pytest.mark.parametrize(("attack", "dual", "epsilons"), CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
def test_a_linear_classifier_withstands_until_its_margin(problem, attack, dual, epsilons):
    images, labels, kernel = problem
    found = curve(linear(kernel), (images, labels), attack, epsilons, batch_size=100)
    expected = first_broken(*problem, [0, *epsilons], dual)
    assert set(expected) == {0, *epsilons, None}
    assert found["broken_at"] == expected
    assert found["epsilons"] == [0, *epsilons]
    assert found["accuracy"] == [np.mean([at is None or at > e for at in expected]) for e in [0, *epsilons]]
    assert (found["kind"], found["attack"]) == ("epsilon_curve", attack.name)
    assert found["norm"] == attack.threat_model.norm
    assert json.loads(json.dumps(found)) == found


def test_the_start_of_rfgsm_grows_in_proportion(problem, capsys):
    """Random signs of half of epsilon and a step of the other half: 0.15 of the attack as given is more than 0.1."""
    images, labels, kernel = problem
    curve(linear(kernel), (images, labels), RFGSM(kr.Linf(0.3)), (0.1, 0.2), verbose=True)
    printed = capsys.readouterr().err
    assert "PGD-1 (Linf 0.1, step 0.05, start sign, start radius 0.05)" in printed
    assert "PGD-1 (Linf 0.2, step 0.1, start sign, start radius 0.1)" in printed


def test_what_a_small_epsilon_breaks_stays_broken():
    """One step up from 0.5, with a wrong answer only between 0.525 and 0.545: epsilon 0.08 jumps over it."""

    def band(x):
        x = tf.reshape(x, (-1, 1))
        wrong = tf.where((x > 0.525) & (x < 0.545), 1.0, -1.0) + x - tf.stop_gradient(x)
        return tf.concat([tf.zeros_like(wrong), wrong], axis=1)

    dataset = (np.full((2, 1, 1, 1), 0.5, np.float32), [0, 1])
    found = curve(band, dataset, FGSM(kr.Linf(0.1)), (0.01, 0.03, 0.08))
    assert found["accuracy"] == [0.5, 0.5, 0, 0]
    assert found["broken_at"] == [0.03, 0]
    assert curve(band, dataset, FGSM(kr.Linf(0.1)), (0.08,))["accuracy"] == [0.5, 0.5]


def test_a_linear_classifier_reaches_0_within_the_pixel_range(problem):
    """Without a bias its worst corner of the pixel range is always misclassified."""
    images, labels, kernel = problem
    found = curve(linear(kernel), (images, labels), FGSM(kr.Linf(0.1)), (0, 0.05, 1.0))
    assert found["epsilons"] == [0, 0.05, 1]
    assert found["accuracy"][-1] == 0
    assert found["verdict"] == "The attack reaches 0 % at epsilon 1."


@pytest.mark.parametrize(
    ("attack", "largest", "covers"),
    [
        (FGSM(kr.Linf(0.1)), 1, True),
        (FGSM(kr.Linf(0.1)), 0.9, False),
        (FGSM(kr.L2(0.1)), 4, True),
        (FGSM(kr.L2(0.1)), 3.9, False),
        (FGSM(kr.L1(0.1)), 16, True),
        (FGSM(kr.Linf(0.1, bounds=(-1, 1))), 1, False),
        (FGSM(kr.Linf(0.1, bounds=(-1, 1))), 2, True),
    ],
    ids=str,
)
def test_a_classifier_with_wrong_gradients_is_found_where_every_image_is_allowed(problem, attack, largest, covers):
    """They lead away from the boundary."""
    images, labels, kernel = problem

    def masked(x):
        return 2 * linear(kernel)(tf.stop_gradient(x)) - linear(kernel)(x)

    found = curve(masked, (images, labels), attack, (0.05, largest))
    assert found["accuracy"][0] == found["accuracy"][-1] > 0.8
    assert ("gradients are masked" in found["verdict"]) == covers
    assert ("does not reach 0 %" in found["verdict"]) == (not covers)
    assert f"largest epsilon, {largest}" in found["verdict"]


@pytest.mark.parametrize(
    ("ball", "reach"),
    [
        (kr.Linf(0.1), 1),
        (kr.L2(0.1, bounds=(-1, 1)), 8),
        (kr.L1(0.1, quantile=0.0), 16),
        (kr.Linf(0.05, bounds=(0.3, 0.7)), 0.4),
    ],
    ids=str,
)
def test_infinity_is_where_every_image_is_allowed(problem, ball, reach):
    """Of 16 pixels; an epsilon beyond is left out. Without a bias the worst corner is always misclassified."""
    images, labels, kernel = problem
    found = curve(linear(kernel), (images, labels), BIM(ball, steps=4), (0.05, 16.5, math.inf))
    assert found["epsilons"] == [0, 0.05, pytest.approx(reach)]
    assert found["accuracy"][-1] == 0


def test_the_seed_decides_the_draws_of_every_epsilon(problem):
    images, labels, kernel = problem
    attack = PGD(kr.Linf(0.1), steps=1, step_size=0.05)
    broken = [curve(linear(kernel), (images, labels), attack, (0.1,), seed=seed)["broken_at"] for seed in (1, 1, 2)]
    assert broken[0] == broken[1] != broken[2]


CASES = {
    "no attack": ({"attack": "pgd"}, "attack='pgd'"),
    "no epsilons": ({"epsilons": []}, r"epsilons=\[\]"),
    "a number": ({"epsilons": 0.3}, "epsilons=0.3"),
    "only 0": ({"epsilons": [0]}, r"epsilons=\[0\]"),
    "negative": ({"epsilons": [-0.1, 0.1]}, r"epsilons=\[-0.1, 0.1\]"),
    "falling": ({"epsilons": [0.2, 0.1]}, r"epsilons=\[0.2, 0.1\]"),
    "words": ({"epsilons": ["a"]}, r"epsilons=\['a'\]"),
    "not a number": ({"epsilons": [0.1, float("nan")]}, "nan"),
    "beyond the range": ({"epsilons": [0.1, 1.5]}, "epsilon=1.5"),
    "step in proportion to 0": ({"attack": PGD(kr.Linf(0.0), step_size=0.1)}, "grows in proportion.*Linf"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_of_an_epsilon_curve_are_named(problem, options, message):
    images, labels, kernel = problem
    given = {"attack": FGSM(kr.Linf(0.1)), "epsilons": [0.1], **options}
    with pytest.raises(ValueError, match=message):
        curve(linear(kernel), (images, labels), given.pop("attack"), given.pop("epsilons"), **given)
