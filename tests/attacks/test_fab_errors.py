"""What FAB refuses, its names, and that it comes back from JSON as it was."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks.fab import FAB
from keras_robust.core import L1, L2, Linf, ThreatModel

BALL = Linf(0.1)
CONSTRUCTORS = [
    (lambda: FAB(0.3), "threat_model=0.3"),
    (lambda: FAB(Linf), "type type"),
    (lambda: FAB(None), "threat_model=None"),
    (lambda: FAB(BALL, steps=0), "steps=0"),
    (lambda: FAB(BALL, steps=2.5), "steps=2.5"),
    (lambda: FAB(BALL, steps=True), "steps=True"),
    (lambda: FAB(BALL, steps=None), "steps=None"),
    (lambda: FAB(BALL, restarts=0), "restarts=0"),
    (lambda: FAB(BALL, restarts="5"), "restarts='5'"),
    (lambda: FAB(BALL, targets=0), "targets=0"),
    (lambda: FAB(BALL, targets=-9), "targets=-9"),
    (lambda: FAB(BALL, targets=True), "targets=True"),
    (lambda: FAB(BALL, targets="random"), "targets='random'"),
    (lambda: FAB(BALL, alpha_max=-0.1), "alpha_max=-0.1"),
    (lambda: FAB(BALL, alpha_max=1.1), "alpha_max=1.1"),
    (lambda: FAB(BALL, eta=0.9), "eta=0.9"),
    (lambda: FAB(BALL, eta=float("inf")), "eta=inf"),
    (lambda: FAB(BALL, eta=float("nan")), "eta=nan"),
    (lambda: FAB(BALL, beta=0.0), "beta=0.0"),
    (lambda: FAB(BALL, beta=1.0), "beta=1.0"),
    (lambda: FAB(BALL, compute_dtype="float64"), "compute_dtype='float64'"),
]


@pytest.mark.parametrize(("make", "received"), CONSTRUCTORS, ids=[received for _, received in CONSTRUCTORS])
def test_constructors_say_what_they_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)


def test_other_norms_are_refused():
    @dataclasses.dataclass(frozen=True)
    class L0(ThreatModel):
        norm = "l0"

    with pytest.raises(ValueError, match=r"'linf'.*Received: threat_model="):
        FAB(L0(3))


@pytest.mark.parametrize(
    ("attack", "classes", "targets", "received"),
    [
        (
            FAB(BALL, steps=1, targets=9),
            9,
            None,
            "9 target classes need a classifier of at least 10 classes. Received: targets=9 and a classifier of 9",
        ),
        (FAB(BALL, steps=1), 1, None, "1 target classes need a classifier of at least 2 classes"),
        (FAB(BALL, steps=1), 3, [1, 2], "targets=a tensor"),
    ],
)
def test_calls_say_what_they_received(attack, classes, targets, received):
    with pytest.raises(ValueError, match=received):
        attack(lambda x: x @ tf.ones((3, classes)), np.full((2, 3), 0.5, np.float32), [0, 0], 0, targets)


ATTACKS = [
    (FAB(Linf(0.3)), "FAB-100 (Linf 0.3)"),
    (FAB(Linf(0.3), targets=9), "FAB-T-100 (Linf 0.3, 9 targets)"),
    (FAB(L2(0.5), steps=20, targets=1, restarts=5), "FAB-T-20 (L2 0.5, 1 target, 5 restarts)"),
    (
        FAB(L1(12.0, (0, 255)), alpha_max=0.2, eta=1.1, beta=0.5, compute_dtype="bfloat16"),
        "FAB-100 (L1 12, alpha_max 0.2, eta 1.1, beta 0.5, bfloat16)",
    ),
]


@pytest.mark.parametrize(("attack", "name"), ATTACKS, ids=[name for _, name in ATTACKS])
def test_json_round_trip_and_name(attack, name):
    """Equal, field by field and type by type, as frozen dataclasses compare."""
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again == attack
    assert type(again.threat_model) is type(attack.threat_model)
    assert again.name == attack.name == name


def test_immutable_and_sized():
    attack = FAB(Linf(0.3), steps=7, targets=3, restarts=2)
    assert attack.total_steps == 42
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 3
