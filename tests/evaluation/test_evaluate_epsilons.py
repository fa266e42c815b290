"""One epsilon per example in `kr.evaluate`: closed forms, the record, and a curve that compiles once."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks import APGD, BIM, FAB, FGSM, PGD, Square
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation import Suite, attack_run
from keras_robust.evaluation.suite import by_name

EPSILONS = np.linspace(0.0, 0.2, 100)
STEPS = BIM(kr.Linf(0.05), steps=2)


def linear(kernel):
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    classifier.set_weights([kernel, np.zeros(2, np.float32)])
    return classifier


def withstands(images, labels, kernel, epsilons, dual=1):
    """Per example: a linear margin falls by at most epsilon times the dual norm of the difference of the weights."""
    difference = (kernel[:, 1] - kernel[:, 0]) * np.where(labels, 1, -1)[:, None]
    margins = (images.reshape(len(images), -1) * difference).sum(1)
    return (margins > 0) & (margins > epsilons * np.linalg.norm(difference[0], dual))


def evaluate(problem, attacks, **options):
    images, labels, kernel = problem
    model = options.pop("model", None) or linear(kernel)
    return kr.evaluate(model, (images, labels), attacks, **{"verbose": False, "batch_size": 40, **options})


@pytest.mark.parametrize(
    ("attack", "dual"),
    [(STEPS, 1), (FGSM(kr.Linf(0.3)), 1), (APGD(kr.Linf(0.1), steps=5), 1), (FGSM(kr.L2(0.1)), 2)],
    ids=lambda case: str(case)[:5],
)
def test_each_example_withstands_until_its_own_margin(problem, attack, dual):
    """The attacks were made for other epsilons; what they do at the edges of the pixel range does not matter here."""
    expected = withstands(*problem, EPSILONS, dual)
    report = evaluate(problem, attack, epsilons=EPSILONS)
    (detail,) = report.record["details"].values()
    assert 0.1 < expected.mean() < 0.9
    assert detail["robust"] == expected.tolist()
    assert report.robust_accuracy == expected.mean()


@pytest.mark.parametrize("make", [BIM, PGD, APGD, FAB], ids=lambda make: make.__name__)
def test_equal_epsilons_are_the_plain_attack(problem, make):
    plain = evaluate(problem, make(kr.Linf(0.05), steps=4))
    found = evaluate(problem, make(kr.Linf(0.1), steps=4), epsilons=np.full(100, 0.05))
    names = ("predictions", "robust", "ranks", "attacked")
    ((name, expected),), ((same_name, detail),) = plain.record["details"].items(), found.record["details"].items()
    assert name == same_name
    assert {name: detail[name] for name in names} == {name: expected[name] for name in names}


def test_a_given_step_is_in_proportion(problem):
    """Two steps of a quarter of epsilon reach half of it, whatever epsilon an example has."""
    report = evaluate(problem, BIM(kr.Linf(0.4), steps=2, step_size=0.1), epsilons=EPSILONS)
    (detail,) = report.record["details"].values()
    assert detail["robust"] == withstands(*problem, 0.5 * EPSILONS).tolist()


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Pair(Suite):
    """FGSM under a name of its own, and Square."""

    threat_model: kr.core.ThreatModel
    strong = True

    @property
    def name(self):
        return f"Pair ({self.threat_model})"

    def attacks_for(self, classes):
        square = Square(self.threat_model, queries=3)
        return by_name([(f"One step at {self.threat_model}", FGSM(self.threat_model)), (square.name, square)])


def test_names_record_and_pages_say_it(problem, tmp_path):
    report = evaluate(problem, Pair(kr.Linf(0.3)), epsilons=EPSILONS, checks=False)
    record = json.loads(json.dumps(report.record))
    assert list(record["attacks"]) == ["One step at Linf 0 to 0.2", "Square-3 (Linf 0 to 0.2)"]
    assert record["suite"]["name"] == "Pair (Linf 0 to 0.2)"
    assert record["epsilons"] == EPSILONS.astype(np.float32).tolist()
    assert record["threat_model"]["epsilon"] == "one epsilon per example, from 0 to 0.2"
    report.save(tmp_path)
    for text in (str(report), (tmp_path / "report.md").read_text(), (tmp_path / "index.html").read_text()):
        assert "one epsilon per example, from 0 to 0.2" in text
        assert "Linf 0.3" not in text
    assert evaluate(problem, STEPS).record["epsilons"] is None


@pytest.mark.graph
def test_masking_checks_have_the_epsilons_of_the_examples(problem):
    """At epsilon 0 none is broken, but by the attack that may go anywhere."""
    report = evaluate(problem, Pair(kr.Linf(0.3)), epsilons=np.zeros(100))
    assert report.robust_accuracy == report.clean_accuracy
    checks = {check["name"]: check for check in report.checks}
    assert checks["more_iterations_find_more"]["value"] == 0
    assert "withstand 40 steps" in checks["more_iterations_find_more"]["reason"]
    assert f"{100 * report.clean_accuracy:.1f}" in checks["more_iterations_find_more"]["reason"]
    assert checks["unbounded_attack_fails"]["value"] == 0
    assert checks["gradient_alignment"]["value"] == pytest.approx(1, abs=1e-5)


def test_an_attack_that_leaves_the_ball_of_one_example_is_refused():
    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    attacked = images + np.float32([0.1, 0.2, 0.3])[:, None, None, None]
    attack_run.check_inside(FGSM(kr.Linf(0.9)), attacked, images, np.float32([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match=r"distance must be at most 0\.15\. Received: .*distance 0\.2$"):
        attack_run.check_inside(FGSM(kr.Linf(0.9)), attacked, images, np.float32([0.1, 0.15, 0.4]))


def test_killed_evaluations_go_on_with_their_epsilons(problem, solution, tmp_path, monkeypatch):
    attack = APGD(kr.Linf(0.1), steps=6)
    expected = evaluate(problem, attack, epsilons=EPSILONS, batch_size=8).record["details"]
    monkeypatch.setattr(attack_run, "SECONDS_BETWEEN_SAVES", 0.0)
    collect, calls = attack_run.AttackRun._collect, []

    def killed(self, *arguments):
        collect(self, *arguments)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    options = {"model": solution, "epsilons": EPSILONS, "batch_size": 8, "journal": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(attack_run.AttackRun, "_collect", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(problem, attack, **options)
    with pytest.raises(ValueError, match=r"another .*epsilons"):
        evaluate(problem, attack, **options | {"epsilons": EPSILONS[::-1] * 0.99 + 0.002})
    found = evaluate(problem, attack, **options).record["details"]
    assert [detail["ranks"] for detail in found.values()] == [detail["ranks"] for detail in expected.values()]


@pytest.mark.multi_device
def test_two_replicas_share_the_epsilons_out(problem, two_replicas):
    with two_replicas.scope():
        report = evaluate(problem, STEPS, epsilons=EPSILONS)
    (detail,) = report.record["details"].values()
    assert detail["robust"] == withstands(*problem, EPSILONS).tolist()


MISTAKES = {
    "a number": ({"epsilons": 0.1}, r"100 examples\. Received: epsilons of shape \(\)"),
    "too few": ({"epsilons": EPSILONS[:50]}, r"Received: epsilons of shape \(50,\)"),
    "words": ({"epsilons": ["a"] * 100}, "Received: epsilons of shape .* dtype <U1"),
    "negative": ({"epsilons": EPSILONS - 0.1}, "at least 0. Received: epsilon=-0.1"),
    "not a number": ({"epsilons": EPSILONS * np.nan}, "Received: epsilons"),
    "beyond the pixel range": ({"epsilons": EPSILONS + 1}, "at most their range 1 .*Received: epsilon=1.2"),
    "two threat models": ({"attacks": [FGSM(kr.Linf(0.1)), FGSM(kr.Linf(0.2))]}, "attacks of Linf 0.1, Linf 0.2"),
    "a step in proportion to 0": ({"attacks": PGD(kr.Linf(0.0), step_size=0.1)}, "grows in proportion"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(problem, case):
    options, message = MISTAKES[case]
    options = {"attacks": STEPS, "epsilons": EPSILONS, **options}
    with pytest.raises(ValueError, match=message):
        evaluate(problem, options.pop("attacks"), **options)


def test_the_largest_epsilon_may_be_the_pixel_range(problem):
    """0.7 - 0.3 is less than 0.4 in float64, and 0.4 in float32 more."""
    report = evaluate(problem, FGSM(kr.Linf(0.1, bounds=(0.3, 0.7))), epsilons=np.full(100, 0.4, np.float32))
    assert list(report.attacks) == [FGSM(kr.Linf(0.4, bounds=(0.3, 0.7))).name]


class Counting(keras.layers.Layer):
    """Counts how often it is called: eagerly, and in every trace of a function."""

    calls = 0

    def call(self, inputs):
        Counting.calls += 1
        return inputs


@pytest.mark.graph
def test_a_curve_over_epsilons_is_compiled_once(problem):
    """The classifier is called as often for nine epsilons, of which fewer and fewer examples are left, as for two."""
    images, labels, kernel = problem
    model = keras.Sequential([keras.Input((4, 4, 1)), Counting(), *linear(kernel).layers])
    counts = []
    for epsilons in ((0.02, 0.05), tuple(np.linspace(0.02, 0.1, 9).tolist())):
        Counting.calls = 0
        curve = kr.evaluation.epsilon_curve(model, (images, labels), STEPS, epsilons, verbose=False, batch_size=40)
        assert curve["accuracy"][1:] == [withstands(*problem, epsilon).mean() for epsilon in epsilons]
        counts.append(Counting.calls)
    assert counts[0] == counts[1] > 0
