"""The progress of an evaluation serves the same evaluation, and is refused by every other one, which says why."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import FGSM, PGD
from keras_robust.evaluation import AutoAttack, attack_run

BALL = kr.Linf(0.02)
WEAK, STRONG = FGSM(kr.Linf(0.002)), FGSM(BALL)
IMAGES = np.random.default_rng(0).uniform(0.3, 0.7, (24, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(24) % 3


def function(seed):
    """Functions of one name, which have no weights to tell them apart."""
    kernel = tf.constant(np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32))

    def model_fn(x):
        return tf.reshape(x - 0.5, (-1, 16)) @ kernel

    return model_fn


def analysis():
    return {"kind": "none"}


def evaluate(model, **options):
    options = {"dataset": (IMAGES, LABELS), "attacks": [WEAK, STRONG], "batch_size": 12, "checks": False, **options}
    return kr.evaluate(model, verbose=False, **options)


def test_every_attack_has_progress_of_its_own(tmp_path, linear_classifier, monkeypatch):
    """What is read again is what an evaluation without a journal finds, and no attack runs again."""
    model = linear_classifier(3)
    labels = model(IMAGES).numpy().argmax(1)
    expected = evaluate(model, dataset=(IMAGES, labels)).attacks
    assert expected[WEAK.name] > expected[STRONG.name]
    assert evaluate(model, dataset=(IMAGES, labels), journal=tmp_path).attacks == expected
    monkeypatch.setattr(attack_run.AttackRun, "_after_block", None)
    assert evaluate(model, dataset=(IMAGES, labels), journal=tmp_path).attacks == expected


ONE_PIXEL = np.where(np.arange(384).reshape(IMAGES.shape) == 383, np.float32(0.5), IMAGES)
CHANGES = {
    "a pixel": ({"dataset": (ONE_PIXEL, LABELS)}, "dataset"),
    "a label": ({"dataset": (IMAGES, np.append(LABELS[:-1], 0))}, "dataset"),
    "fewer examples": ({"dataset": (IMAGES[:12], LABELS[:12])}, "dataset, model"),
    "a source": ({"source": function(0)}, "source"),
    "a step size": ({"attacks": [WEAK, PGD(BALL, steps=1, step_size=0.01, random_start=False)]}, "attacks"),
    "the order of attacks": ({"attacks": [STRONG, WEAK]}, "attacks"),
    "one attack more": ({"attacks": [WEAK, STRONG, PGD(BALL, steps=1)]}, "attacks"),
    "one attack less": ({"attacks": [WEAK]}, "attacks"),
    "checks": ({"checks": True}, "checks or analyses"),
    "an analysis": ({"analyses": {"curve": analysis}}, "checks or analyses"),
    "top k": ({"top_k": 2}, "top_k"),
    "batch size": ({"batch_size": 24}, "batch_size"),
    "seed": ({"seed": 1}, "seed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_results_is_named(tmp_path, linear_classifier, change):
    model, (options, expected) = linear_classifier(3), CHANGES[change]
    evaluate(model, journal=tmp_path)
    with pytest.raises(ValueError, match=rf"another {expected}\. Delete it"):
        evaluate(model, journal=tmp_path, **options)


def test_other_weights_are_another_model(tmp_path, linear_classifier):
    """Too little to change a prediction."""
    model, source = linear_classifier(3), linear_classifier(3, seed=1)
    evaluate(model, source=source, journal=tmp_path)
    for changed, expected in ((source, "source"), (model, "model")):
        bias = changed.layers[-1].bias
        bias.assign_add([1e-5, 0.0, 0.0])
        with pytest.raises(ValueError, match=rf"another {expected}\. Delete it"):
            evaluate(model, source=source, journal=tmp_path)
        bias.assign_sub([1e-5, 0.0, 0.0])


def test_functions_of_one_name_are_told_apart_by_their_predictions(tmp_path):
    evaluate(function(0), source=function(1), journal=tmp_path)
    with pytest.raises(ValueError, match=r"another source\. Delete it"):
        evaluate(function(0), source=function(2), journal=tmp_path)
    with pytest.raises(ValueError, match=r"another model\. Delete it"):
        evaluate(function(3), source=function(1), journal=tmp_path)
    evaluate(function(0), source=function(1), journal=tmp_path)


def test_a_suite_is_not_the_list_of_its_attacks(tmp_path, linear_classifier, monkeypatch):
    """In a suite an attack sees only what those before it left."""
    attacks = {attack.name: attack for attack in (WEAK, STRONG)}
    monkeypatch.setattr(AutoAttack, "attacks_for", lambda self, classes: attacks)
    model = linear_classifier(3)
    evaluate(model, attacks=AutoAttack(BALL), journal=tmp_path)
    with pytest.raises(ValueError, match=r"another suite\. Delete it"):
        evaluate(model, journal=tmp_path)
