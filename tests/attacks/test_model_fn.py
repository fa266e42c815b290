"""The function of images to logits: modes of batch normalisation and dropout, low precision, nothing left behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import PGD, as_model_fn, low_precision_of
from keras_robust.attacks.attack import value_and_gradient
from keras_robust.core import Linf, execution
from keras_robust.core.objectives import cross_entropy

pytestmark = pytest.mark.graph


@pytest.fixture
def normalising() -> keras.Model:
    """Batch normalisation of two features, with moving mean (1, 2) and moving variance (4, 9), gamma 2, beta 1."""
    layer = keras.layers.BatchNormalization(epsilon=0.0)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_weights([np.full(2, 2.0), np.full(2, 1.0), np.array([1.0, 2.0]), np.array([4.0, 9.0])])
    return model


IMAGES = np.random.default_rng(0).uniform(size=(16, 2)).astype(np.float32)
EXPECTED = {
    False: 2 * (IMAGES - [1, 2]) / [2, 3] + 1,
    True: 2 * (IMAGES - IMAGES.mean(axis=0)) / IMAGES.std(axis=0) + 1,
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalization_mode(normalising, training, compiled):
    """Logits gamma (x - mean) / deviation + beta, with moving or batch statistics; the layer stays as it was."""
    before = [np.array(w) for w in normalising.get_weights()]
    model_fn = as_model_fn(normalising, training=training)
    model_fn = tf.function(model_fn) if compiled else model_fn
    np.testing.assert_allclose(model_fn(tf.constant(IMAGES)), EXPECTED[training], rtol=1e-3, atol=1e-4)
    for old, new in zip(before, normalising.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("training", [False, True])
def test_an_attack_leaves_the_classifier_alone(conv_classifier, batch, training):
    classifier = conv_classifier(batch_norm=True)
    images, labels = batch()
    before = classifier.get_weights()
    attack = PGD(Linf(0.1), steps=3)
    model_fn = as_model_fn(classifier, training=training)
    x_adv = tf.function(lambda: attack(model_fn, images, labels, 0))()
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(x_adv - images).max() > 0.09


def test_training_mode_drops_units():
    """Dropout 0.5 of ones gives 0 or 2, each about half of the time; in inference mode 1."""
    classifier = keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5, seed=0)])
    images = tf.ones((1, 1000))
    np.testing.assert_array_equal(as_model_fn(classifier)(images), images)
    values = np.asarray(as_model_fn(classifier, training=True)(images))
    assert set(np.unique(values)) == {0.0, 2.0}
    assert 0.4 < (values == 0).mean() < 0.6


def test_gradients_of_a_sure_classifier_do_not_vanish_in_float16(batch):
    """A cross-entropy of 1e-9 has gradients of that size, below the smallest number of float16; they are not scaled."""
    dense = keras.layers.Dense(2, dtype="mixed_float16", kernel_initializer="ones")
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])
    kernel = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    classifier.set_weights([kernel, np.array([20.0, 0.0], np.float32)])
    images = tf.constant(0.1 * batch(shape=(4, 4, 1))[0])
    labels = tf.zeros(8, tf.int32)
    found, expected = (
        value_and_gradient(lambda x, model_fn=model_fn: cross_entropy(labels, model_fn(x)), images)[1]
        for model_fn in (as_model_fn(classifier), as_model_fn(classifier, compute_dtype="float32"))
    )
    assert 0 < np.abs(expected).max() < 1e-7
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=1e-9)


@pytest.mark.parametrize("compute_dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("training", [False, True])
def test_low_precision(conv_classifier, batch, compute_dtype, training):
    """Close to float32 and not equal, float32 logits, weights float32, and the policies as they were."""
    classifier = conv_classifier(batch_norm=True)
    images, _ = batch()
    exact = as_model_fn(classifier, training=training)(images)
    low = as_model_fn(classifier, training=training, compute_dtype=compute_dtype)(images)
    assert low.dtype == tf.float32
    assert 0 < np.abs(low - exact).max() < 0.1
    assert all(layer.dtype_policy.name == "float32" for layer in classifier._flatten_layers())
    assert all(v.dtype == "float32" for v in classifier.variables)
    np.testing.assert_array_equal(as_model_fn(classifier, training=training)(images), exact)


def test_low_precision_rounds_as_bfloat16_does(linear_classifier):
    """bfloat16 keeps 8 bits: with weight 1, 1 + 2**-9 becomes 1, and without compute_dtype it does not."""
    classifier = linear_classifier(classes=2, shape=(1, 1, 1))
    classifier.set_weights([np.ones((1, 2)), np.zeros(2)])
    image = tf.fill((1, 1, 1, 1), 1 + 2.0**-9)
    np.testing.assert_array_equal(as_model_fn(classifier)(image), [[1 + 2.0**-9] * 2])
    np.testing.assert_array_equal(as_model_fn(classifier, compute_dtype="bfloat16")(image), [[1.0] * 2])


@pytest.mark.parametrize(("pays", "value"), [(True, 1.0), (False, 1 + 2.0**-9)])
def test_the_precision_that_the_machine_chooses(linear_classifier, pays, value, monkeypatch):
    """Also of a classifier in bfloat16: "auto" is one of two dtypes, not the classifier's."""
    monkeypatch.setattr(execution, "bfloat16_pays", lambda: pays)
    classifier = linear_classifier(classes=2, shape=(1, 1, 1))
    classifier.set_weights([np.ones((1, 2)), np.zeros(2)])
    image = tf.fill((1, 1, 1, 1), 1 + 2.0**-9)
    for policy in ("float32", "mixed_bfloat16"):
        classifier.layers[-1].dtype_policy = keras.DTypePolicy(policy)
        np.testing.assert_array_equal(as_model_fn(classifier, compute_dtype="auto")(image), [[value] * 2])


def test_full_precision_of_a_classifier_in_bfloat16(linear_classifier):
    classifier = linear_classifier(classes=2, shape=(1, 1, 1))
    classifier.set_weights([np.ones((1, 2)), np.zeros(2)])
    classifier.layers[-1].dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    image = tf.fill((1, 1, 1, 1), 1 + 2.0**-9)
    assert low_precision_of(classifier) == "bfloat16"
    np.testing.assert_array_equal(as_model_fn(classifier)(image), [[1.0] * 2])
    np.testing.assert_array_equal(as_model_fn(classifier, compute_dtype="float32")(image), [[1 + 2.0**-9] * 2])
    assert classifier.layers[-1].compute_dtype == "bfloat16"


def test_low_precision_is_undone_after_an_error(linear_classifier):
    classifier = linear_classifier()
    with pytest.raises(ValueError, match="incompatible"):
        as_model_fn(classifier, compute_dtype="bfloat16")(tf.ones((1, 7, 7, 1)))
    assert all(layer.dtype_policy.name == "float32" for layer in classifier._flatten_layers())


def test_gradients_reach_the_images(linear_classifier):
    """For logits x @ w the gradient of logit 0 is w[:, 0], also at low precision up to its rounding."""
    classifier = linear_classifier()
    images = tf.constant(np.random.default_rng(0).uniform(size=(1, 4, 4, 1)), tf.float32)
    for compute_dtype, tolerance in ((None, 1e-6), ("bfloat16", 0.02)):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logit = as_model_fn(classifier, compute_dtype=compute_dtype)(images)[0, 0]
        expected = classifier.get_weights()[0][:, 0].reshape(1, 4, 4, 1)
        np.testing.assert_allclose(tape.gradient(logit, images), expected, rtol=tolerance, atol=1e-6)
