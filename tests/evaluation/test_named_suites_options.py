"""Named evaluations measure what their arguments say: on which model, in which threat model, from which seed."""

import math

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import AutoAttack, Combined, PaperSuite, evaluate_suite, named_suites

BALL = kr.L2(0.5, (-1.0, 1.0))
ATTACK = kr.attacks.PGD(BALL, steps=3, restarts=2)
DATASET = (np.random.default_rng(0).uniform(-0.4, 0.4, (12, 4, 4, 1)).astype(np.float32), np.arange(12) % 4)
OPTIONS = {"batch_size": 6, "seed": 5, "compile_attack": False}
ANALYSES = (
    "iteration_curve",
    "epsilon_curve",
    "loss_surface",
    "large_epsilon_images",
    "normalization_statistics",
    "transfer_matrix",
)


@pytest.fixture
def analysed(monkeypatch):
    """The calls of analyses: (name, arguments after model and data, options); attacks do not run."""
    calls = []

    def evaluate(model, dataset, attacks, *, analyses, **options):
        for analysis in analyses.values():
            analysis()

    monkeypatch.setattr(named_suites, "evaluate", evaluate)

    def spy(name):
        def analysis(model, dataset, *arguments, **options):
            assert dataset is DATASET
            calls.append((name, arguments, options))

        monkeypatch.setattr(named_suites, name, analysis)

    for name in ANALYSES:
        spy(name)
    return calls


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (
            "curve",
            [
                ("iteration_curve", (kr.attacks.PGD(BALL, steps=3),), {}),
                ("epsilon_curve", (ATTACK, (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0, math.inf)), {}),
                ("loss_surface", (0.5,), {"norm": "l2", "bounds": (-1.0, 1.0)}),
                ("large_epsilon_images", (kr.attacks.PGD(kr.L2(1.0, (-1.0, 1.0)), steps=3, restarts=2),), {}),
            ],
        ),
        ("images", [("large_epsilon_images", (ATTACK,), {"examples": 9})]),
        (
            "surface",
            [
                ("loss_surface", (0.5,), {"norm": "l2", "bounds": (-1.0, 1.0), "axes": axes, "examples": 2})
                for axes in ("gradient_random", "random_random")
            ],
        ),
        ("normalization", [("normalization_statistics", (ATTACK,), {})]),
        ("transfer", [("transfer_matrix", ([ATTACK],), {})]),
    ],
)
def test_analyses_are_of_the_attack_and_of_all_options(analysed, linear_classifier, suite, expected):
    models = {"other": linear_classifier(4, seed=1)} if suite == "transfer" else None
    evaluate_suite(suite, linear_classifier(4), DATASET, ATTACK, models=models, verbose=False, **OPTIONS)
    assert analysed == [(name, arguments, {**options, **OPTIONS}) for name, arguments, options in expected]


def test_twice_an_epsilon_ends_at_the_pixel_range(analysed, linear_classifier):
    attack = kr.attacks.PGD(kr.Linf(0.6), steps=3)
    evaluate_suite("curve", linear_classifier(4), DATASET, attack, verbose=False, **OPTIONS)
    assert analysed[-1][:2] == ("large_epsilon_images", (kr.attacks.PGD(kr.Linf(1.0), steps=3, step_size=None),))


def test_options_reach_the_record(linear_classifier):
    """Model and source differ: what transfers is less than what the white box finds."""
    model, source = linear_classifier(4), linear_classifier(4, seed=1)
    right = (DATASET[0], model(DATASET[0]).numpy().argmax(1))
    found = evaluate_suite(
        None, model, right, ATTACK, source=source, top_k=2, dataset_name="made up", verbose=False, **OPTIONS
    )
    white_box = evaluate_suite(None, model, right, ATTACK, verbose=False, **OPTIONS)
    assert found.record["black_box_source"] == source.name
    assert (found.record["top_k"]["k"], found.record["dataset"]) == (2, "made up")
    assert (found.record["seed"], found.record["batch_size"], found.record["compile_attack"]) == (5, 6, False)
    assert list(found.attacks) == [ATTACK.name]
    assert white_box.robust_accuracy < found.robust_accuracy
    assert (white_box.record["black_box_source"], white_box.record["top_k"]) == (None, None)


LINF = kr.Linf(0.1)


@pytest.mark.parametrize(
    ("suite", "version", "expected", "checks"),
    [
        (None, "standard", kr.attacks.PGD(LINF), None),
        ("masking", "standard", kr.attacks.PGD(LINF), True),
        ("paper", "standard", PaperSuite(LINF), None),
        ("autoattack", "plus", AutoAttack(LINF, "plus"), None),
        ("all", "rand", Combined((PaperSuite(LINF), AutoAttack(LINF, "rand"))), True),
    ],
)
def test_a_suite_is_in_the_threat_model_of_the_attack(monkeypatch, suite, version, expected, checks):
    def evaluate(model, dataset, attacks, **options):
        return attacks, options["checks"]

    monkeypatch.setattr(named_suites, "evaluate", evaluate)
    found = evaluate_suite(suite, None, DATASET, kr.attacks.PGD(LINF), version=version)
    assert found == (expected, checks)
