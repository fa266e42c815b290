"""A sweep over epsilon begins at 0: there every attack leaves the clean accuracy."""

import numpy as np
import pytest
from cases import rest_slow

import keras_robust as kr
from keras_robust.evaluation import AutoAttack, PaperSuite, autoattack, evaluate, evaluate_suite, masking

pytestmark = pytest.mark.graph

LINF = kr.Linf(0.0)
BALLS = {ball.norm: ball for ball in (LINF, kr.L2(0.0), kr.L1(0.0))}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    for name, value in {"STEPS": 4, "LONG_STEPS": 8, "RESTARTS": 2, "QUERIES": 20}.items():
        monkeypatch.setattr(masking, name, value)


@pytest.fixture
def problem(batch, linear_classifier):
    """A classifier of 4 classes that is right for two thirds of the images."""
    model, (images, labels) = linear_classifier(4), batch(24, (4, 4, 1), classes=4)
    labels = model(images).numpy().argmax(1)
    labels[::3] = (labels[::3] + 1) % 4
    return model, (images, labels)


def attacks(ball):
    given = [
        kr.attacks.FGSM(ball),
        kr.attacks.PGD(ball, steps=3, restarts=2),
        kr.attacks.APGD(ball, steps=5, objective="dlr", targeted=3),
        kr.attacks.FAB(ball, steps=3, targets=3, restarts=2),
        kr.attacks.Square(ball, queries=10),
    ]
    if ball.norm == "l1":
        return [*given, kr.attacks.APGD(ball, steps=10, larger_radii=True)]
    if ball.norm == "l2":
        return [*given, kr.attacks.SPSA(ball, steps=3, samples=8), kr.attacks.VirtualAdversarial(ball)]
    return [
        *given,
        kr.attacks.BIM(ball, steps=3),
        kr.attacks.CW(ball, steps=3),
        kr.attacks.PGD(ball, steps=3, step_size=0.1),
        kr.attacks.RFGSM(ball),
        kr.attacks.RFGSM(ball, start_radius=0.0, target="random"),
    ]


@pytest.mark.parametrize("norm", BALLS)
def test_every_attack_leaves_the_images(problem, norm):
    model, (images, labels) = problem
    for attack in attacks(BALLS[norm]):
        attacked = attack(kr.attacks.as_model_fn(model), images, labels, seed=0)
        np.testing.assert_allclose(attacked, images, atol=1e-6, err_msg=attack.name)


SUITES = {
    "autoattack linf": lambda: AutoAttack(LINF),
    "autoattack l1": lambda: AutoAttack(kr.L1(0.0)),
    "paper": lambda: PaperSuite(LINF),
}


@pytest.mark.parametrize("name", rest_slow(SUITES, ["autoattack linf"]))
def test_every_suite_its_checks_and_its_report(problem, tmp_path, name):
    checks = name == "autoattack linf"
    report = evaluate(*problem, SUITES[name](), checks=checks, batch_size=24, verbose=False)
    assert report.clean_accuracy == pytest.approx(2 / 3)
    assert set(report.attacks.values()) == {report.clean_accuracy}
    found = {check["name"]: check for check in report.checks}
    assert bool(found) == checks
    for check in ("one_step_beats_iterative", "more_iterations_find_more", "gradient_free_beats_gradient"):
        assert not checks or found[check]["value"] == 0
    report.save(tmp_path)


def test_an_epsilon_curve_begins_at_zero(problem, tmp_path):
    attack = kr.attacks.PGD(LINF, steps=3)
    curve = kr.evaluation.epsilon_curve(*problem, attack, (0.0, 0.5), batch_size=24, verbose=False)
    assert curve["accuracy"][0] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="step_size grows in proportion to epsilon"):
        kr.evaluation.epsilon_curve(None, None, kr.attacks.PGD(LINF, step_size=0.1), (0.5,))


@pytest.mark.parametrize("suite", ["curve", "surface", "all"])
def test_curves_and_surfaces_of_no_radius_are_refused_at_once(problem, suite):
    with pytest.raises(ValueError, match=f"Received: suite='{suite}' with attack=PGD"):
        evaluate_suite(suite, *problem, kr.attacks.PGD(LINF), journal=None, verbose=False)
    with pytest.raises(ValueError, match="radius=0"):
        kr.evaluation.loss_surface(*problem, 0.0)


def test_the_other_named_evaluations(problem, tmp_path):
    report = evaluate_suite("images", *problem, kr.attacks.PGD(LINF, steps=2), batch_size=24, verbose=False)
    assert report.robust_accuracy == report.clean_accuracy
    report.save(tmp_path)


def test_a_positive_ball_still_needs_positive_steps():
    for options in ({"epsilons": (0.0, 0.1)}, {"step_sizes": (0.0,)}, {"steps": (0,)}):
        with pytest.raises(ValueError, match="must be positive numbers"):
            PaperSuite(kr.Linf(0.1), **options)
    with pytest.raises(ValueError, match="must be positive numbers"):
        PaperSuite(LINF, steps=(0,))
