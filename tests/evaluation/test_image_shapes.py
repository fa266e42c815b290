"""Every attack and every report takes images of whatever shape the classifier takes, or refuses them at once."""

import keras
import numpy as np
import pytest
from cases import rest_slow

import keras_robust as kr
from keras_robust.evaluation import AutoAttack, autoattack, evaluate, masking

pytestmark = pytest.mark.graph

SHAPES = {"no channel axis": (4, 4), "vectors": (16,), "a depth": (2, 4, 2, 1)}
CHANNELS = (4, 4, 1)
BALLS = {"linf": kr.Linf(0.05), "l2": kr.L2(0.2), "l1": kr.L1(0.5)}


def attacks(ball, squares=True):
    found = [
        kr.attacks.PGD(ball, steps=3, restarts=2),
        kr.attacks.APGD(ball, steps=5, objective="dlr", targeted=3),
        kr.attacks.FAB(ball, steps=3, targets=2, restarts=2),
    ]
    found += [kr.attacks.SPSA(ball, steps=3, samples=8)] if ball.norm == "l2" else []
    return found + ([kr.attacks.Square(ball, queries=20, restarts=2)] if squares else [])


def attacked(attack, model, dataset):
    return attack(kr.attacks.as_model_fn(model), *dataset, seed=0).numpy()


@pytest.fixture
def problem(batch, linear_classifier):
    """Images of a shape, and the same classifier for each of them: it flattens them."""

    def make(shape):
        images, labels = batch(20, (16,), classes=4)
        return linear_classifier(4, shape), (images.reshape(-1, *shape), labels)

    return make


@pytest.mark.graph
@pytest.mark.parametrize(
    ("kind", "norm"),
    rest_slow(
        [("no channel axis", norm) for norm in BALLS] + [("vectors", "l2")],
        [("no channel axis", "linf"), ("vectors", "l2")],
    ),
)
def test_every_attack_finds_what_it_finds_in_images_with_channels(problem, kind, norm):
    """Where the numbers of an image have the same order, so have those of all draws."""
    shape = SHAPES[kind]
    for attack in attacks(BALLS[norm], squares=kind == "no channel axis"):
        found, expected = (attacked(attack, *problem(form)) for form in (shape, CHANNELS))
        assert found.shape[1:] == shape
        np.testing.assert_allclose(found.reshape(-1, 16), expected.reshape(-1, 16), atol=1e-6, err_msg=attack.name)


def test_square_takes_a_depth_for_channels(problem):
    shape = SHAPES["a depth"]
    report = evaluate(*problem(shape), kr.attacks.Square(BALLS["linf"], queries=50), verbose=False)
    assert report.robust_accuracy < report.clean_accuracy


@pytest.mark.parametrize("kind", SHAPES)
def test_a_report_shows_images_of_any_shape(problem, tmp_path, kind):
    model, dataset = problem(SHAPES[kind])
    attack = kr.attacks.PGD(BALLS["linf"], steps=2)
    images = {"images": lambda: kr.evaluation.large_epsilon_images(model, dataset, attack, batch_size=16)}
    report = evaluate(model, dataset, attack, analyses=images, batch_size=16, verbose=False)
    report.save(tmp_path)
    page = (tmp_path / "index.html").read_text()
    width, height = {"no channel axis": (4, 4), "vectors": (16, 1), "a depth": (4, 2)}[kind]
    assert page.count(f'width="{width}" height="{height}"') == 3 * len(report.samples["labels"]) + 2 * 8
    assert kr.Report.load(tmp_path).samples["images"].shape[1:] == SHAPES[kind]


def test_autoattack_without_channels(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    model, dataset = problem((4, 4))
    report = evaluate(model, dataset, AutoAttack(BALLS["linf"]), checks=False, batch_size=16, verbose=False)
    assert [name.split("-")[0] for name in report.attacks] == ["APGD", "APGD", "FAB", "Square"]
    report.save(tmp_path)


def test_square_refuses_vectors_before_anything_is_measured(problem, monkeypatch):
    monkeypatch.setattr("keras_robust.evaluation.attack_run.AttackRun.run", None)
    for given in (AutoAttack(BALLS["linf"]), attacks(BALLS["linf"])):
        with pytest.raises(ValueError, match=r"Square Attack changes squares.*Received: images of shape \(16,\)"):
            evaluate(*problem((16,)), given, verbose=False)


@pytest.mark.parametrize(("kind", "runs"), [("no channel axis", True), ("vectors", False)])
def test_masking_checks_are_of_any_shape(problem, monkeypatch, kind, runs):
    for name, value in {"STEPS": 2, "LONG_STEPS": 4, "RESTARTS": 2, "QUERIES": 10}.items():
        monkeypatch.setattr(masking, name, value)
    checks = kr.evaluation.masking_checks(*problem(SHAPES[kind]), BALLS["linf"], batch_size=20)
    (check,) = (check for check in checks if check.name == "gradient_free_beats_gradient")
    assert (check.value is not None) == runs
    assert runs or check.reason == "Not run: Square Attack needs images of a height and a width."


def test_analyses_are_of_any_shape(problem):
    problem = problem((4, 4))
    attack = kr.attacks.PGD(BALLS["l2"], steps=2)
    curve = kr.evaluation.epsilon_curve(*problem, attack, (0.1, np.inf), batch_size=20, verbose=False)
    assert curve["epsilons"] == [0, 0.1, 4]
    assert np.shape(kr.evaluation.loss_surface(*problem, 0.1, points=3)["losses"]) == (4, 3, 3)
    kr.evaluation.iteration_curve(*problem, attack, (1, 2), batch_size=20, verbose=False)


def test_training_without_channels(problem, tmp_path):
    model, (images, labels) = problem((4, 4))
    method = kr.AdversarialTraining(model, kr.attacks.PGD(BALLS["linf"], steps=2), clean_fraction=0.5)
    method.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    method.fit(images, labels, verbose=0)
    kr.export(method, tmp_path / "saved")
    report = evaluate(tmp_path / "saved", (images, labels), kr.attacks.FGSM(BALLS["linf"]), verbose=False)
    assert report.record["examples"] == 20
