"""Classifiers that are random at inference: each attack judges them once, and every report says so."""

import dataclasses
import warnings
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, BIM, PGD, Square
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation import epsilon_curve, iteration_curve, transfer_matrix
from keras_robust.evaluation.inputs import prepare_evaluation

BALL = kr.Linf(1e-6)
EXAMPLES = 1600
NOISE = 0.1
"""Five standard deviations of the difference of two accuracies of as many examples are at most this."""


@pytest.fixture(autouse=True)
def draws_that_differ():
    """Where an earlier test has set TensorFlow's global seed, all functions that are compiled alike draw the same."""
    tf.random.set_seed(None)


@pytest.fixture
def dataset():
    random = np.random.default_rng(0)
    images = random.uniform(0.3, 0.7, (EXAMPLES, 4, 4, 1)).astype(np.float32)
    return images, (images.reshape(EXAMPLES, 16) @ KERNEL).argmax(1)


KERNEL = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
KERNEL -= KERNEL.mean(0)


def fixed(x):
    return tf.reshape(x, (-1, 16)) @ KERNEL


def dropping(x):
    """A linear classifier that drops half of the pixels in each pass."""
    return tf.nn.dropout(tf.reshape(x, (-1, 16)), 0.5) @ KERNEL


def evaluate(dataset, attacks, **options):
    return kr.evaluate(dropping, dataset, attacks, batch_size=200, verbose=False, **options)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_is_random_is_a_matter_of_scale(dataset, scale):
    setups = [
        prepare_evaluation(lambda x, model=model: scale * model(x), dataset, (0.0, 1.0), verbose=False)
        for model in (fixed, dropping)
    ]
    assert [setup.is_random for setup in setups] == [False, True]
    assert setups[0].change == 0
    assert setups[1].change == pytest.approx(1.3, abs=0.7)


def test_logits_that_are_sometimes_finite_are_random(dataset):
    def torn(x):
        return fixed(x) + tf.where(tf.random.uniform((tf.shape(x)[0], 1)) < 0.5, 0.0, np.inf)

    assert prepare_evaluation(torn, dataset, (0.0, 1.0), verbose=False).is_random
    assert not prepare_evaluation(lambda x: fixed(x) * np.nan, dataset, (0.0, 1.0), verbose=False).is_random


@pytest.mark.parametrize("attack", [PGD(BALL, steps=2), BIM(BALL, steps=4), APGD(BALL, steps=20)], ids=str)
def test_an_attack_that_does_nothing_leaves_the_accuracy_as_it_was(dataset, attack, tmp_path):
    with pytest.warns(UserWarning, match="random at inference"):
        report = evaluate(dataset, attack)
    assert 0.2 < report.clean_accuracy < 0.8
    assert report.robust_accuracy == pytest.approx(report.clean_accuracy, abs=NOISE)
    assert report.record["random"]["judgements"] == 1
    assert report.record["random"]["change_of_logits"] > 0.1
    report.save(tmp_path)
    for text in (str(report), (tmp_path / "report.md").read_text(), (tmp_path / "index.html").read_text()):
        assert "The classifier is random at inference" in text
        assert "judged once, in one pass" in text


def test_a_worst_case_is_read_beside_what_noise_alone_takes(dataset):
    attacks = [PGD(BALL, steps=steps) for steps in (1, 2, 3)]
    with pytest.warns(
        UserWarning, match=r"right in 3 passes, and noise alone.*of the clean images .* right in 3 passes"
    ):
        report = evaluate(dataset, attacks)
    for accuracy in report.attacks.values():
        assert accuracy == pytest.approx(report.clean_accuracy, abs=NOISE)
    assert report.robust_accuracy < report.clean_accuracy - NOISE
    assert report.robust_accuracy == pytest.approx(report.record["random"]["right_in_all"], abs=NOISE)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class TwoOfAPGD(kr.evaluation.Suite):
    """Two attacks, one after the other."""

    threat_model: kr.core.ThreatModel
    strong: ClassVar[bool] = False

    @property
    def name(self):
        return "two"

    def attacks_for(self, classes):
        return {f"APGD {steps}": APGD(self.threat_model, steps=steps, eot_iter=2) for steps in (2, 3)}


def test_a_suite_counts_the_clean_pass_too_as_the_published_ones(dataset):
    with pytest.warns(UserWarning, match="right in 3 passes") as caught:
        report = evaluate(dataset, TwoOfAPGD(BALL))
    assert not any("rand" in str(warning.message) for warning in caught if "version" in str(warning.message))
    assert report.record["random"]["judgements"] == 3
    assert report.robust_accuracy == pytest.approx(report.record["random"]["right_in_all"], abs=NOISE)


def test_nothing_is_said_of_a_deterministic_classifier(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = kr.evaluate(fixed, dataset, PGD(BALL, steps=2, restarts=2), verbose=False)
    assert report.record["random"] is None
    assert report.record["notes"] == []
    assert report.robust_accuracy == pytest.approx(1, abs=0.01)


REFUSED = {
    "PGD": lambda dataset: evaluate(dataset, PGD(BALL, steps=2, restarts=20)),
    "APGD": lambda dataset: evaluate(dataset, APGD(BALL, steps=2, restarts=2)),
    "Square": lambda dataset: evaluate(dataset, Square(BALL, queries=5, restarts=2)),
    "one of a list": lambda dataset: evaluate(dataset, [PGD(BALL, steps=1), PGD(BALL, steps=2, restarts=2)]),
    "a suite": lambda dataset: evaluate(dataset, kr.evaluation.AutoAttack(BALL, "plus")),
    "curve": lambda dataset: epsilon_curve(dropping, dataset, PGD(BALL, steps=2, restarts=2), (0.1,), verbose=False),
    "matrix": lambda dataset: transfer_matrix(
        {"a": fixed, "b": dropping}, dataset, PGD(BALL, steps=2, restarts=2), verbose=False
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_restarts_without_averages_are_refused_before_anything_runs(dataset, name, capfd):
    with pytest.raises(ValueError, match=r"random at inference.*eot_iter=.*version 'rand'.*Received: restarts=[25]"):
        REFUSED[name](dataset)
    assert "PGD" not in capfd.readouterr().out


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Averaging(PGD):
    """PGD that says that it averages, and counts its restarts."""

    eot_iter: int = 2


@pytest.mark.graph
def test_an_attack_that_averages_chooses_among_its_restarts_itself(dataset):
    attack = Averaging(BALL, steps=1, restarts=8)
    with pytest.warns(UserWarning, match="random at inference"):
        report = evaluate(dataset, attack)
    assert report.robust_accuracy == pytest.approx(report.clean_accuracy, abs=NOISE)
    found = transfer_matrix({"a": fixed, "b": dropping}, dataset, attack, verbose=False)
    (of_fixed, of_dropping), _ = found["accuracy"][0]
    assert of_fixed > 0.99
    assert of_dropping == pytest.approx(report.clean_accuracy, abs=NOISE)


def test_curves_do_not_fall_with_the_number_of_looks(dataset):
    options = {"batch_size": 200, "verbose": False}
    by_iterations = iteration_curve(dropping, dataset, PGD(BALL, steps=1), (1, 2, 3, 4, 5, 6), **options)
    by_epsilon = epsilon_curve(dropping, dataset, PGD(BALL, steps=1), (1e-7, 2e-7, 4e-7, 8e-7), **options)
    for curve in (by_iterations, by_epsilon):
        assert max(curve["accuracy"]) - min(curve["accuracy"]) < 1.5 * NOISE
        assert curve["broken_at"] is None
        assert "random at inference" in curve["verdict"]


def test_a_matrix_says_which_of_its_classifiers_are_random(dataset):
    found = transfer_matrix({"fixed": fixed, "dropping": dropping}, dataset, PGD(BALL, steps=1), verbose=False)
    on_fixed, on_dropping = found["verdicts"]
    assert "random at inference" not in on_fixed["reason"]
    assert "random at inference" in on_dropping["reason"]
    assert not on_dropping["shattered"]
    accuracies = np.array(found["accuracy"])[0, :, 1]
    clean = (dropping(dataset[0]).numpy().argmax(1) == dataset[1]).mean()
    np.testing.assert_allclose(accuracies, clean, atol=NOISE)
