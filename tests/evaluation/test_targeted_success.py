"""How many examples an attack brought to its target, beside how many it broke."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, FGSM, PGD
from keras_robust.evaluation import AutoAttack

CLASSES = 4
NORTH = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]]).T
"""Logits of the two pixels, counted from 0.5: a class for each direction."""


def directions(x):
    """A classifier of images of two pixels."""
    return tf.reshape(x - 0.5, (-1, 2)) @ NORTH


@pytest.fixture
def points():
    """Images a little way out in each direction, their labels, and the next class around."""
    labels = np.arange(40) % CLASSES
    lengths = np.linspace(0.01, 0.2, 40, dtype=np.float32)
    images = 0.5 + lengths[:, None] * NORTH.T[labels]
    return images.reshape(40, 1, 2, 1), labels, (labels + 1) % CLASSES


def evaluate(points, attacks, **options):
    images, labels, _ = points
    return kr.evaluate(directions, (images, labels), attacks, **{"verbose": False, "batch_size": 16, **options})


def towards(epsilon, **options):
    return PGD(kr.Linf(epsilon), steps=20, **{"target": "given", "random_start": False, **options})


@pytest.mark.parametrize("form", ["sparse", "column", "one-hot"])
def test_the_share_that_reached_its_target(points, form, tmp_path):
    """Class 1 is opposite of 0, so it takes both pixels or one: reached is what the bare model sees as the target."""
    _, labels, targets = points
    given = {"sparse": targets, "column": targets[:, None], "one-hot": np.eye(CLASSES)[targets]}[form]
    attack = towards(0.1)
    report = evaluate(points, attack, targets=given, keep_adversarials=True)
    detail = report.record["details"][attack.name]
    predictions = directions(report.adversarials[attack.name]).numpy().argmax(1)
    reached = predictions == targets
    assert 0.1 < reached.mean() < 0.9
    assert detail["reached_target"] == reached.tolist()
    assert detail["aim"] == "given"
    assert report.record["targeted_success"] == {attack.name: reached.mean()}
    assert report.record["targets"] == targets.tolist()
    assert report.robust_accuracy == (predictions == labels).mean()
    report.save(tmp_path)
    line = f"{100 * reached.mean():.1f} %"
    for text in (str(report), (tmp_path / "report.md").read_text(), (tmp_path / "index.html").read_text()):
        assert line in text
        assert "reached" in text.lower()


def broken_first(x):
    """Misclassified as class 1 nearly everywhere, and as class 2 in a hole, for images of one pixel."""
    x = tf.reshape(x, (-1, 1))
    slope = x - tf.stop_gradient(x)
    here = tf.stop_gradient(x)
    first = tf.where(tf.abs(here - 0.5) < 1e-6, 1.0, 0.0)
    third = tf.where((here > 0.5) & (here < 0.6), 2.0, 0.0)
    return tf.concat([first + slope, tf.fill(tf.shape(x), 0.5), third + slope], axis=1)


def test_restarts_go_on_until_the_target_is_reached():
    """A start is in the hole with probability 1/4; each other one breaks the example as class 1 at once."""
    images, labels = np.full((200, 1, 1, 1), 0.5, np.float32), np.zeros(200, int)
    shares = []
    for restarts in (1, 4):
        attack = PGD(kr.Linf(0.2), steps=1, step_size=1e-6, target="given", restarts=restarts)
        report = kr.evaluate(
            broken_first, (images, labels), attack, targets=labels + 2, keep_adversarials=True, verbose=False
        )
        assert report.robust_accuracy == 0
        (share,) = report.record["targeted_success"].values()
        shares.append(share)
        assert (broken_first(report.adversarials["worst"]).numpy().argmax(1) == 2).mean() == share
    np.testing.assert_allclose(shares, [1 / 4, 1 - (3 / 4) ** 4], atol=0.1)


def test_examples_that_are_not_attacked_do_not_count(points):
    images, labels, targets = points
    labels = np.where(np.arange(40) < 10, (labels + 2) % CLASSES, labels)
    attack = towards(0.5)
    report = evaluate((images, labels, targets), attack, targets=targets)
    reached = report.record["details"][attack.name]["reached_target"]
    assert reached[:10] == [None] * 10
    assert reached[10:] == [True] * 30
    assert report.record["targeted_success"] == {attack.name: 1.0}


def test_only_attacks_towards_given_targets_see_them(points):
    _, _, targets = points
    attacks = [FGSM(kr.Linf(0.1)), towards(0.1), APGD(kr.Linf(0.1), steps=3)]
    report = evaluate(points, attacks, targets=targets)
    alone = evaluate(points, [attacks[0], attacks[2]])
    assert list(report.record["targeted_success"]) == [attacks[1].name]
    for attack in (attacks[0], attacks[2]):
        assert report.attacks[attack.name] == alone.attacks[attack.name]
    assert alone.record["targeted_success"] == {}
    assert alone.record["targets"] is None


@pytest.mark.parametrize("target", ["least_likely", "random", "random_any"])
def test_attacks_that_choose_their_targets_are_measured(points, target):
    """The least likely class is the opposite one. Under a large epsilon every target is reached but the label."""
    _, labels, _ = points
    attack = PGD(kr.Linf(0.5), steps=20, target=target, random_start=False)
    report = evaluate(points, attack, keep_adversarials=True)
    detail = report.record["details"][attack.name]
    predictions = directions(report.adversarials[attack.name]).numpy().argmax(1)
    assert detail["aim"] == target
    assert detail["reached_target"] == (predictions != labels).tolist()
    if target == "least_likely":
        np.testing.assert_array_equal(predictions, labels ^ 1)
    else:
        assert len(set((predictions - labels) % CLASSES)) == (4 if target == "random_any" else 3)
    assert "reached" not in str(report)


def test_targets_and_epsilons_go_together(points):
    _, _, targets = points
    epsilons = np.where(np.arange(40) % 2, 0.5, 0.0)
    report = evaluate(points, towards(0.1), targets=targets, epsilons=epsilons)
    (detail,) = report.record["details"].values()
    assert detail["reached_target"] == (epsilons > 0).tolist()


MISTAKES = {
    "no targets": (towards(0.1), {}, r"Received: targets=None for PGD-20"),
    "targets for nobody": (FGSM(kr.Linf(0.1)), {"targets": lambda y: (y + 1) % 4}, "Received: targets for PGD-1"),
    "targets for a suite": (AutoAttack(kr.Linf(0.1)), {"targets": lambda y: (y + 1) % 4}, "targets for APGD-100"),
    "the label": (towards(0.1), {"targets": lambda y: y}, "Received: 40 targets that equal the label, .*position 0"),
    "no class": (towards(0.1), {"targets": lambda y: y + 4}, "from 0 to 3.*Received: targets from 4 to 7"),
    "too few": (towards(0.1), {"targets": lambda y: y[:9]}, r"Received: targets of shape \(9,\)"),
    "a word": (towards(0.1), {"targets": lambda y: "random"}, "Received: targets of shape"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_anything_is_measured(points, case):
    attacks, options, message = MISTAKES[case]
    options = {name: make(points[1]) for name, make in options.items()}
    with pytest.raises(ValueError, match=message):
        evaluate(points, attacks, **options)


def test_curves_refuse_attacks_that_need_targets(points):
    images, labels, _ = points
    for measure in (
        lambda: kr.evaluation.epsilon_curve(directions, (images, labels), towards(0.1), (0.1,)),
        lambda: kr.evaluation.iteration_curve(directions, (images, labels), towards(0.1)),
        lambda: kr.evaluation.large_epsilon_images(directions, (images, labels), towards(0.1)),
        lambda: kr.evaluation.transfer_matrix({"a": directions, "b": directions}, (images, labels), towards(0.1)),
    ):
        with pytest.raises(ValueError, match="takes attacks towards given targets"):
            measure()
