"""Every attacked image that an evaluation keeps, so that others can classify it again."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks import APGD, FGSM, PGD, Square
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation import Report, Suite, attack_run
from keras_robust.evaluation.suite import by_name

pytestmark = pytest.mark.graph

BALL = kr.Linf(0.045)
ATTACKS = [FGSM(kr.Linf(0.02)), PGD(BALL, steps=2, restarts=2), APGD(BALL, steps=4)]


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Cascade(Suite):
    """A weak attack, then stronger ones on what it left."""

    threat_model: kr.core.ThreatModel

    @property
    def name(self):
        return f"Cascade ({self.threat_model})"

    def attacks_for(self, classes):
        weak = dataclasses.replace(self.threat_model, epsilon=self.threat_model.epsilon / 3)
        attacks = [FGSM(weak), Square(self.threat_model, queries=5), FGSM(self.threat_model)]
        return by_name((attack.name, attack) for attack in attacks)


def evaluate(problem, solution, attacks, **options):
    options = {"verbose": False, "batch_size": 8, "keep_adversarials": True, **options}
    return kr.evaluate(solution, problem[:2], attacks, **options)


@pytest.mark.graph
@pytest.mark.parametrize("attacks", [ATTACKS, Cascade(BALL)], ids=["attacks", "cascade"])
def test_saved_images_give_the_record_again(problem, solution, attacks, tmp_path):
    """With the bare model alone: predictions of every attack, robust accuracy, and that all lie inside the ball."""
    images, labels, _ = problem
    evaluate(problem, solution, attacks).save(tmp_path)
    report = Report.load(tmp_path)
    record, kept = report.record, report.adversarials
    assert set(kept) == {*record["attacks"], "worst"} == set(np.load(tmp_path / "adversarials.npz"))
    for name, attacked in kept.items():
        assert (attacked.dtype, attacked.shape) == (np.float32, images.shape)
        epsilon = BALL.epsilon
        assert np.abs(attacked - images).max() <= epsilon + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        predictions = solution(attacked).numpy().argmax(1)
        stored = record["adversarial_predictions"] if name == "worst" else record["details"][name]["predictions"]
        assert predictions.tolist() == stored
    assert (solution(kept["worst"]).numpy().argmax(1) == labels).mean() == report.robust_accuracy
    assert 0.1 < report.robust_accuracy < report.clean_accuracy - 0.1


def test_the_worst_case_is_of_the_first_attack_that_broke_an_example(problem, solution):
    images, labels, _ = problem
    report = evaluate(problem, solution, ATTACKS)
    details, kept = report.record["details"], report.adversarials
    broken_by = np.stack([~np.array(details[attack.name]["robust"]) for attack in ATTACKS])
    wrong = np.array(report.record["clean_predictions"]) != labels
    expected = images.copy()
    for row in np.flatnonzero(~wrong):
        first = int(np.argmax(broken_by[:, row])) if broken_by[:, row].any() else -1
        expected[row] = kept[ATTACKS[first].name][row]
    np.testing.assert_array_equal(kept["worst"], expected)
    np.testing.assert_array_equal(kept[ATTACKS[0].name][wrong], images[wrong])
    assert len({int(np.argmax(broken_by[:, row])) for row in np.flatnonzero(broken_by.any(0) & ~wrong)}) > 1


def test_examples_that_left_the_top_k_are_the_worst_case(conv_classifier, batch):
    images, labels = batch(30, classes=4)
    model = conv_classifier(4)
    report = kr.evaluate(
        model, (images, labels), PGD(kr.Linf(0.3), steps=3), top_k=2, keep_adversarials=True, verbose=False
    )
    logits = model(report.adversarials["worst"]).numpy()
    ranks = (logits > logits[np.arange(30), labels][:, None]).sum(1)
    assert (ranks < 2).mean() == report.record["top_k"]["robust_accuracy"]


def test_a_journal_keeps_them_too(problem, solution, tmp_path, monkeypatch):
    expected = evaluate(problem, solution, ATTACKS).adversarials
    collect, calls = attack_run.AttackRun._collect, []

    def killed(self, *arguments):
        collect(self, *arguments)
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attack_run.AttackRun, "_collect", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(problem, solution, ATTACKS, journal=tmp_path)
    found = evaluate(problem, solution, ATTACKS, journal=tmp_path).adversarials
    for name, attacked in expected.items():
        np.testing.assert_array_equal(found[name], attacked)


def test_images_of_a_black_box_are_judged_by_the_model(problem, solution, linear_classifier):
    report = evaluate(problem, solution, ATTACKS[1], source=linear_classifier(2, seed=3))
    predictions = solution(report.adversarials[ATTACKS[1].name]).numpy().argmax(1)
    assert predictions.tolist() == report.record["details"][ATTACKS[1].name]["predictions"]


def test_they_are_not_kept_unless_asked_for(problem, solution, tmp_path):
    """And a file of an earlier report goes, as it is of other images."""
    evaluate(problem, solution, ATTACKS[0]).save(tmp_path)
    report = evaluate(problem, solution, ATTACKS[0], keep_adversarials=False)
    assert report.adversarials is None
    assert "adversarial_predictions" not in report.record
    report.save(tmp_path)
    assert not (tmp_path / "adversarials.npz").exists()
    assert Report.load(tmp_path).adversarials is None
