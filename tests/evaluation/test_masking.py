"""Each check for gradient masking against a classifier built to fail it, and one that fails none."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation import masking, masking_checks
from keras_robust.evaluation.inputs import prepare_evaluation
from keras_robust.evaluation.masking import check_of_square

BALL = kr.Linf(0.2)


@pytest.fixture(scope="module")
def examples():
    """Images whose class is whether their mean pixel is above 0.5, by a margin that 0.2 can often overcome."""
    random = np.random.default_rng(0)
    means = 0.5 + random.choice([-1, 1], 64) * random.uniform(0.05, 0.3, 64)
    images = np.clip(means[:, None, None, None] + random.normal(0, 0.05, (64, 4, 4, 1)), 0, 1).astype(np.float32)
    return images, (images.mean((1, 2, 3)) > 0.5).astype(np.int64)


def score(x):
    return 10.0 * (tf.reduce_mean(x, axis=(1, 2, 3)) - 0.5)


def logits_of(value):
    return tf.stack([-value, value], axis=1)


def honest(x):
    return logits_of(score(x))


def run(model, examples, **options):
    checks = masking_checks(model, examples, BALL, batch_size=64, **options)
    return {check.name: check for check in checks}


@pytest.mark.graph
def test_an_honest_classifier_passes_every_check(examples):
    checks = run(honest, examples)
    assert [check.name for check in checks.values() if check.suspicious] == []
    assert checks["gradient_alignment"].value == pytest.approx(1, abs=1e-5)
    assert checks["transfer_beats_white_box"].value is None
    assert all(check.reason and check.source for check in checks.values())


@pytest.mark.graph
def test_quantised_inputs_have_no_gradient_and_fall_to_random_search_and_transfer(examples):
    def quantised(x):
        return logits_of(score(tf.round(4 * x) / 4))

    checks = run(quantised, examples, source=honest)
    assert checks["zero_gradients"].value == 1
    for name in (
        "zero_gradients",
        "gradient_alignment",
        "gradient_free_beats_gradient",
        "unbounded_attack_fails",
        "transfer_beats_white_box",
    ):
        assert checks[name].suspicious, name


@pytest.mark.graph
def test_saturated_logits_are_found(examples):
    def saturated(x):
        return logits_of(1e4 * score(x))

    assert run(saturated, examples)["zero_gradients"].suspicious


@pytest.mark.graph
def test_a_loss_that_is_flat_near_the_image_and_steep_farther_away_has_one_step_beat_many(examples):
    """The gradient points the wrong way as soon as the attack has moved."""

    @tf.custom_gradient
    def trap(value):
        def backward(upstream):
            return tf.where(tf.abs(value) < 0.25, -1.0, 1.0) * upstream

        return value, backward

    def trapped(x):
        return logits_of(trap(score(x)))

    assert run(trapped, examples)["one_step_beats_iterative"].suspicious


@pytest.mark.graph
def test_a_classifier_that_is_random_at_inference_is_found(examples):
    """Also where the global seed is set, with which each new function makes the same draws again."""
    tf.random.set_seed(0)

    def noisy(x):
        return honest(x) + tf.random.normal((tf.shape(x)[0], 2), stddev=0.1)

    checks = run(noisy, examples)
    assert checks["not_deterministic"].suspicious
    assert 0.02 < checks["not_deterministic"].value < 0.5
    for name in ("more_restarts_find_more", "gradient_free_beats_gradient"):
        assert checks[name].value is None
        assert "random at inference" in checks[name].reason


@pytest.mark.parametrize(
    ("alone", "other_alone", "examples", "expected"),
    [
        (0, 0, 100, False),
        (1, 0, 200, False),
        (3, 0, 100, False),  # 3 points, but 3 < 2 sqrt(3)
        (4, 0, 100, True),
        (30, 20, 1000, False),  # one point is not more than one point
        (60, 40, 1000, True),
        (59, 41, 1000, False),  # 18 < 2 sqrt(100)
        (900, 800, 10000, False),  # one point
        (16, 4, 10000, False),  # beyond chance, but a tenth of a point
        (0, 50, 100, False),
    ],
)
def test_an_attack_is_stronger_by_two_deviations_and_a_point(alone, other_alone, examples, expected):
    number = np.arange(examples)
    withstand_other = ~((number >= alone) & (number < alone + other_alone))
    assert masking.is_stronger(number >= alone, withstand_other) is expected


class FewApart:
    """Outcomes of 200 examples: PGD leaves all, and another attack breaks some of them."""

    def __init__(self, broken):
        self.by_name = {"pgd": np.ones(200, bool), "one_step": np.arange(200) >= broken}

    def robust(self, name):
        return self.by_name[name]


@pytest.mark.parametrize(("broken", "suspicious"), [(0, False), (1, False), (3, False), (4, True)])
def test_one_step_and_a_transfer_beat_pgd_only_beyond_chance(monkeypatch, examples, broken, suspicious):
    """Of 200, four broken by one attack alone are two standard deviations: 4 = 2 sqrt(4)."""
    outcomes = FewApart(broken)
    monkeypatch.setattr(masking, "withstand_transfer", lambda setup, ball: outcomes.robust("one_step"))
    setup = prepare_evaluation(honest, examples, BALL.bounds, source=honest, verbose=False)
    for check in (masking._one_step(outcomes), masking._transfer(outcomes, setup, BALL)):
        assert check.suspicious is suspicious
        assert check.value == pytest.approx(broken / 200)
        assert check.reason.startswith(("An iterative attack is weaker", "A transferred")) is suspicious


@pytest.mark.parametrize(("few", "examples_seen", "suspicious"), [(1, 64, False), (2, 64, True), (2, 200, False)])
def test_what_theory_excludes_is_let_pass_for_one_example_or_a_point(
    monkeypatch, examples, few, examples_seen, suspicious
):
    """Outputs may add up to 1 by chance, and an unbounded attack from one start may end in a hollow."""
    images, labels = (np.tile(values, (4,) + (1,) * (values.ndim - 1))[:examples_seen] for values in examples)
    setup = prepare_evaluation(honest, (images, labels), BALL.bounds, batch_size=64, verbose=False)
    monkeypatch.setattr(masking, "unbounded_accuracy", lambda setup, ball: few / examples_seen)
    monkeypatch.setattr(masking, "share_of_probabilities", lambda setup: few / examples_seen)
    for check in (masking._unbounded(setup, BALL), masking._logits(setup)):
        assert check.suspicious is suspicious
        assert check.value == few / examples_seen


@pytest.mark.graph
def test_some_probabilities_among_the_outputs_are_found(examples):
    """Where all outputs are probabilities the classifier is refused; here only those of one class are."""

    def mixed(x):
        return tf.where(score(x)[:, None] > 0, tf.nn.softmax(honest(x)), honest(x))

    check = run(mixed, examples)["not_logits"]
    assert check.value == (examples[1] == 1).mean()
    assert check.suspicious


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threat_model": 0.3}, "threat_model=0.3"), ({"examples": 0}, "examples=0"), ({"source": 3}, "model=3")],
)
def test_bad_arguments_are_named(examples, options, message):
    options = {"threat_model": BALL, **options}
    with pytest.raises(ValueError, match=message):
        masking_checks(honest, examples, **options)


@pytest.mark.parametrize(
    ("left", "found", "value", "suspicious"),
    [(0.88, 0.803, 0.0875, True), (0.83, 0.795, 0.0422, False), (0.02, 0.0, 0.2, True), (0.004, 0.0, 0.04, False)],
)
def test_what_square_finds_after_gradients(left, found, value, suspicious):
    """0.077 / 0.88, 0.035 / 0.83; of less than a tenth of all examples, as of a tenth: 0.02 / 0.1, 0.004 / 0.1."""
    attacks = kr.evaluation.AutoAttack(BALL).attacks_for(10)
    robust = dict(zip(attacks, (0.9, left, left, found), strict=True))
    (check,) = check_of_square(attacks, robust)
    assert check.value == pytest.approx(value, abs=1e-4)
    assert check.suspicious is suspicious


def test_nothing_is_said_of_square_where_it_did_not_follow_gradients():
    square = kr.attacks.Square(BALL, queries=10)
    assert check_of_square({square.name: square}, {square.name: 0.0}) == []
    assert check_of_square({"PGD": kr.attacks.PGD(BALL)}, {"PGD": 0.0}) == []


@pytest.mark.graph
def test_a_strong_suite_runs_them_and_records_them(examples):
    few = (examples[0][:16], examples[1][:16])
    report = kr.evaluate(honest, few, kr.evaluation.AutoAttack(BALL), batch_size=16, verbose=False)
    names = [check["name"] for check in report.checks]
    assert len(names) == len(set(names)) == 12
    assert names[-1] == "gradient_free_finds_more"
    assert set(report.checks[0]) == {"name", "value", "threshold", "suspicious", "reason", "source"}
