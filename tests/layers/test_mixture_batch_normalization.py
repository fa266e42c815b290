"""Mixture batch normalisation: which branch a pass uses, in training, prediction, export, and what is saved."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.layers import MixtureBatchNormalization, select_branch, use_branch

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.3), steps=1)


@pytest.fixture
def classifier(conv_classifier):
    """A classifier with mixture batch normalisation, momentum 0.5."""
    plain = conv_classifier(batch_norm=True)
    return kr.layers.replace_normalization(plain, "mixture_batch", momentum=0.5)


def mixture_layer(model: keras.Model) -> MixtureBatchNormalization:
    (layer,) = [layer for layer in model._flatten_layers() if isinstance(layer, MixtureBatchNormalization)]
    return layer


def trained(classifier: keras.Model, data, **options) -> keras.Model:
    model = kr.AdversarialTraining(classifier, ATTACK, clean_fraction=1.0, **options)
    model.compile(keras.optimizers.SGD(0.5), SPARSE, metrics=["accuracy"])
    model.fit(*data, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_a_branch_that_is_not_trained_is_warned_of(classifier, batch):
    """Nothing is said where the branch that is selected is trained."""
    model = kr.NaturalTraining(classifier)
    model.compile("sgd", SPARSE)
    with pytest.warns(UserWarning, match=r"NaturalTraining trains the clean branch.*Received: .* adversarial branch"):
        model.fit(*batch(), verbose=0)
    select_branch(classifier, "clean")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*trains the")
        model.fit(*batch(), verbose=0)
    only_attacked = kr.AdversarialTraining(classifier, ATTACK)
    only_attacked.compile("sgd", SPARSE)
    with pytest.warns(UserWarning, match="AdversarialTraining trains the adversarial branch"):
        only_attacked.fit(*batch(), verbose=0)


@pytest.mark.parametrize("branch", kr.layers.BRANCHES)
def test_replicas_evaluate_the_branch_in_use(classifier, batch, two_replicas, branch):
    """They are traced in threads of their own."""
    images, _ = batch()
    with two_replicas.scope():
        copy = keras.models.clone_model(classifier)
        copy.set_weights([np.random.default_rng(0).uniform(0.5, 1.5, w.shape) for w in classifier.get_weights()])
        with use_branch(branch):
            report = kr.evaluate(copy, (images, np.zeros(8, np.int64)), ATTACK, batch_size=8, verbose=False)
    with use_branch(branch):
        expected = copy(images).numpy().argmax(axis=1)
    assert report.record["clean_predictions"] == expected.tolist()


def test_branches_are_batch_normalizations():
    """Each normalises as `keras.layers.BatchNormalization` with its statistics, and moves only those."""
    x = tf.constant(np.random.default_rng(0).normal(3.0, 2.0, (16, 5)).astype("float32"))
    layer, plain = MixtureBatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    layer.build(x.shape)
    plain.build(x.shape)
    for branch in kr.layers.BRANCHES:
        with use_branch(branch):
            np.testing.assert_allclose(layer(x), plain(x), atol=1e-6)
    with use_branch("clean"):
        np.testing.assert_allclose(layer(x, training=True), plain(x, training=True), atol=1e-5)
    np.testing.assert_allclose(layer.clean.moving_mean, plain.moving_mean, rtol=1e-6)
    np.testing.assert_array_equal(layer.adversarial.moving_mean, np.zeros(5))
    np.testing.assert_allclose(layer(x), x / np.sqrt(1.001), rtol=1e-5)  # the adversarial one
    select_branch(keras.Sequential([layer]), "clean")
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)


def test_training_keeps_clean_and_attacked_statistics_apart(classifier, batch):
    """Clean statistics are those of a plain pass over clean images, whatever the attacked ones are."""
    images, labels = batch(count=8)
    before = [np.asarray(w) for w in classifier.get_weights()]
    first = tf.nn.relu(tf.nn.conv2d(images, before[0], 2, "VALID") + before[1])
    model = kr.AdversarialLogitPairing(classifier, ATTACK)
    model.compile(keras.optimizers.SGD(0.0), SPARSE)
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    layer = mixture_layer(model)
    np.testing.assert_allclose(layer.clean.moving_mean, 0.5 * np.mean(first, axis=(0, 1, 2)), rtol=1e-4)
    assert np.abs(np.asarray(layer.adversarial.moving_mean) - np.asarray(layer.clean.moving_mean)).max() > 1e-3


def test_the_attack_sees_the_adversarial_branch(classifier, batch):
    """With a clean branch that returns zeros, the attack still finds a direction."""
    images, labels = batch(count=8)
    mixture_layer(classifier).clean.gamma.assign(np.zeros(4))
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.3)))
    inputs = (tf.constant(images), tf.constant(labels), tf.constant([0, 1]))
    moved = model.perturb(*inputs) - images
    assert np.abs(moved).max() > 0.2
    select_branch(classifier, "clean")
    np.testing.assert_array_equal(moved, model.perturb(*inputs) - images)


def test_an_ensemble_attacks_the_adversarial_branch_of_its_classifier(classifier, conv_classifier, batch):
    """Clean branches return zeros here; source models are attacked in the branch that is selected in them."""
    images, labels = batch(count=8)
    source = kr.layers.replace_normalization(conv_classifier(batch_norm=True), "mixture_batch")
    for each in (classifier, source):
        mixture_layer(each).clean.gamma.assign(np.zeros(4))
        select_branch(each, "clean")
    model = kr.EnsembleAdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.3)), source_models=[source])
    seeds = [tf.constant([0, k]) for k in range(8)]
    has_moved = [
        np.abs(model.perturb(tf.constant(images), tf.constant(labels), seed) - images).max() > 0.2 for seed in seeds
    ]
    draws = [int(kr.core.seeds.integers((), kr.core.seeds.fold(seed, 0), 2)) for seed in seeds]
    assert has_moved == [draw == 0 for draw in draws]
    assert len(set(draws)) == 2


@pytest.mark.filterwarnings("ignore:StaleAdversarialTraining trains the adversarial branch")
def test_fresh_accuracy_is_of_the_adversarial_branch(classifier, batch):
    """Clean logits are the same for all images; labels are those of the other branch."""
    images, _ = batch(count=32)
    labels = classifier(images).numpy().argmax(axis=1)
    assert len(set(labels)) > 1
    mixture_layer(classifier).clean.gamma.assign(np.zeros(4))
    mixture_layer(classifier).clean.trainable = False
    select_branch(classifier, "clean")
    model = kr.StaleAdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.0)), staleness=0)
    model.compile(keras.optimizers.SGD(0.0), SPARSE)
    history = model.fit(images, labels, batch_size=32, verbose=0).history
    assert history["fresh_robust_accuracy"] == [1.0]


def test_validation_is_of_the_selected_branch_alone(classifier, batch):
    """Of clean images, too. The clean branch gives all images the same logits here."""
    images, _ = batch(count=32)
    mixture_layer(classifier).clean.gamma.assign(np.zeros(4))
    classifier.layers[-1].bias.assign([0.01, 0.0, 0.0])
    labels = classifier(images).numpy().argmax(axis=1)
    assert 0 < np.mean(labels == 0) < 1
    for branch, accuracy in (("adversarial", 1.0), ("clean", np.mean(labels == 0))):
        select_branch(classifier, branch)
        model = kr.AdversarialTraining(classifier, ATTACK, validation_attack=kr.attacks.FGSM(kr.Linf(0.0)))
        model.compile("sgd", SPARSE, metrics=["accuracy"])
        logs = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert logs["accuracy"] == logs["robust_accuracy"] == pytest.approx(accuracy)


def test_evaluation_and_export_use_the_selected_branch(classifier, batch, tmp_path):
    data = batch(count=16)
    model = trained(classifier, data)
    logits = {}
    for branch in kr.layers.BRANCHES:
        select_branch(model, branch)
        with use_branch(branch):
            logits[branch] = model.classifier(data[0]).numpy()
        kr.export(model, tmp_path / branch)
        served = tf.saved_model.load(tmp_path / branch)
        np.testing.assert_allclose(served.serve(data[0]), logits[branch], atol=1e-5)
        report = kr.evaluate(model, data, ATTACK, checks=False, verbose=False)
        assert report.clean_accuracy == np.mean(logits[branch].argmax(1) == data[1])
    assert np.abs(logits["clean"] - logits["adversarial"]).max() > 1e-2
    model.save(tmp_path / "model.keras")
    kr.export(tmp_path / "model.keras", tmp_path / "chosen", branch="clean")
    served = tf.saved_model.load(tmp_path / "chosen")
    np.testing.assert_allclose(served.serve(data[0]), logits["clean"], atol=1e-5)
    options = {"branch": "clean", "verbose": False}
    report = kr.evaluation.evaluate_suite(None, str(tmp_path / "model.keras"), data, ATTACK, **options)
    assert report.clean_accuracy == np.mean(logits["clean"].argmax(1) == data[1])
    assert report.record["model"]["source"].endswith("model.keras, clean branch")
    with pytest.raises(ValueError, match="Received: branch='clean' for a function"):
        kr.evaluation.evaluate_suite(None, str(tmp_path / "chosen"), data, ATTACK, **options)


def test_round_trip(classifier, batch, tmp_path):
    data = batch(count=16)
    model = trained(classifier, data)
    select_branch(model, "clean")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert mixture_layer(loaded).branch == "clean"
    np.testing.assert_allclose(loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0), atol=1e-6)
    config = MixtureBatchNormalization(momentum=0.7, epsilon=1e-4, scale=False, branch="clean").get_config()
    again = MixtureBatchNormalization.from_config(config)
    assert (again.adversarial.momentum, again.clean.epsilon, again.clean.scale) == (0.7, 1e-4, False)
    assert again.branch == "clean"


def test_a_frozen_layer_is_frozen_and_comes_back_frozen(tmp_path):
    """No branch of it has trainable variables, and in training both use their moving averages."""
    layer = MixtureBatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(3.0, 2.0, (16, 5)).astype("float32")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        assert not each.trainable_variables
        assert len(each.non_trainable_variables) == 8
        np.testing.assert_allclose(each(x, training=True), x / np.sqrt(1.001), rtol=1e-5)


@pytest.mark.xla
def test_training_compiles_with_xla(classifier, batch):
    data = batch(count=8)
    weights = classifier.get_weights()
    results = []
    for jit_compile in (False, True):
        classifier.set_weights(weights)
        model = kr.AdversarialLogitPairing(classifier, ATTACK)
        model.compile(keras.optimizers.SGD(0.1), SPARSE, jit_compile=jit_compile)
        model.fit(*data, batch_size=8, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_bad_input(classifier, conv_classifier):
    with pytest.raises(ValueError, match="Received: branch='attacked'"):
        select_branch(classifier, "attacked")
    with pytest.raises(ValueError, match="Received: branch='attacked'"), use_branch("attacked"):
        pass
    with pytest.raises(ValueError, match="Received: branch='clean' for 'sequential"):
        kr.export(conv_classifier(), "unused", branch="clean")
    with pytest.raises(ValueError, match="Received: branch='clean' for 'sequential"):
        select_branch(conv_classifier(), "clean")
    with pytest.raises(ValueError, match="Received: branch=None"):
        MixtureBatchNormalization(branch=None)
