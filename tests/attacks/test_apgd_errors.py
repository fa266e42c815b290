"""What Auto-PGD refuses, and that the error says what was received."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks.apgd import APGD
from keras_robust.core import L1, Linf

BALL = Linf(0.1)
CONSTRUCTORS = [
    (lambda: APGD(0.3), "threat_model=0.3"),
    (lambda: APGD(Linf), "type type"),
    (lambda: APGD(BALL, steps=0), "steps=0"),
    (lambda: APGD(BALL, steps=2.5), "steps=2.5"),
    (lambda: APGD(BALL, steps=True), "steps=True"),
    (lambda: APGD(BALL, restarts=0), "restarts=0"),
    (lambda: APGD(BALL, targeted=-1), "targeted=-1"),
    (lambda: APGD(BALL, targeted=True), "targeted=True"),
    (lambda: APGD(BALL, targeted="dlr"), "targeted='dlr'"),
    (lambda: APGD(BALL, targeted=2, objective="kl_divergence"), "targeted=2"),
    (lambda: APGD(BALL, objective="logits"), "objective='logits'"),
    (lambda: APGD(BALL, rho=1.5), "rho=1.5"),
    (lambda: APGD(BALL, rho=float("nan")), "rho=nan"),
    (lambda: APGD(BALL, rho="0.75"), "rho='0.75'"),
    (lambda: APGD(BALL, larger_radii=True), "threat_model=Linf 0.1"),
    (lambda: APGD(L1(1.0), larger_radii=3), "larger_radii=3"),
    (lambda: APGD(L1(1.0), steps=4, larger_radii=True), "steps=4"),
    (lambda: APGD(BALL, compute_dtype="float64"), "compute_dtype='float64'"),
]


@pytest.mark.parametrize(("make", "received"), CONSTRUCTORS, ids=[received for _, received in CONSTRUCTORS])
def test_constructors_say_what_they_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)


IMAGES = np.full((2, 3), 0.5, np.float32)
CALLS = [
    (APGD(BALL, objective="dlr"), 2, None, "at least 3 classes. Received: a classifier of 2 classes"),
    (APGD(BALL, objective="dlr", targeted=1), 3, None, "at least 4 classes. Received: a classifier of 3 classes"),
    (APGD(BALL, targeted=9), 5, None, "at least 10 classes. Received: a classifier of 5 classes"),
    (APGD(BALL), 5, [1, 2], "targets=a tensor"),
]


@pytest.mark.parametrize(("attack", "classes", "targets", "received"), CALLS, ids=[case[3] for case in CALLS])
def test_calls_say_what_they_received(attack, classes, targets, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        attack(lambda x: x @ tf.ones((3, classes)), IMAGES, [0, 1], 0, targets)
    assert received in str(error.value)


@pytest.mark.parametrize(("options", "classes"), [({"objective": "dlr"}, 3), ({"objective": "dlr", "targeted": 1}, 4)])
def test_dlr_takes_as_many_classes_as_it_needs(options, classes):
    weights = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    x_adv = APGD(BALL, steps=3, **options)(lambda x: x @ weights, IMAGES, [0, 1], 0)
    assert np.isfinite(x_adv).all()
