"""Auxiliary logits: part of the loss of a training step, and of nothing else."""

import keras
import makers
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.layers import AuxiliaryLogits

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.BIM(kr.Linf(0.1), steps=2)
WEIGHT = 0.4


def make_classifier(weight: float = WEIGHT, batch_norm: bool = False) -> keras.Model:
    """Softmax regression, on the same features as an auxiliary one, with the same initial weights each time."""
    initializer = keras.initializers.GlorotUniform
    images = keras.Input((8, 8, 1))
    features = keras.layers.Flatten(name="features")(images)
    if batch_norm:
        features = keras.layers.BatchNormalization()(features)
    logits = keras.layers.Dense(3, kernel_initializer=initializer(0), name="logits")(features)
    auxiliary = keras.layers.Dense(3, kernel_initializer=initializer(1), name="auxiliary")(features)
    return keras.Model(images, AuxiliaryLogits(weight)([logits, auxiliary]))


def compiled(model: keras.Model, rate: float = 1.0, **options) -> keras.Model:
    model.compile(keras.optimizers.SGD(rate), SPARSE, metrics=["accuracy"], **options)
    return model


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("joint_pass", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_step(batch, joint_pass, weighted):
    """0.4 times the mean over clean and attacked images, of which there are 3 and 6, is added; no pairing is."""
    images, labels = batch(count=6)
    weights = np.linspace(0.5, 1.5, 6).astype("float32") if weighted else None
    w, a = make_classifier().get_weights()[0], make_classifier().get_weights()[2]
    model = compiled(kr.AdversarialTraining(make_classifier(), ATTACK, clean_fraction=0.5, joint_pass=joint_pass))
    adversarial = np.asarray(model.perturb(tf.constant(images), tf.constant(labels), tf.constant([0, 0])))
    rows = np.concatenate([images[:3], adversarial]).reshape(9, -1)
    y, s = np.concatenate([labels[:3], labels]), np.ones(9)
    if weighted:
        s = np.concatenate([weights[:3], weights])
    expected = np.mean(s * (cross_entropy(rows @ w, y) + WEIGHT * cross_entropy(rows @ a, y)))
    history = model.fit(images, labels, batch_size=6, sample_weight=weights, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-4)
    probabilities = np.exp(rows @ a) / np.exp(rows @ a).sum(axis=1, keepdims=True)
    gradient = WEIGHT * rows.T @ (s[:, None] * (probabilities - np.eye(3)[y])) / 9
    np.testing.assert_allclose(model.classifier.get_weights()[2], a - gradient, atol=1e-4)


def test_pairing_is_of_the_logits_alone(batch):
    """The auxiliary weights move as they do without pairing, the others do not."""
    images, labels = batch()
    results = []
    for weight in (0.0, 5.0):
        model = compiled(kr.AdversarialLogitPairing(make_classifier(), ATTACK, pairing_weight=weight))
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
        results.append(model.classifier.get_weights())
    np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-6)
    assert np.abs(results[0][0] - results[1][0]).max() > 1e-3


def test_nothing_else_sees_them(batch, tmp_path):
    """With weight 0 the classifier trains, validates, is attacked, evaluated and exported the same."""
    images, labels = batch()
    results = []
    for weight in (0.0, 3.0):
        model = compiled(kr.AdversarialTraining(make_classifier(weight), ATTACK, validation_attack=ATTACK))
        history = model.fit(images, labels, batch_size=8, verbose=0, validation_data=(images, labels)).history
        report = kr.evaluate(model, (images, labels), ATTACK, checks=False, verbose=False)
        kr.export(model, tmp_path / str(weight))
        loaded = tf.saved_model.load(tmp_path / str(weight))
        served = loaded.serve(images)
        kernel, bias = model.classifier.get_weights()[:2]
        np.testing.assert_allclose(served, images.reshape(8, -1) @ kernel + bias, atol=1e-5)
        names = [name for name in history if name != "loss"]
        results.append([history[name] for name in names] + [report.clean_accuracy, report.robust_accuracy, served])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_training_goes_on_after_loading(batch, tmp_path):
    images, labels = batch()
    model = compiled(kr.AdversarialLogitPairing(make_classifier(), ATTACK))
    model.fit(images, labels, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
@pytest.mark.xla
@pytest.mark.parametrize("method", makers.METHODS)
def test_every_method_trains_them(batch, method):
    """Also under XLA: the auxiliary weights move, once the method trains at all."""
    images, labels = batch(count=8)
    labels = makers.labels_for(method, labels)
    for jit_compile in (False, True):
        classifier = make_classifier()
        options = {"validation_data": (images, labels)} if method == "fast" else {}
        model = makers.METHODS[method](classifier)
        model.compile(keras.optimizers.SGD(1.0), makers.loss_for(method), metrics=["accuracy"], jit_compile=jit_compile)
        before = classifier.get_weights()[2]
        model.fit(images, labels, batch_size=4, epochs=2, verbose=0, **options)
        assert np.abs(classifier.get_weights()[2] - before).max() > 1e-3


@pytest.mark.slow
@pytest.mark.multi_device
def test_two_replicas_train_as_one(two_replicas, batch):
    images, labels = batch()
    weights = []
    for scope in (two_replicas.scope, tf.distribute.get_strategy().scope):
        with scope():
            model = compiled(kr.AdversarialTraining(make_classifier(), kr.attacks.FGSM(kr.Linf(0.1))))
            model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_loss_that_is_only_a_function(batch):
    model = kr.AdversarialTraining(make_classifier(), ATTACK)
    model.compile(loss=lambda y, logits: -tf.gather(logits, tf.cast(y, tf.int32), axis=1, batch_dims=1))
    with pytest.raises(ValueError, match=r"needs a keras\.losses\.Loss\. Received: loss=<function"):
        model.fit(*batch(), verbose=0)


def test_bad_weight():
    with pytest.raises(ValueError, match=r"Received: weight=-0\.1"):
        AuxiliaryLogits(-0.1)
