"""What a worker makes of a batch, in this process."""

import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.distribution import Crafter
from keras_robust.distribution.crafter import recipe

ATTACK = kr.attacks.PGD(kr.Linf(0.1), steps=2)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def rebuilt(model, step=0):
    """Returns a crafter with the weights of `model`."""
    crafter = Crafter(**recipe(model))
    crafter.set_weights(model.get_weights(), step)
    return crafter


def test_it_attacks_as_the_model_does(conv_classifier, batch):
    """Without a random start: what `perturb` returns, with the step of its weights."""
    still = kr.attacks.PGD(kr.Linf(0.1), steps=2, random_start="none")
    model = kr.AdversarialLogitPairing(conv_classifier(batch_norm=True), still, attack_in_training_mode=True)
    images, labels = batch()
    attacked, step = rebuilt(model, 17).craft(3, images, labels)
    np.testing.assert_allclose(attacked, model.perturb(images, labels, kr.core.seeds.as_seed(0)), atol=1e-6)
    assert attacked.dtype == images.dtype
    assert step == 17


def test_it_attacks_a_classifier_that_was_adapted_to_its_images(batch):
    """Without its mean and variance, the inputs of the first layer would be a tenth as large."""
    images, labels = batch(shape=(4, 4, 1))
    normalize = keras.layers.Normalization(axis=None)
    normalize.adapt(0.1 * images)
    kernel = keras.initializers.RandomNormal(seed=0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "relu", kernel_initializer=kernel), keras.layers.Dense(3)]
    classifier = keras.Sequential([keras.Input((4, 4, 1)), normalize, *layers])
    still = kr.attacks.PGD(kr.Linf(0.1), steps=2, random_start="none")
    model = kr.AdversarialTraining(classifier, still)
    attacked, _ = rebuilt(model).craft(0, images, labels)
    np.testing.assert_allclose(attacked, model.perturb(images, labels, kr.core.seeds.as_seed(0)), atol=1e-6)


def test_random_starts_depend_on_ticket_and_seed(linear_classifier, batch):
    images, labels = batch(shape=(4, 4, 1))
    crafters = [rebuilt(kr.AdversarialTraining(linear_classifier(), ATTACK, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (crafter.craft(5, images, labels)[0] for crafter in crafters)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, crafters[0].craft(6, images, labels)[0])


def test_new_weights_are_used_without_another_compilation(linear_classifier, batch):
    """With the signs of all weights turned, gradients of the same labels turn too, and so do attacks."""
    images, labels = batch(shape=(4, 4, 1))
    still = kr.attacks.FGSM(kr.Linf(0.1))
    model = kr.AdversarialTraining(linear_classifier(classes=2), still)
    crafter = rebuilt(model)
    before = crafter.craft(0, images * 0 + 0.5, labels % 2)[0]
    crafter.set_weights([*(-w for w in model.get_weights()[:-1]), model.get_weights()[-1]], 9)
    after, step = crafter.craft(0, images * 0 + 0.5, labels % 2)
    np.testing.assert_allclose(before - 0.5, 0.5 - after, atol=1e-6)
    assert step == 9


def test_weights_of_the_schedule_count(linear_classifier, batch):
    """Epsilon rises from 0 to 0.1 in 4 steps: a worker has the number of steps taken with the weights."""
    images, labels = batch(shape=(4, 4, 1))
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    model = kr.AdversarialTraining(linear_classifier(), ATTACK, epsilon_schedule=schedule)
    largest = []
    for step in (0, 2, 4):
        model.steps_taken.assign(step)
        largest.append(np.abs(rebuilt(model).craft(0, images, labels)[0] - images).max())
    np.testing.assert_allclose(largest, [0, 0.05, 0.1], atol=1e-6)


def test_source_models_have_their_weights(linear_classifier, batch):
    """Ensemble training attacks one of two models; some tickets choose the static one."""
    images, labels = batch(shape=(4, 4, 1))
    model = kr.EnsembleAdversarialTraining(
        linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)), source_models=[linear_classifier(seed=1)]
    )
    crafter = rebuilt(model)
    expected = [
        kr.attacks.FGSM(kr.Linf(0.1))(kr.attacks.as_model_fn(source), images, labels, seed=0)
        for source in (model.classifier, model.source_models[0])
    ]
    attacks = [crafter.craft(ticket, images, labels)[0] for ticket in range(8)]
    found = {int(np.argmin([np.abs(attack - each).max() for each in expected])) for attack in attacks}
    assert found == {0, 1}
    assert all(min(np.abs(attack - each).max() for each in expected) < 1e-6 for attack in attacks)


def test_the_recipe_holds_no_optimizer_and_what_the_script_defines(linear_classifier, monkeypatch):
    """A registered class of `__main__` is sent along, as another process cannot import it."""

    @keras.saving.register_keras_serializable("test_crafter")
    class Scale(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    monkeypatch.setattr(Scale, "__module__", "__main__")
    classifier = keras.Sequential([keras.Input((4, 4, 1)), Scale(), keras.layers.Flatten(), keras.layers.Dense(3)])
    model = kr.AdversarialTraining(classifier, ATTACK)
    model.compile("adam", LOSS)
    made = recipe(model)
    assert "adam" not in json.dumps(made["config"]).lower()
    assert made["custom_objects"] == {"test_crafter>Scale": Scale}


def test_weights_that_do_not_fit_are_an_error(linear_classifier):
    crafter = rebuilt(kr.AdversarialTraining(linear_classifier(), ATTACK))
    with pytest.raises(ValueError, match="set_weights"):
        crafter.set_weights([np.zeros(3)], 0)
