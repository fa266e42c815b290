"""The transfer matrix against `evaluate`, and on a classifier that hides its gradients."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, BIM, FGSM, PGD
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation.transfer_matrix import transfer_matrix

ATTACK = BIM(kr.Linf(0.2), steps=2)


@pytest.fixture(scope="module")
def examples():
    """200 flat images whose class is whether they are brighter than 0.5; 5 labels are wrong."""
    random = np.random.default_rng(0)
    levels = 0.5 + random.choice([-1, 1], 200) * random.uniform(0.05, 0.35, 200)
    images = (levels[:, None, None, None] * np.ones((1, 2, 2, 1))).astype(np.float32)
    labels = (levels > 0.5).astype(np.int64)
    labels[:5] = 1 - labels[:5]
    return images, labels


def honest(x):
    mean = tf.reduce_mean(x, axis=(1, 2, 3))
    return 10 * tf.stack([0.5 - mean, mean - 0.5], axis=1)


def masked(x):
    """The same classifier, whose gradient leads away from the boundary."""
    return 2 * tf.stop_gradient(honest(x)) - honest(x)


def matrix(models, dataset, attacks, **options):
    return transfer_matrix(models, dataset, attacks, **{"verbose": False, **options})


def test_a_classifier_that_hides_its_gradients_falls_to_the_attack_on_another(examples):
    """0.2 is enough for the images within 0.2 of 0.5; the attack on the masked classifier goes away from there."""
    images, labels = examples
    found = matrix({"honest": honest, "masked": masked}, examples, ATTACK)
    right = (images.mean((1, 2, 3)) > 0.5) == labels
    robust = right & (np.abs(images.mean((1, 2, 3)) - 0.5) > 0.2)
    assert 0.2 < robust.mean() < 0.8
    assert found["accuracy"] == [[[robust.mean(), robust.mean()], [right.mean(), right.mean()]]]
    assert found["robust"] == [[[robust.tolist()] * 2, [right.tolist()] * 2]]
    assert (found["kind"], found["attacks"]) == ("transfer_matrix", [ATTACK.name])
    assert found["sources"] == found["targets"] == ["honest", "masked"]
    assert found["white_box"] == [[True, False], [False, True]]
    on_honest, on_masked = found["verdicts"]
    assert (on_honest["target"], on_honest["source"], on_honest["shattered"]) == ("honest", "masked", False)
    assert on_honest["reason"].startswith("No sign of gradient shattering: 97.5 % of the examples withstand")
    assert on_masked["shattered"]
    assert on_masked["attack"] == ATTACK.name
    assert (on_masked["white_box"], on_masked["transferred"]) == (right.mean(), robust.mean())
    assert on_masked["reason"].startswith("Gradient shattering: ")
    assert "crafted on 'honest'" in on_masked["reason"]
    assert json.loads(json.dumps(found)) == found


def test_every_cell_is_what_evaluate_finds(conv_classifier, batch):
    """White box on the diagonal, black box elsewhere."""
    images, labels = batch(40)
    models = {"a": conv_classifier(seed=0), "b": conv_classifier(seed=10)}
    attack = PGD(kr.Linf(0.05), steps=3, random_start="none")
    found = matrix(models, (images, labels), [attack], batch_size=40)
    accuracies = [
        [
            kr.evaluate(
                target, (images, labels), attack, source=None if source is target else source, verbose=False
            ).robust_accuracy
            for target in models.values()
        ]
        for source in models.values()
    ]
    assert found["accuracy"] == [accuracies]
    assert np.std(accuracies) > 0


def test_an_attack_that_chooses_among_its_restarts_is_judged_by_its_choice(examples):
    """APGD on the honest classifier reaches the edge of the ball, whichever of its restarts it returns."""
    images, labels = examples
    found = matrix({"masked": masked, "honest": honest}, examples, APGD(kr.Linf(0.2), steps=10, restarts=2))
    robust = ((images.mean((1, 2, 3)) > 0.5) == labels) & (np.abs(images.mean((1, 2, 3)) - 0.5) > 0.2)
    assert found["robust"][0][1] == [robust.tolist()] * 2
    assert found["verdicts"][0]["shattered"]


def test_every_restart_has_to_be_withstood():
    """An attack of tiny steps stays at its start, which is above 0.6 for one draw in four."""
    images = np.full((400, 1, 1, 1), 0.5, np.float32)

    def flat_with_holes(x):
        value = tf.reshape(x, (-1, 1))
        return tf.concat([tf.zeros_like(value), tf.sign(value - 0.6) + 1e-6 * value], axis=1)

    attacks = [PGD(kr.Linf(0.2), steps=1, step_size=1e-6, restarts=restarts) for restarts in (1, 3)]
    models = {"one": flat_with_holes, "two": flat_with_holes}
    found = matrix(models, (images, np.zeros(400, np.int64)), attacks)
    once, thrice = np.array(found["accuracy"])
    np.testing.assert_allclose(once, 0.75, atol=0.06)
    np.testing.assert_allclose(thrice, 0.75**3, atol=0.06)
    again = matrix(models, (images, np.zeros(400, np.int64)), attacks)
    assert again["robust"] == found["robust"]
    assert matrix(models, (images, np.zeros(400, np.int64)), attacks, seed=1)["robust"] != found["robust"]


def test_a_data_set_that_is_shuffled_anew_is_read_once(examples):
    dataset = tf.data.Dataset.from_tensor_slices(examples).shuffle(200, reshuffle_each_iteration=True).batch(30)
    found = matrix({"one": honest, "two": honest}, dataset, ATTACK)
    assert found["robust"][0][0][0] == found["robust"][0][0][1] == found["robust"][0][1][0]


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class _Leave(kr.attacks.Attack):
    """Adds 0.3, whatever epsilon is."""

    threat_model: kr.core.ThreatModel

    @property
    def name(self):
        return "leave"

    def __call__(self, model_fn, images, labels, seed, targets=None):
        return self.threat_model.clip(images + 0.3)


def three_classes(x):
    return tf.concat([honest(x), honest(x)[:, :1]], axis=1)


CASES = {
    "one model": ({"models": {"a": honest}}, "at least two classifiers"),
    "a list": ({"models": [honest, masked]}, "models=\\["),
    "numbered": ({"models": {0: honest, 1: masked}}, "by name"),
    "no model": ({"models": {"a": honest, "b": 3}}, "model=3"),
    "other classes": ({"models": {"a": honest, "b": three_classes}}, "'b': 3"),
    "no attacks": ({"attacks": []}, r"attacks=\[\]"),
    "attack twice": ({"attacks": [ATTACK, ATTACK]}, "must be listed once"),
    "two pixel ranges": ({"attacks": [ATTACK, FGSM(kr.Linf(0.2, bounds=(-1, 1)))]}, "same bounds"),
    "attack that leaves its ball": ({"attacks": _Leave(kr.Linf(0.1))}, "left its threat model"),
    "precision of a function": ({"attacks": PGD(kr.Linf(0.1), compute_dtype="bfloat16")}, "compute_dtype='bfloat16'"),
    "seed": ({"seed": -1}, "seed=-1"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_of_a_transfer_matrix_are_named(examples, options, message):
    given = {"models": {"a": honest, "b": masked}, "attacks": ATTACK, **options}
    with pytest.raises(ValueError, match=message):
        matrix(given.pop("models"), examples, given.pop("attacks"), **given)
