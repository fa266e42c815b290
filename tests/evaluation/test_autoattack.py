"""AutoAttack: what it consists of, and that it is a cascade."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, FAB, Square
from keras_robust.evaluation import AutoAttack

LINF, L1 = kr.Linf(0.3), kr.L1(12.0)


def attacks_of(version, ball, classes):
    return list(AutoAttack(ball, version).attacks_for(classes).values())


@pytest.mark.parametrize("ball", [LINF, kr.L2(2.0)], ids=str)
def test_standard_is_as_published(ball):
    assert attacks_of("standard", ball, 10) == [
        APGD(ball, steps=100),
        APGD(ball, steps=100, objective="dlr", targeted=9),
        FAB(ball, steps=100, targets=9),
        Square(ball, queries=5000),
    ]


def test_standard_for_l1_has_larger_radii_and_more_restarts():
    assert attacks_of("standard", L1, 10) == [
        APGD(L1, steps=100, restarts=5, larger_radii=True),
        APGD(L1, steps=100, objective="dlr", targeted=5, larger_radii=True),
        FAB(L1, steps=100, targets=9),
        Square(L1, queries=5000),
    ]


def test_plus_and_rand_are_as_published():
    assert attacks_of("plus", LINF, 1000) == [
        APGD(LINF, restarts=5),
        APGD(LINF, objective="dlr", restarts=5),
        FAB(LINF, restarts=5),
        Square(LINF, queries=5000),
        APGD(LINF, objective="dlr", targeted=9),
        FAB(LINF, targets=9),
    ]
    assert attacks_of("rand", LINF, 10) == [APGD(LINF, eot_iter=20), APGD(LINF, objective="dlr", eot_iter=20)]


@pytest.mark.parametrize(
    ("classes", "targets", "objective", "notes"), [(10, 9, "dlr", 0), (7, 6, "dlr", 1), (3, 2, "cross_entropy", 2)]
)
def test_few_classes_change_targets_and_objective_and_say_so(classes, targets, objective, notes):
    suite = AutoAttack(LINF)
    _, targeted, fab, _ = suite.attacks_for(classes).values()
    assert (targeted.targeted, targeted.resolved_objective.name, fab.targets) == (targets, objective, targets)
    assert len(suite.notes_for(classes)) == notes


def test_two_classes_have_no_dlr():
    assert attacks_of("rand", LINF, 2)[1].resolved_objective.name == "margin"
    assert AutoAttack(LINF, "rand").notes_for(2) == ["The DLR needs 3 classes: APGD maximised the margin instead."]
    assert AutoAttack(LINF, "rand").notes_for(3) == []


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("ball", [LINF, L1], ids=str)
def test_every_attack_has_its_own_name_and_settings_that_come_back(version, ball, classes):
    suite = AutoAttack(ball, version)
    attacks = suite.attacks_for(classes)
    assert len(attacks) == {"standard": 4, "plus": 6, "rand": 2}[version]
    for attack in attacks.values():
        assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(attack)) == attack
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(suite)) == suite


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linf",), "threat_model='linf' of type str"),
        ((LINF, "fast"), "version='fast'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(*arguments)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_it_finds_the_true_robust_accuracy_of_a_linear_classifier_as_a_cascade(classes, linear_classifier):
    """One against the rest: an example is robust iff no class gains epsilon times the L1 norm of the difference."""
    random = np.random.default_rng(0)
    images = random.uniform(0.45, 0.55, (60, 4, 4, 1)).astype(np.float32)
    classifier = linear_classifier(classes)
    labels = classifier(images).numpy().argmax(1)
    kernel, bias = classifier.get_weights()
    logits = images.reshape(60, -1) @ kernel + bias
    gaps = logits[np.arange(60), labels][:, None] - logits
    slopes = np.abs(kernel[:, labels].T[:, :, None] - kernel[None]).sum(1)
    distances = np.where(np.arange(classes) == labels[:, None], np.inf, gaps / np.maximum(slopes, 1e-9)).min(1)
    ball = kr.Linf(round(float(np.median(distances)), 6))
    robust = distances > ball.epsilon
    assert robust.mean() == 0.5
    assert ball.epsilon < 0.45
    report = kr.evaluate(classifier, (images, labels), AutoAttack(ball), batch_size=60, checks=False, verbose=False)
    assert report.robust_accuracy == robust.mean()
    accuracies = list(report.attacks.values())
    assert accuracies == sorted(accuracies, reverse=True)
    details = list(report.record["details"].values())
    assert [detail["attacked"] for detail in details] == [60] + [round(60 * accuracy) for accuracy in accuracies[:-1]]
    assert report.record["suite"]["name"] == f"AutoAttack standard ({ball})"
    assert report.record["suite"]["notes"] == AutoAttack(ball).notes_for(classes)
    assert report.record["robust_accuracy_interval"][0] < robust.mean() < report.record["robust_accuracy_interval"][1]


def test_gradients_are_averaged_over_passes():
    """Noise of 3 times a gradient turns the signs of one pass, and hardly those of the mean of 40."""

    @tf.custom_gradient
    def noisy_gradient(x):
        return x, lambda upstream: upstream * (1.0 + tf.random.normal(tf.shape(x), stddev=3.0))

    def model_fn(x):
        mean = tf.reduce_mean(noisy_gradient(x), axis=(1, 2, 3))
        return tf.stack([mean, tf.zeros_like(mean)], axis=1)

    images, labels, ball = np.full((64, 4, 4, 1), 0.5, np.float32), np.zeros(64, np.int64), kr.Linf(0.1)
    means = []
    for passes in (1, 40):
        attack = APGD(ball, steps=3, objective="margin", eot_iter=passes)
        means.append(float(np.mean(tf.function(lambda x, attack=attack: attack(model_fn, x, labels, 0))(images))))
    assert means[1] < 0.42 < 0.44 < means[0]
