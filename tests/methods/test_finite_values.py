"""Training stops where weights, images, attacked images or gradients are not finite, or a label is none.

On CPU a convolution that is fused with its ReLU maps NaN to 0, so the loss of all networks here stays finite.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from makers import METHODS, loss_for

import keras_robust as kr
from keras_robust.methods import finite_values

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = keras.losses.CategoricalCrossentropy(from_logits=True)


class L2Pooling(keras.layers.Layer):
    """The norm of 2 x 2 pixels, whose gradient at 0 is NaN."""

    def call(self, inputs):
        return tf.sqrt(tf.nn.avg_pool2d(inputs * inputs, 2, 2, "VALID"))


def l2_pooling_classifier(of_images: bool = False) -> keras.Model:
    """Pooling between two convolutions, or of the images."""

    def convolution(seed: int) -> keras.layers.Layer:
        initializer = keras.initializers.GlorotUniform(seed)
        return keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=initializer)

    layers = [L2Pooling(), convolution(0)] if of_images else [convolution(0), L2Pooling(), convolution(1)]
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(2))
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), dense])


def images_and_labels(batch, count=16):
    """Dark corners: all that is behind the first convolution is 0 there."""
    images, labels = batch(count=count)
    images[:, :4, :4] = 0.0
    return images, labels


def compiled(method: str, classifier: keras.Model, optimizer=None, **options) -> keras.Model:
    model = METHODS[method](classifier)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss_for(method), metrics=["accuracy"], **options)
    return model


def assert_stops(model: keras.Model, data, message: str, error=FloatingPointError, **options) -> None:
    with pytest.raises(error, match=message):
        model.fit(*data, **{"batch_size": 4, "epochs": 20, "shuffle": False, "verbose": 0, **options})
    assert int(model.steps_taken.numpy()) <= finite_values.INTERVAL + 4


@pytest.mark.graph
@pytest.mark.parametrize("method", ["robust", "pairing", "free", "stale", "weight perturbation"])
def test_attacked_images_that_are_not_finite_end_training(batch, method):
    """The first step makes the first kernel NaN, or the attack has met the norm of zeros before."""
    data = images_and_labels(batch)
    assert_stops(compiled(method, l2_pooling_classifier()), data, r"Attacked images hold NaN .* up to step 4\.")


@pytest.mark.graph
@pytest.mark.parametrize("method", ["natural", "squeezing"])
def test_weights_that_are_not_finite_end_training(batch, method):
    data = images_and_labels(batch)
    model = compiled(method, l2_pooling_classifier())
    assert_stops(model, data, r"Weights hold NaN or infinity at step 4: .*conv2d.*kernel")


@pytest.mark.graph
def test_a_loss_that_stays_finite_would_not_have_told(batch):
    """What the other tests rest on."""
    model = compiled("natural", l2_pooling_classifier())
    losses = []
    model.check_finite = lambda metrics=None: losses.append(metrics["loss"]) if metrics else None
    model.fit(*images_and_labels(batch), batch_size=4, epochs=2, verbose=0)
    assert np.isfinite(losses).all()
    assert np.isnan(model.classifier.get_weights()[0]).all()


@pytest.mark.graph
def test_an_epoch_is_not_trained_to_its_end(batch):
    """One of 500 steps; Keras calls `train_function` once for 7 of them."""
    images, labels = images_and_labels(batch)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4).repeat(125)
    model = compiled("natural", l2_pooling_classifier(), steps_per_execution=7)
    with pytest.raises(FloatingPointError, match="Weights"):
        model.fit(data, shuffle=False, verbose=0)
    assert int(model.steps_taken.numpy()) <= finite_values.INTERVAL + 7


@pytest.mark.xla
def test_under_xla(batch):
    """XLA masks the gradient that goes through a ReLU, so the norm is of the images themselves."""
    images, labels = images_and_labels(batch)
    model = compiled("robust", l2_pooling_classifier(of_images=True), jit_compile=True)
    assert_stops(model, (np.zeros_like(images), labels), "Attacked images hold NaN")


@pytest.mark.graph
@pytest.mark.multi_device
@pytest.mark.parametrize("method", ["robust", "free", "natural"])
def test_under_two_replicas(two_replicas, batch, method):
    """Where one replica alone sees the zeros, its gradient comes to both."""
    images, labels = batch(count=16)
    images[:, :4, :4] = 0.0
    images[::2] = 1.0
    with two_replicas.scope():
        model = compiled(method, l2_pooling_classifier())
    assert_stops(model, (images, labels), "NaN or infinity")


def test_under_gradient_accumulation(batch):
    data = images_and_labels(batch)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    assert_stops(
        compiled("natural", l2_pooling_classifier(), optimizer), data, "Weights hold NaN .*(kernel|accumulator)"
    )


def test_steps_that_loss_scaling_skips_go_on(conv_classifier, batch):
    """The gradient of the first steps overflows: their scale and weights are too much for float32."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-5), initial_scale=2.0**120)
    model = compiled("robust", conv_classifier(), optimizer)
    before = model.get_weights()
    images, labels = batch(count=16)
    weight = np.full(16, 1e4, "float32")
    history = model.fit(images, labels, sample_weight=weight, batch_size=4, epochs=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert float(optimizer.dynamic_scale) < 2.0**120
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


def test_loss_scaling_that_skips_every_step_ends_training(batch):
    """Weights and images are finite, and nothing is trained."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**-18)
    model = compiled("natural", l2_pooling_classifier(), optimizer)
    assert_stops(model, images_and_labels(batch), r"Gradients hold NaN .* in every step up to step 4")


def test_images_that_are_not_finite_end_training(conv_classifier, batch):
    """After the first batch, which `fit` has looked at."""
    images, labels = batch(count=16)
    images[13, 0, 0] = np.nan
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    assert_stops(
        compiled("robust", conv_classifier()), (data,), r"Images hold NaN or infinity in 1 step", batch_size=None
    )


def test_evaluation_under_an_attack_that_is_not_finite_is_no_result(batch):
    images, labels = images_and_labels(batch, count=8)
    model = kr.NaturalTraining(l2_pooling_classifier(), validation_attack=kr.attacks.PGD(kr.Linf(0.1), steps=2))
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    with pytest.raises(FloatingPointError, match="Attacked images hold NaN"):
        model.evaluate(np.zeros_like(images), labels, verbose=0)


@pytest.mark.graph
def test_training_after_an_error_starts_anew(conv_classifier, batch):
    """What the steps of the last `fit` noted is not held against this one."""
    images, labels = batch(count=8)
    model = compiled("robust", conv_classifier())
    model.make_train_function()
    model.train_function(iter([(tf.constant(np.full_like(images, np.nan)), tf.constant(labels))]))
    model.classifier.set_weights([np.nan_to_num(w) for w in model.classifier.get_weights()])
    model.fit(images, labels, batch_size=4, verbose=0)


def data_set(images, labels):
    """Batches of 4, of which `fit` looks at the first."""
    return (tf.data.Dataset.from_tensor_slices((images, labels)).batch(4),)


@pytest.mark.parametrize("method", ["robust", "natural", "free"])
def test_a_label_that_the_loss_refuses(linear_classifier, batch, method):
    """On CPU the sparse cross-entropy of TensorFlow raises an error of its own."""
    images, labels = batch(count=16, shape=(4, 4, 1))
    labels[9] = 7
    data, model = data_set(images, labels), compiled(method, linear_classifier())
    assert_stops(model, data, r"integers from 0 to 2\. Received: a label 7", ValueError, batch_size=None)
    with pytest.raises(ValueError, match=r"integers from 0 to 2\. Received: a label 7"):
        model.evaluate(*data, verbose=0)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_of_no_class_ends_training_on_a_data_set(linear_classifier, batch, label):
    """MART does not train on the compiled loss, which refuses such labels on CPU."""
    images, labels = batch(count=16, shape=(4, 4, 1))
    labels[9] = label
    assert_stops(
        compiled("mart", linear_classifier()),
        data_set(images, labels),
        "outside of the classes",
        ValueError,
        batch_size=None,
    )


@pytest.mark.parametrize("method", ["robust", "natural", "mixup", "trades", "free", "stale"])
def test_a_row_that_does_not_add_up_to_1_ends_training_on_a_data_set(linear_classifier, batch, method):
    images, labels = batch(count=16, shape=(4, 4, 1))
    rows = np.eye(3, dtype="float32")[labels]
    rows[9] = 0.0
    model = METHODS[method](linear_classifier())
    model.compile(keras.optimizers.SGD(0.1), DENSE, metrics=["accuracy"])
    assert_stops(model, data_set(images, rows), "outside of the classes", ValueError, batch_size=None)


def test_a_row_of_weight_0_may_be_anything(linear_classifier, batch):
    """A batch that was filled up with zeros."""
    images, labels = batch(count=16, shape=(4, 4, 1))
    rows, weights = np.eye(3, dtype="float32")[labels], np.ones(16, "float32")
    rows[9], weights[9] = 0.0, 0.0
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", DENSE)
    model.fit(images, rows, sample_weight=weights, batch_size=4, verbose=0)
    model.fit(tf.data.Dataset.from_tensor_slices((images, rows, weights)).batch(4), shuffle=False, verbose=0)


@pytest.mark.parametrize("of_validation", [False, True])
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_in_arrays_are_all_looked_at_before_training(linear_classifier, batch, of_validation, label):
    images, labels = batch(count=64, shape=(4, 4, 1))
    bad = np.where(np.arange(64) == 50, label, labels)
    model = compiled("mart", linear_classifier())
    data = {"x": images, "y": labels, "validation_data": (images, bad)} if of_validation else {"x": images, "y": bad}
    with pytest.raises(ValueError, match=rf"integers from 0 to 2.*Received: labels from .*{label}"):
        model.fit(**data, batch_size=4, verbose=0)
    assert int(model.steps_taken.numpy()) == 0


@pytest.mark.graph
def test_evaluation_on_rows_of_no_class_is_no_result(linear_classifier, batch):
    images, labels = batch(count=16, shape=(4, 4, 1))
    rows = np.eye(3, dtype="float32")[labels]
    rows[9] = 0.0
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", DENSE, metrics=["accuracy"])
    with pytest.raises(ValueError, match="outside of the classes"):
        model.evaluate(images, rows, verbose=0)
