"""`.keras` files: what is restored, and that training goes on as if it had not stopped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.2), steps=2, clean_start_probability=0.2)


@keras.saving.register_keras_serializable("keras_robust_tests")
class Subclassed(keras.Model):
    """A classifier whose input shape Keras cannot know."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.normalization = keras.layers.BatchNormalization(momentum=0.9)
        self.dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(0))

    def build(self, input_shape) -> None:
        size = int(np.prod(input_shape[1:]))
        self.normalization.build((None, size))
        self.dense.build((None, size))
        self.built = True

    def call(self, images, training=None):
        return self.dense(self.normalization(self.flatten(images), training=training))


def functional() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, 2, kernel_initializer=keras.initializers.GlorotUniform(0))(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))(x))


def sequential() -> keras.Model:
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(0))
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])


CASES = {
    "pairing, functional, Adam": (
        lambda: kr.AdversarialLogitPairing(functional(), ATTACK, pairing_weight=0.7, pairing_loss="huber", seed=3),
        lambda: keras.optimizers.Adam(1e-2),
    ),
    "mixture, sequential, momentum": (
        lambda: kr.AdversarialTraining(
            sequential(), ATTACK, clean_fraction=0.5, clean_weight=0.3, validation_attack=ATTACK, seed=1
        ),
        lambda: keras.optimizers.SGD(1e-1, momentum=0.9, nesterov=True),
    ),
    "robust, subclassed, RMSprop": (
        lambda: kr.AdversarialTraining(Subclassed(), ATTACK, joint_pass=False, attack_in_training_mode=True),
        lambda: keras.optimizers.RMSprop(1e-2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path, batch, case):
    """Two epochs, against one epoch, save, load, one epoch: bit for bit, optimizer and step counter too."""
    make, optimizer = CASES[case]
    images, labels = batch(count=12)

    def fit(model: keras.Model, epochs: int) -> dict:
        history = model.fit(images, labels, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
        return history.history

    through = make()
    through.compile(optimizer(), SPARSE, metrics=["accuracy"])
    of_through = fit(through, 2)
    model = make()
    model.compile(optimizer(), SPARSE, metrics=["accuracy"])
    fit(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.attack == ATTACK
    assert int(loaded.steps_taken) == 3
    for old, new in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    of_loaded = fit(loaded, 1)
    assert int(loaded.steps_taken) == int(through.steps_taken) == 6
    for name, values in of_loaded.items():
        assert values == of_through[name][1:], name
    states = [[*m.variables, *m.optimizer.variables] for m in (through, loaded)]
    for old, new in zip(*states, strict=True):
        np.testing.assert_array_equal(old, new, err_msg=old.path)


@pytest.mark.parametrize("case", CASES)
def test_hyper_parameters_come_back(case):
    """The configuration of the copy is that of the original; nothing of it depends on `compile`."""
    model = CASES[case][0]()
    again = type(model).from_config(model.get_config())
    keys = set(model.get_config()) - {"classifier", "name"}
    assert {k: model.get_config()[k] for k in keys} == {k: again.get_config()[k] for k in keys}
    assert again.seed == model.seed
    assert again.validation_attack == model.validation_attack
    assert again.joint_pass == model.joint_pass
    assert again.attack_in_training_mode == model.attack_in_training_mode


@pytest.mark.parametrize("given", ["auto", True, False])
def test_whether_to_compile_comes_back_as_it_was_given(tmp_path, given):
    """What "auto" means depends on the machine: XLA on one GPU, none under a strategy of several or on a CPU."""
    model = kr.AdversarialTraining(functional(), ATTACK)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=given)
    model.jit_compile = True  # as Keras resolves it on a GPU
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_compile_config()["jit_compile"] == given
    assert loaded.jit_compile == (given is True)


def test_predictions_and_weights_come_back(tmp_path, batch):
    """Also of a model never compiled, and through weights alone."""
    images, _ = batch()
    model = kr.AdversarialLogitPairing(functional(), ATTACK)
    model.steps_taken.assign(7)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    assert int(loaded.steps_taken) == 7
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = kr.AdversarialLogitPairing(functional(), ATTACK)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert int(fresh.steps_taken) == 7
    np.testing.assert_array_equal(fresh.predict(images, verbose=0), model.predict(images, verbose=0))


def test_metrics_come_back(tmp_path, batch):
    images, labels = batch()
    model = kr.AdversarialTraining(sequential(), ATTACK, clean_fraction=1.0)
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile("adam", SPARSE, metrics=["accuracy", top])
    names = set(model.fit(images, labels, verbose=0).history)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert set(loaded.fit(images, labels, verbose=0).history) == names
    assert names == {"loss", "accuracy", "top2", "robust_accuracy", "robust_top2"}


@pytest.mark.parametrize("make", [functional, sequential, Subclassed])
def test_clone_of_the_classifier_is_plain_keras(tmp_path, batch, make):
    """The classifier inside is the user's own model: it can be saved and used without the toolkit."""
    images, labels = batch()
    model = kr.AdversarialTraining(make(), ATTACK)
    model.compile("sgd", SPARSE)
    model.fit(images, labels, verbose=0)
    model.classifier.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(loaded(tf.constant(images)), model(tf.constant(images)))
