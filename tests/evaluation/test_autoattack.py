"""AutoAttack: what it consists of, and that it is a cascade."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow

import keras_robust as kr
from keras_robust.attacks import APGD, FAB, Square
from keras_robust.attacks.apgd_rules import KEPT_OF_STEP, RULES, checkpoints, stages
from keras_robust.evaluation import AutoAttack

pytestmark = pytest.mark.graph

LINF, L1 = kr.Linf(0.3), kr.L1(12.0)


def attacks_of(version, ball, classes):
    return list(AutoAttack(ball, version).attacks_for(classes).values())


APGD_PUBLISHED = {
    "loss": "ce",
    "n_iter": 100,
    "n_restarts": 1,
    "eot_iter": 1,
    "rho": 0.75,
    "use_largereps": False,
    "n_target_classes": 0,
}
APGD_T_PUBLISHED = {**APGD_PUBLISHED, "loss": "dlr", "n_target_classes": 9}
FAB_PUBLISHED = {
    "n_iter": 100,
    "n_restarts": 1,
    "n_target_classes": None,
    "alpha_max": 0.1,
    "eta": 1.05,
    "beta": 0.9,
}
FAB_T_PUBLISHED = {**FAB_PUBLISHED, "n_target_classes": 9}
SQUARE_PUBLISHED = {"n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "resc_schedule": False}
PUBLISHED = {
    "standard": [APGD_PUBLISHED, APGD_T_PUBLISHED, FAB_T_PUBLISHED, SQUARE_PUBLISHED],
    "standard L1": [
        {**APGD_PUBLISHED, "n_restarts": 5, "use_largereps": True},
        {**APGD_T_PUBLISHED, "n_target_classes": 5, "use_largereps": True},
        FAB_T_PUBLISHED,
        SQUARE_PUBLISHED,
    ],
    "plus": [
        {**APGD_PUBLISHED, "n_restarts": 5},
        {**APGD_PUBLISHED, "n_restarts": 5, "loss": "dlr"},
        {**FAB_PUBLISHED, "n_restarts": 5},
        SQUARE_PUBLISHED,
        APGD_T_PUBLISHED,
        FAB_T_PUBLISHED,
    ],
    "rand": [{**APGD_PUBLISHED, "eot_iter": 20}, {**APGD_PUBLISHED, "loss": "dlr", "eot_iter": 20}],
}
"""The constants of autoattack.py at github.com/fra31/auto-attack, commit a392200, in its names and its order."""


def published_names(attack):
    """Returns the settings of an attack by the names that the published code has for them."""
    if isinstance(attack, APGD):
        loss = {"cross_entropy": "ce"}.get(attack.resolved_objective.name, attack.resolved_objective.name)
        return {
            "loss": loss,
            "n_iter": attack.steps,
            "n_restarts": attack.restarts,
            "eot_iter": attack.eot_iter,
            "rho": attack.rho,
            "use_largereps": attack.larger_radii,
            "n_target_classes": attack.targeted,
        }
    if isinstance(attack, FAB):
        return {
            "n_iter": attack.steps,
            "n_restarts": attack.restarts,
            "n_target_classes": attack.targets,
            "alpha_max": attack.alpha_max,
            "eta": attack.eta,
            "beta": attack.beta,
        }
    return {
        "n_queries": attack.queries,
        "n_restarts": attack.restarts,
        "p_init": attack.p_init,
        "resc_schedule": attack.resc_schedule,
    }


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("ball", [LINF, kr.L2(2.0), L1], ids=str)
def test_every_constant_is_as_published(ball, version, classes):
    attacks = attacks_of(version, ball, classes)
    expected = PUBLISHED["standard L1" if (version, ball) == ("standard", L1) else version]
    assert [published_names(attack) for attack in attacks] == expected
    assert {attack.threat_model for attack in attacks} == {ball}
    assert {attack.compute_dtype for attack in attacks} == {None}


def test_numbers_inside_apgd_are_as_published():
    """autopgd_base.py: checkpoints, momentum, radii, and the steps with which a run begins and goes on."""
    assert checkpoints(100, sparse=False) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(100, sparse=True) == list(range(4, 101, 4))
    assert stages(100, larger_radii=True) == [(30, 3.0), (30, 2.0), (40, 1.0)]
    assert KEPT_OF_STEP == 0.75
    images = tf.fill((1, 2, 5, 1), 0.5)
    for norm, first_step in (("linf", 0.6), ("l2", 0.6), ("l1", 0.3)):
        blank = {"images": images, "point": images, "step_size": [0.0], "increases": [0], "was_halved": [False]}
        entered = RULES[norm].start_stage(blank, None, 0.3, False)
        np.testing.assert_allclose(entered["step_size"], [first_step], rtol=1e-6)
    np.testing.assert_allclose([entered["density"], entered["support"]], [[0.2], [10.0]])
    moved = images + tf.reshape(tf.constant([0.1] * 6 + [0.0] * 4), images.shape)
    for support, step, after in ((6.0, 0.3, 0.2), (6.0, 0.04, 0.03), (6.4, 0.04, 0.3)):  # 0.04 / 1.5 < 0.3 / 10
        state = {**dict.fromkeys(("point", "gradient", "best_gradient", "images"), images), "best": moved}
        state |= {"support": tf.constant([support]), "step_size": tf.constant([step])}
        checked = RULES["l1"].check(state, None, 0.3, 0.75)
        np.testing.assert_allclose(checked["step_size"], [after], rtol=1e-6)
        np.testing.assert_allclose([checked["density"], checked["support"]], [[0.4], [6.0]], rtol=1e-6)


def test_halving_queries_of_square_are_as_published():
    """square.py without rescaling: the share of 0.8 halves at these queries, on 28 x 28 to squares of these sides.

    A query moves a square of the image, at the same place for all examples, by one of two signs for each example.
    """
    first_with = {0: 25, 11: 18, 51: 13, 201: 9, 501: 6, 1001: 4, 2001: 3, 4001: 2}
    square = attacks_of("standard", LINF, 10)[-1]
    assert Square(LINF).resc_schedule  # the default of the published class, which its suite does not use
    images, labels, seen = np.full((64, 28, 28, 1), 0.5, np.float32), np.zeros(64, np.int32), []

    def model_fn(x):
        seen.append(np.asarray(x))
        return tf.tile([[1.0, 0.0]], (len(x), 1))

    state = square.start(model_fn, tf.constant(images), labels, tf.constant([0, 1]))
    queries = sorted({*first_with, *(query - 1 for query in first_with if query), 4999})
    sides = {}
    for query in queries:
        square.advance(model_fn, state, tf.constant(query), tf.constant(1), tf.constant([0, 2]))
        rows, columns = np.nonzero((seen[-1] != seen[0]).any(axis=(0, 3)))
        sides[query] = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    expected = {query: first_with[max(first for first in first_with if first <= query)] for query in queries}
    assert sides == {query: (side, side) for query, side in expected.items()}


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


def test_of_seven_classes_only_fab_lacks_targets_in_l1():
    assert AutoAttack(kr.L1(3.0)).notes_for(7) == ["The targets of FAB-T were all 6 wrong classes of 7, instead of 9."]
    assert AutoAttack(kr.L1(3.0)).notes_for(5) == ["The targets were all 4 wrong classes of 5, instead of 9."]
    assert AutoAttack(LINF).notes_for(7) == ["The targets were all 6 wrong classes of 7, instead of 9."]


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


@pytest.mark.parametrize("classes", rest_slow([2, 3, 4], [2, 4]))
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
