"""Named evaluations: what each consists of, and that what was finished is not run again."""

import dataclasses
import json

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import autoattack, evaluate_suite, masking, named_suites

BALL = kr.Linf(0.05)
ATTACK = kr.attacks.PGD(BALL, steps=3, step_size=0.02)


@pytest.fixture
def problem(linear_classifier):
    images = np.random.default_rng(0).uniform(0.3, 0.7, (24, 4, 4, 1)).astype(np.float32)
    classifier = linear_classifier(4)
    return classifier, (images, classifier(images).numpy().argmax(1))


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    curve = named_suites.iteration_curve
    monkeypatch.setattr(named_suites, "iteration_curve", lambda *args, **options: curve(*args, (2, 4, 8), **options))
    attacks_for = autoattack.AutoAttack.attacks_for

    def shortened(self, classes):
        attacks = attacks_for(self, classes)
        return {
            name: dataclasses.replace(each, **{field: 2})
            for name, each in attacks.items()
            for field in ("steps", "queries")
            if hasattr(each, field)
        }

    monkeypatch.setattr(autoattack.AutoAttack, "attacks_for", shortened)
    for name, value in {"STEPS": 4, "LONG_STEPS": 8, "RESTARTS": 2, "QUERIES": 20}.items():
        monkeypatch.setattr(masking, name, value)


def run(suite, problem, **options):
    model, dataset = problem
    return evaluate_suite(suite, model, dataset, ATTACK, batch_size=24, verbose=False, **options)


@pytest.mark.parametrize(
    ("suite", "attacks", "kinds"),
    [
        (None, 1, []),
        ("masking", 1, []),
        ("paper", 40, []),
        ("transfer", 1, ["transfer_matrix"]),
        ("curve", 1, ["iteration_curve", "epsilon_curve", "loss_surface", "large_epsilon_images"]),
    ],
)
def test_a_suite_is_its_attacks_checks_and_analyses(problem, tmp_path, suite, attacks, kinds, linear_classifier):
    models = {"other": linear_classifier(4, seed=1)} if suite == "transfer" else None
    report = run(suite, problem, models=models)
    assert len(report.attacks) == attacks
    assert [analysis["kind"] for analysis in report.record["analyses"]] == kinds
    assert bool(report.checks) == (suite == "masking")
    report.save(tmp_path)
    assert kr.Report.load(tmp_path).record == report.record


def test_transfer_is_over_attack_strengths(problem, linear_classifier):
    other = {"other": linear_classifier(4, seed=1)}
    (matrix,) = run("transfer", problem, models=other, transfer_steps=(1, 2)).record["analyses"]
    assert matrix["sources"] == matrix["targets"] == ["evaluated", "other"]
    assert [name.split(" ")[0] for name in matrix["attacks"]] == ["PGD-1", "PGD-2"]
    model, dataset = problem
    with pytest.raises(ValueError, match=r"transfer_steps=\(1,\) with attack=Square"):
        evaluate_suite("transfer", model, dataset, kr.attacks.Square(BALL), models=other, transfer_steps=(1,))


def test_all_is_everything_as_one_cascade(problem, tmp_path, linear_classifier):
    report = run("all", problem, models={"other": linear_classifier(4, seed=1)})
    assert len(report.attacks) == 44
    assert list(report.attacks.values()) == sorted(report.attacks.values(), reverse=True)
    assert len(report.record["analyses"]) == 5
    assert len(report.checks) == 12
    assert "after Step-LL" in str(report)
    report.save(tmp_path)


def test_what_was_finished_is_not_run_again(problem, tmp_path, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(named_suites, "large_epsilon_images", killed)
        with pytest.raises(KeyboardInterrupt):
            run("curve", problem, journal=tmp_path)
    monkeypatch.setattr(named_suites, "epsilon_curve", killed)
    report = run("curve", problem, journal=tmp_path)
    expected = [analysis["kind"] for analysis in report.record["analyses"]]
    assert expected == ["iteration_curve", "epsilon_curve", "loss_surface", "large_epsilon_images"]
    assert json.loads(json.dumps(report.record)) == report.record


def test_a_transfer_matrix_is_of_the_weights_of_its_models(problem, tmp_path, linear_classifier):
    """A model of the same name that was trained on is another one, whose matrix is not in the journal."""
    other = linear_classifier(4, seed=1)
    run("transfer", problem, models={"other": other}, journal=tmp_path)
    other.layers[-1].bias.assign_add([1e-5, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="another checks or analyses"):
        run("transfer", problem, models={"other": other}, journal=tmp_path)


def test_the_epsilon_curve_ends_where_every_image_is_allowed(problem, monkeypatch):
    """Of 16 pixels, epsilon 4 in L2; a point of twice epsilon is more than the pixel range."""
    monkeypatch.setattr(named_suites, "EPSILON_PARTS", (0.5, 2.0))
    for other in ("iteration_curve", "loss_surface", "large_epsilon_images"):
        monkeypatch.setattr(named_suites, other, lambda *args, **options: {})
    model, dataset = problem
    attack = kr.attacks.PGD(kr.L2(1.0), steps=2)
    analyses = evaluate_suite("curve", model, dataset, attack, batch_size=24, verbose=False).record["analyses"]
    assert analyses[1]["epsilons"] == [0, 0.5, 2, 4]


def test_the_iteration_curve_follows_one_of_several_restarts(problem, monkeypatch, capsys):
    for other in ("epsilon_curve", "loss_surface", "large_epsilon_images"):
        monkeypatch.setattr(named_suites, other, lambda *args, **options: {})
    model, dataset = problem
    attack = kr.attacks.PGD(BALL, steps=3, restarts=2)
    report = evaluate_suite("curve", model, dataset, attack, batch_size=24)
    assert list(report.attacks) == [attack.name]
    assert report.record["analyses"][0]["attack"] == "PGD-8 (Linf 0.05, step 0.04167)"
    assert "iteration curve of PGD-3 (Linf 0.05, step 0.04167)\n" in capsys.readouterr().out


@pytest.mark.graph
@pytest.mark.parametrize("suite", ["curve", "surface"])
def test_loss_surfaces_are_of_the_pixel_range_of_the_attack(problem, monkeypatch, suite):
    for other in ("iteration_curve", "epsilon_curve", "large_epsilon_images"):
        monkeypatch.setattr(named_suites, other, lambda *args, **options: {})
    model, (images, labels) = problem
    attack = kr.attacks.FGSM(kr.Linf(0.05, bounds=(-1, 1)))
    report = evaluate_suite(suite, model, (2 * images - 1, labels), attack, batch_size=24, verbose=False)
    surfaces = [part for part in report.record["analyses"] if part]
    assert [part["kind"] for part in surfaces] == ["loss_surface"] * {"curve": 1, "surface": 2}[suite]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "strong"}, "suite='strong'"),
        ({"suite": "transfer"}, "models of length 0"),
        ({"suite": "transfer", "models": {"evaluated": None}}, "'evaluated' in models"),
        ({"suite": "autoattack", "version": "fast"}, "version='fast'"),
    ],
)
def test_bad_arguments_are_named(problem, options, message):
    with pytest.raises(ValueError, match=message):
        run(options.pop("suite"), problem, **options)


def test_curves_are_of_pgd(problem):
    model, dataset = problem
    with pytest.raises(ValueError, match="suite='curve' with attack=Square"):
        evaluate_suite("curve", model, dataset, kr.attacks.Square(BALL))


def test_reports_are_compared_by_their_folders(problem, tmp_path):
    for name, seed in (("first", 0), ("second", 1)):
        run(None, problem, seed=seed).save(tmp_path / name)
    kr.evaluation.compare([tmp_path / "first", tmp_path / "second"], tmp_path / "both")
    text = (tmp_path / "both" / "compare.md").read_text()
    assert "first" in text
    assert "second" in text
    assert (tmp_path / "both" / "compare.html").exists()
    with pytest.raises(ValueError, match=r"must hold the file record\.json"):
        kr.evaluation.compare([tmp_path / "missing"], tmp_path / "both")
