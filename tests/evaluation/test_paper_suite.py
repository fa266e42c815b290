"""The suite of Kannan et al.: the eight attacks, their grid, and the worst case per example."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import PaperSuite

BALL = kr.Linf(16 / 255)


def test_the_eight_attacks_of_the_paper_at_its_largest_settings():
    suite = PaperSuite(BALL, epsilons=(16 / 255,), step_sizes=(2 / 255,), steps=(10,))
    attacks = suite.attacks_for(1000)
    names = {name.split(" (")[0].removesuffix("-10") for name in attacks}
    assert names == {f"{kind}-{target}" for kind in ("Step", "R+Step", "Iter", "PGD") for target in ("LL", "Rand")}
    for name, attack in attacks.items():
        assert attack.target == ("least_likely" if "-LL" in name else "random_any")
        assert attack.steps == (1 if "Step-" in name else 10)
        assert attack.resolved_step_size == pytest.approx(
            {"S": 16 / 255, "R": 8 / 255, "I": 2 / 255, "P": 2 / 255}[name[0]]
        )
        assert attack.resolved_random_start == {"S": "none", "R": "sign", "I": "none", "P": "uniform"}[name[0]]


def test_the_default_grid_has_the_maxima_of_the_paper_and_half_of_each():
    attacks = PaperSuite(BALL).attacks_for(10)
    assert len(attacks) == 2 * 2 * (2 + 2 * 2 * 2)
    iterative = [attack for attack in attacks.values() if attack.steps > 1]
    settings = {(a.threat_model.epsilon * 255, a.step_size * 255, a.steps) for a in iterative}
    assert {tuple(round(number, 6) for number in row) for row in settings} == {
        (epsilon, size, steps) for epsilon in (8, 16) for size in (1, 2) for steps in (5, 10)
    }


def test_it_comes_back_from_its_settings():
    suite = PaperSuite(BALL, steps=(3,), random_target="random")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(suite))
    assert again == suite
    assert again.attacks_for(3) == suite.attacks_for(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threat_model": kr.L2(1.0)}, "of type L2"),
        ({"epsilons": ()}, r"epsilons=\(\)"),
        ({"epsilons": (0.5,)}, r"at most 0.0627.*epsilons=\(0.5,\)"),
        ({"step_sizes": (0.0,)}, r"step_sizes=\(0.0,\)"),
        ({"steps": (0,)}, r"steps=\(0,\)"),
        ({"random_target": "least_likely"}, "random_target='least_likely'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PaperSuite(**{"threat_model": BALL, **options})


def test_the_worst_case_counts_in_top_1_and_top_k(linear_classifier):
    random = np.random.default_rng(0)
    images = random.uniform(0.2, 0.8, (50, 4, 4, 1)).astype(np.float32)
    classifier = linear_classifier(6)
    labels = classifier(images).numpy().argmax(1)
    suite = PaperSuite(kr.Linf(0.06), steps=(3,))
    report = kr.evaluate(classifier, (images, labels), suite, top_k=2, batch_size=50, verbose=False)
    ranks = np.array([detail["ranks"] for detail in report.record["details"].values()])
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert report.robust_accuracy == (ranks[-1] == 0).mean()
    assert report.record["top_k"]["robust_accuracy"] == (ranks[-1] < 2).mean() > report.robust_accuracy
    assert report.checks == []
