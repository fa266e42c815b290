"""What attacks refuse, and that the error says what was received."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import BIM, FGSM, PGD, RFGSM, as_model_fn
from keras_robust.core import L1, L2, KLDivergence, Linf

BALL = Linf(0.1)
CONSTRUCTORS = [
    (lambda: PGD(0.3), "threat_model=0.3"),
    (lambda: PGD("linf"), "threat_model='linf'"),
    (lambda: PGD(Linf), "type type"),
    (lambda: PGD(BALL, steps=0), "steps=0"),
    (lambda: PGD(BALL, steps=-3), "steps=-3"),
    (lambda: PGD(BALL, steps=2.5), "steps=2.5"),
    (lambda: PGD(BALL, steps=True), "steps=True"),
    (lambda: PGD(BALL, restarts=0), "restarts=0"),
    (lambda: PGD(BALL, restarts="3"), "restarts='3'"),
    (lambda: PGD(BALL, eot_iter=0), "eot_iter=0"),
    (lambda: PGD(BALL, eot_iter=1.5), "eot_iter=1.5"),
    (lambda: FGSM(BALL, eot_iter=True), "eot_iter=True"),
    (lambda: PGD(BALL, step_size=0), "step_size=0"),
    (lambda: PGD(BALL, step_size=-0.1), "step_size=-0.1"),
    (lambda: PGD(BALL, step_size=float("nan")), "step_size=nan"),
    (lambda: PGD(BALL, step_size=float("inf")), "step_size=inf"),
    (lambda: PGD(BALL, step_size="0.01"), "step_size='0.01'"),
    (lambda: PGD(BALL, objective="logits"), "objective='logits'"),
    (lambda: PGD(BALL, objective=PGD(BALL)), "objective=PGD("),
    (lambda: PGD(BALL, target="next"), "target='next'"),
    (lambda: PGD(BALL, target=3), "target=3"),
    (lambda: PGD(BALL, target="random", objective=KLDivergence()), "target='random'"),
    (lambda: PGD(BALL, random_start=False, objective="kl_divergence"), "random_start='none'"),
    (lambda: PGD(BALL, clean_start_probability=0.2, objective="kl_divergence"), "clean_start_probability=0.2"),
    (lambda: PGD(BALL, random_start="gaussian"), "random_start='gaussian'"),
    (lambda: PGD(BALL, random_start=3), "random_start=3"),
    (lambda: PGD(L2(0.1), random_start="sign"), "threat_model=L2 0.1"),
    (lambda: PGD(BALL, random_start="sign", start_radius=0.2), "start_radius=0.2"),
    (lambda: PGD(BALL, start_radius=-0.1), "start_radius=-0.1"),
    (lambda: PGD(BALL, clean_start_probability=1.1), "clean_start_probability=1.1"),
    (lambda: PGD(BALL, clean_start_probability=-0.1), "clean_start_probability=-0.1"),
    (lambda: PGD(BALL, clean_start_per="gpu"), "clean_start_per='gpu'"),
    (lambda: PGD(BALL, restarts=2, random_start=False), "restarts=2"),
    (lambda: PGD(BALL, compute_dtype="float64"), "compute_dtype='float64'"),
    (lambda: FGSM(BALL, restarts=3), "restarts=3"),
    (lambda: BIM(BALL, steps=0), "steps=0"),
    (lambda: BIM(BALL, step_size=-1), "step_size=-1"),
    (lambda: RFGSM(L1(0.1)), "threat_model=L1 0.1"),
    (lambda: RFGSM(BALL, start_radius=0.2), "0.2"),
    (lambda: RFGSM(BALL, start_radius=0.1), "start_radius=0.1"),
    (lambda: as_model_fn(None, compute_dtype="int8"), "compute_dtype='int8'"),
]


@pytest.mark.parametrize(("make", "received"), CONSTRUCTORS, ids=[received for _, received in CONSTRUCTORS])
def test_constructors_say_what_they_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)


IMAGES = np.full((2, 3), 0.5, np.float32)
CALLS = [
    (PGD(BALL, target="given"), 5, None, "target='given' and targets=None"),
    (PGD(BALL), 5, [1, 2], "target='untargeted' and targets=a tensor"),
    (PGD(BALL, objective="dlr"), 2, None, "a classifier of 2 classes"),
    (PGD(BALL, objective="dlr", target="random"), 3, None, "a classifier of 3 classes"),
]


@pytest.mark.parametrize(("attack", "classes", "targets", "received"), CALLS, ids=[case[3] for case in CALLS])
def test_calls_say_what_they_received(attack, classes, targets, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        attack(lambda x: x @ tf.ones((3, classes)), IMAGES, [0, 1], 0, targets)
    assert received in str(error.value)


def test_dlr_takes_as_many_classes_as_it_needs():
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for target, classes in (("untargeted", 3), ("random", 4)):
        attack = PGD(BALL, steps=2, objective="dlr", target=target)
        x_adv = attack(lambda x, k=classes: x @ weights[:, :k], IMAGES, [0, 1], 0)
        assert np.isfinite(x_adv).all()
