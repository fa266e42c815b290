"""Attacks alone under XLA, and steps that run eagerly."""

import keras
import numpy as np
import pytest

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.1), steps=2)
MAKERS = {
    "mixture": lambda classifier, **options: kr.AdversarialTraining(
        classifier, ATTACK, clean_fraction=0.5, clean_weight=0.3, **options
    ),
    "pairing": lambda classifier, **options: kr.AdversarialLogitPairing(classifier, ATTACK, **options),
}


def first_step(model: keras.Model, data, **options) -> tuple[dict, list[np.ndarray]]:
    images, labels = data
    model.compile(keras.optimizers.SGD(0.1), SPARSE, metrics=["accuracy"], **options)
    history = model.fit(images, labels, batch_size=len(images), shuffle=False, verbose=0, validation_data=data)
    return history.history, model.get_weights()


def assert_same(got, expected) -> None:
    assert set(got[0]) == set(expected[0])
    for name, values in expected[0].items():
        np.testing.assert_allclose(got[0][name], values, atol=1e-4, err_msg=name)
    for a, b in zip(got[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.xla
def test_the_attack_alone_compiles_to_the_same(conv_classifier, batch):
    data = batch(count=6)
    expected = first_step(MAKERS["pairing"](conv_classifier(), compile_attack=False, validation_attack=ATTACK), data)
    compiled = MAKERS["pairing"](conv_classifier(), compile_attack=True, validation_attack=ATTACK)
    assert_same(first_step(compiled, data), expected)


@pytest.mark.xla
@pytest.mark.multi_device
def test_the_attack_compiles_under_a_strategy(two_replicas, conv_classifier, batch):
    """Keras turns XLA off there, so the attack is what can be compiled."""
    data = batch(count=6)
    results = []
    for compile_attack in (False, True):
        with two_replicas.scope():
            model = MAKERS["pairing"](conv_classifier(), compile_attack=compile_attack)
            results.append(first_step(model, data))
    assert_same(results[1], results[0])


@pytest.mark.graph
def test_run_eagerly_gives_the_same(conv_classifier, batch):
    data = batch(count=6)
    expected = first_step(MAKERS["mixture"](conv_classifier()), data)
    assert_same(first_step(MAKERS["mixture"](conv_classifier()), data, run_eagerly=True), expected)


@pytest.mark.parametrize("compile_attack", [None, "yes", 2])
def test_compile_attack_is_checked(linear_classifier, compile_attack):
    with pytest.raises(ValueError, match=f"Received: compile_attack={compile_attack!r}"):
        kr.AdversarialTraining(linear_classifier(), ATTACK, compile_attack=compile_attack)
