"""What a method's attack is where something was left to the default: what its authors attacked with."""

import warnings

import keras
import numpy as np
import pytest

import keras_robust as kr

BALL = kr.Linf(0.1)
PGD, APGD, FGSM, BIM = kr.attacks.PGD, kr.attacks.APGD, kr.attacks.FGSM, kr.attacks.BIM
VAT = kr.VirtualAdversarialTraining


@pytest.mark.parametrize(
    ("method", "objective"), [(kr.TRADES, "kl_divergence"), (kr.MART, "cross_entropy"), (VAT, "kl_divergence")]
)
@pytest.mark.parametrize("make", [PGD, APGD])
def test_the_objective_of_the_authors(linear_classifier, method, objective, make):
    attack = method(linear_classifier(), make(BALL, steps=3)).attack
    assert attack.resolved_objective.name == objective
    assert attack.steps == 3
    if make is PGD:
        assert attack.random_start == "normal"


def test_trades_trains_as_with_its_attack_spelled_out(conv_classifier, batch):
    images, labels = batch(count=8)
    weights = []
    for attack in (PGD(BALL, steps=2), PGD(BALL, steps=2, objective="kl_divergence", random_start="normal")):
        model = kr.TRADES(conv_classifier(), attack)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for default, spelled_out in zip(*weights, strict=True):
        np.testing.assert_array_equal(default, spelled_out)


@pytest.mark.parametrize("method", [kr.TRADES, kr.MART, VAT])
def test_what_was_asked_for_is_kept(linear_classifier, method):
    attack = PGD(BALL, objective=method.OBJECTIVE, random_start="uniform", step_size=0.03)
    assert method(linear_classifier(), attack).attack == attack


@pytest.mark.parametrize(
    ("method", "asked"), [(kr.TRADES, "cross_entropy"), (kr.MART, "kl_divergence"), (VAT, kr.core.Margin(0.0))]
)
def test_another_objective_is_warned_of_and_kept(linear_classifier, method, asked):
    attack = PGD(BALL, objective=asked, random_start="normal")
    with pytest.warns(UserWarning, match=f"The attack of {method.__name__} maximises {method.OBJECTIVE} in the paper"):
        assert method(linear_classifier(), attack).attack == attack


def test_virtual_adversarial_training_with_its_own_attack(linear_classifier):
    attack = kr.attacks.VirtualAdversarial(kr.L2(0.5))
    assert VAT(linear_classifier(), attack).attack == attack


@pytest.mark.parametrize("attack", [FGSM(BALL), BIM(BALL), PGD(BALL, random_start=False)], ids=lambda a: a.name)
@pytest.mark.parametrize("method", [kr.TRADES, VAT])
def test_the_divergence_is_not_climbed_from_the_clean_image(linear_classifier, method, attack):
    with pytest.raises(
        ValueError, match=rf"{method.__name__} maximises .*no gradient at the clean image.*random_start='none'"
    ):
        method(linear_classifier(), attack)


@pytest.mark.parametrize("start", ["uniform", None])
def test_a_saved_model_keeps_what_it_trained_with(linear_classifier, tmp_path, start):
    """Files of before hold `objective="cross_entropy"` and `random_start="uniform"` for attacks left to the default."""
    with pytest.warns(UserWarning, match="maximises kl_divergence"):
        kr.TRADES(linear_classifier(), PGD(BALL, objective="cross_entropy", random_start=start)).save(
            tmp_path / "m.keras"
        )
    with pytest.warns(UserWarning, match="maximises kl_divergence"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.attack.objective == "cross_entropy"
    assert loaded.attack.random_start == (start or "normal")
    kr.TRADES(linear_classifier(), PGD(BALL)).save(tmp_path / "default.keras")
    assert keras.models.load_model(tmp_path / "default.keras").attack.objective == "kl_divergence"


def test_elsewhere_the_default_is_the_cross_entropy_from_a_uniform_start(linear_classifier, batch):
    images, labels = batch(shape=(4, 4, 1))
    model_fn = kr.attacks.as_model_fn(linear_classifier())
    for left, said in (
        (PGD(BALL, steps=3), PGD(BALL, steps=3, objective="cross_entropy", random_start="uniform")),
        (APGD(BALL, steps=3), APGD(BALL, steps=3, objective="cross_entropy")),
    ):
        assert (left.name, left.resolved()) == (said.name, said)
        np.testing.assert_array_equal(left(model_fn, images, labels, 0), said(model_fn, images, labels, 0))
        assert kr.AdversarialTraining(linear_classifier(), left).attack == left


def test_records_say_what_was_left_to_the_default(linear_classifier, batch, tmp_path):
    images, labels = batch(shape=(4, 4, 1))
    report = kr.evaluate(linear_classifier(), (images, labels), PGD(BALL, steps=2), verbose=False)
    (attack,) = report.record["details"].values()
    assert attack["settings"]["config"]["objective"] == "cross_entropy"
    assert attack["settings"]["config"]["random_start"] == "uniform"


def test_the_step_of_fast_training(linear_classifier):
    """1.25 epsilon, where nothing was said; files of before have an objective, and keep 2.5 epsilon."""
    strong = PGD(BALL, steps=5)
    made = [
        kr.FastAdversarialTraining(linear_classifier(), attack, validation_attack=strong).attack.resolved_step_size
        for attack in (PGD(BALL, steps=1), PGD(BALL, steps=1, objective="cross_entropy"), PGD(BALL, 1, 0.02))
    ]
    np.testing.assert_allclose(made, [0.125, 0.25, 0.02])


def test_no_warning_without_a_reason(linear_classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kr.TRADES(linear_classifier(), PGD(BALL))
        kr.MART(linear_classifier(), FGSM(BALL))
