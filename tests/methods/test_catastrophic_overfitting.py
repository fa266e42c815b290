"""Catastrophic overfitting is said, once, and only where it happens."""

import warnings

import keras
import pytest

import keras_robust as kr

STEP = kr.attacks.PGD(kr.Linf(0.1), steps=1)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def watch(epochs, **options) -> kr.DetectCatastrophicOverfitting:
    """A callback after epochs of (training accuracy, validation accuracy)."""
    callback = kr.DetectCatastrophicOverfitting(**options)
    callback.set_model(keras.Sequential())
    callback.model.stop_training = False
    for epoch, (trained, validated) in enumerate(epochs):
        callback.on_epoch_end(epoch, {"robust_accuracy": trained, "val_robust_accuracy": validated})
    return callback


def test_a_fall_while_training_goes_well_is_said_once():
    with pytest.warns(UserWarning, match=r"epoch 3: val_robust_accuracy fell from 0.500 to 0.100") as caught:
        callback = watch([(0.4, 0.4), (0.5, 0.5), (0.9, 0.1), (0.99, 0.0)])
    assert len(caught) == 1
    assert callback.detected
    assert not callback.model.stop_training


def test_a_gap_from_the_first_epoch_on_is_said():
    """As on MNIST with steps of 1.25 epsilon."""
    with pytest.warns(UserWarning, match=r"epoch 1: val_robust_accuracy is 0.000, .* training attack is 0.687"):
        watch([(0.687, 0.0), (0.891, 0.003)])


def test_it_stops_training_where_asked():
    with pytest.warns(UserWarning, match="Catastrophic overfitting"):
        assert watch([(0.5, 0.5), (0.9, 0.2)], stop=True).model.stop_training


@pytest.mark.parametrize(
    "epochs",
    [
        [(0.4, 0.4), (0.5, 0.5), (0.6, 0.45)],  # an ordinary epoch
        [(0.5, 0.5), (0.1, 0.2)],  # training fell, too
        [(0.7, 0.25), (0.8, 0.4)],  # a weaker attack in training
    ],
)
def test_other_histories_are_silent(epochs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not watch(epochs).detected


def test_epochs_without_validation_are_skipped():
    callback = kr.DetectCatastrophicOverfitting()
    callback.on_epoch_end(0, {"robust_accuracy": 0.5})
    assert not callback.detected


def test_methods_without_an_attack_have_nothing_to_overfit_to():
    callback = kr.DetectCatastrophicOverfitting()
    callback.on_epoch_end(0, {"val_robust_accuracy": 0.0})
    assert not callback.detected


def test_fit_watches(linear_classifier, batch, monkeypatch):
    """`fit` brings the callback, beside the user's own."""
    seen = []
    monkeypatch.setattr(kr.DetectCatastrophicOverfitting, "on_epoch_end", lambda *_: seen.append("watched"))
    own = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append("own"))
    strong = kr.attacks.PGD(kr.Linf(0.1), steps=3)
    model = kr.FastAdversarialTraining(linear_classifier(), STEP, validation_attack=strong)
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    data = batch(shape=(4, 4, 1))
    model.fit(*data, validation_data=data, callbacks=own, verbose=0)
    model.fit(*data, 4, 1, 0, [own], validation_split=0.5)
    assert seen == ["watched", "own"] * 2


def test_the_users_own_watch_stands_in_for_the_default(linear_classifier, batch, monkeypatch):
    """Two of them would warn twice, the default without the user's settings."""
    seen = []
    monkeypatch.setattr(kr.DetectCatastrophicOverfitting, "on_epoch_end", lambda self, *_: seen.append(self))
    own = kr.DetectCatastrophicOverfitting(stop=True)
    model = kr.FastAdversarialTraining(
        linear_classifier(), STEP, validation_attack=kr.attacks.PGD(kr.Linf(0.1), steps=3)
    )
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    data = batch(shape=(4, 4, 1))
    model.fit(*data, validation_data=data, callbacks=[own], verbose=0)
    assert seen == [own]


def test_bad_input(linear_classifier, batch):
    strong = kr.attacks.PGD(kr.Linf(0.1), steps=3)
    with pytest.raises(ValueError, match="Received: validation_attack=None"):
        kr.FastAdversarialTraining(linear_classifier(), STEP)
    with pytest.raises(ValueError, match="must be a PGD of one step"):
        kr.FastAdversarialTraining(linear_classifier(), strong, validation_attack=strong)
    with pytest.raises(ValueError, match="Received: fall=1"):
        kr.DetectCatastrophicOverfitting(fall=1)
    model = kr.FastAdversarialTraining(linear_classifier(), STEP, validation_attack=strong)
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    data = batch(shape=(4, 4, 1))
    with pytest.raises(ValueError, match="Received: validation_data=None"):
        model.fit(*data)
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match=r"Compile with metrics=\['accuracy'\]"):
        model.fit(*data, validation_data=data)
