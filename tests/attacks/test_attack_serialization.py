"""Attacks are immutable, and come back from JSON as they were."""

import dataclasses
import json

import keras
import pytest

from keras_robust.attacks import BIM, FGSM, PGD, RFGSM, HopSkipJump
from keras_robust.core import L1, L2, Linf, Margin

ATTACKS = [
    PGD(Linf(0.3)),
    PGD(
        Linf(8, (0, 255)),
        steps=40,
        step_size=1.0,
        objective=Margin(kappa=50.0),
        target="least_likely",
        random_start="sign",
        start_radius=2.0,
        clean_start_probability=0.2,
        clean_start_per="batch",
        restarts=3,
        compute_dtype="bfloat16",
        eot_iter=20,
    ),
    PGD(L1(12.0, quantile=0.9), objective="dlr", target="random"),
    FGSM(Linf(0.1)),
    RFGSM(Linf(0.1), start_radius=0.03),
    BIM(L2(0.5), steps=3, eot_iter=2),
    HopSkipJump(L2(1.5), queries=1000, samples=50),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_json_round_trip(attack):
    """Equal, field by field and type by type, as frozen dataclasses compare."""
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again == attack
    assert type(again.threat_model) is type(attack.threat_model)
    assert again.name == attack.name


def test_attacks_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ATTACKS[0].steps = 3


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (PGD(Linf(0.3), steps=40, step_size=0.01), "PGD-40 (Linf 0.3, step 0.01)"),
        (PGD(Linf(0.3), steps=5, restarts=2), "PGD-5 (Linf 0.3, step 0.15, 2 restarts)"),
        (FGSM(Linf(0.3), eot_iter=20), "PGD-1 (Linf 0.3, step 0.3, start none, gradients of 20 passes)"),
        (
            PGD(L2(1.0), objective="margin", target="random", random_start=False, compute_dtype="bfloat16"),
            "PGD-10 (L2 1, step 0.25, margin, target random, start none, bfloat16)",
        ),
    ],
)
def test_name_says_what_the_attack_does(attack, name):
    assert attack.name == name


def test_bools_are_random_starts():
    assert PGD(Linf(0.3), random_start=True) == PGD(Linf(0.3), random_start="uniform")
    assert PGD(Linf(0.3), random_start=False) == PGD(Linf(0.3), random_start="none")


@pytest.mark.parametrize(
    ("attack", "step_size"),
    [(PGD(Linf(0.4), steps=10), 0.1), (FGSM(L2(0.4)), 0.4), (RFGSM(Linf(0.4)), 0.2), (BIM(Linf(0.4), steps=8), 0.05)],
)
def test_step_size(attack, step_size):
    """2.5 epsilon / steps for PGD, epsilon for FGSM, epsilon - alpha for R+FGSM, epsilon / steps for BIM."""
    assert attack.resolved_step_size == pytest.approx(step_size)
