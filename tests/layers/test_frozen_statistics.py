"""Moving averages instead of batch statistics in training, for the last epochs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.FGSM(kr.Linf(0.1))


def norm_of(model: keras.Model) -> keras.layers.BatchNormalization:
    (layer,) = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    return layer


def test_frozen_layers_train_scale_and_offset_only():
    x = np.random.default_rng(0).normal(2.0, 3.0, (16, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization()])
    layer = norm_of(model)
    with tf.GradientTape() as tape, kr.layers.frozen_statistics(model):
        y = model(x, training=True)
    np.testing.assert_allclose(y, x / np.sqrt(1.001), rtol=1e-5)
    assert all(g is not None for g in tape.gradient(y, [layer.gamma.value, layer.beta.value]))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(5))
    model(x, training=True)
    assert np.abs(layer.moving_mean).max() > 0


def test_the_last_epochs_leave_the_averages_alone(conv_classifier, batch):
    """Averages after 3 epochs with the last 2 frozen are those after 1; the weights go on."""
    images, labels = batch(count=8)

    def train(epochs: int, callbacks: list) -> keras.Model:
        model = kr.AdversarialTraining(conv_classifier(batch_norm=True), ATTACK)
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
        model.fit(images, labels, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    one, frozen = train(1, []), train(3, [kr.FreezeBatchStatistics(last_epochs=2)])
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_array_equal(getattr(norm_of(one), name), getattr(norm_of(frozen), name))
    assert np.abs(np.asarray(norm_of(one).gamma) - np.asarray(norm_of(frozen).gamma)).max() > 0
    assert not frozen.batch_statistics_frozen
    frozen.fit(images, labels, batch_size=4, verbose=0)
    assert np.abs(np.asarray(norm_of(one).moving_mean) - np.asarray(norm_of(frozen).moving_mean)).max() > 0


@pytest.mark.filterwarnings("ignore:All 1 epochs train")
def test_a_frozen_step_is_one_in_inference_mode(conv_classifier, batch):
    """The gradient is that of the classifier with its moving averages."""
    images, labels = batch(count=4)
    model = kr.AdversarialTraining(conv_classifier(batch_norm=True), ATTACK)
    model.compile(keras.optimizers.SGD(1.0), SPARSE)
    classifier = model.classifier
    x = ATTACK(kr.attacks.as_model_fn(classifier), images, labels, 0)
    with tf.GradientTape() as tape:
        loss = SPARSE(labels, classifier(x, training=False))
    variables = classifier.trainable_variables
    expected = [v - g for v, g in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True)]
    model.fit(images, labels, batch_size=4, verbose=0, callbacks=[kr.FreezeBatchStatistics(1)])
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-6)


@pytest.mark.filterwarnings("ignore:All 1 epochs train")
def test_the_averages_move_again_after_an_interruption(conv_classifier, batch):
    def interrupt(batch: int, logs: dict) -> None:
        del batch, logs
        raise KeyboardInterrupt

    model = kr.AdversarialTraining(conv_classifier(batch_norm=True), ATTACK)
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*batch(), epochs=1, verbose=0, callbacks=[kr.FreezeBatchStatistics(1), stop])
    np.testing.assert_array_equal(norm_of(model).moving_mean, np.zeros(4))
    model.fit(*batch(), verbose=0)
    assert np.abs(np.asarray(norm_of(model).moving_mean)).max() > 0


def test_freezing_every_epoch_warns(conv_classifier, batch):
    model = kr.AdversarialTraining(conv_classifier(batch_norm=True), ATTACK)
    model.compile("sgd", SPARSE)
    with pytest.warns(UserWarning, match=r"All 1 epochs .*zeros and ones: train .*Received: last_epochs=10$"):
        model.fit(*batch(), verbose=0, callbacks=[kr.FreezeBatchStatistics()])


@pytest.mark.parametrize("last_epochs", [0, 1.5, True])
def test_bad_input(last_epochs):
    with pytest.raises(ValueError, match=f"Received: last_epochs={last_epochs}"):
        kr.FreezeBatchStatistics(last_epochs)
