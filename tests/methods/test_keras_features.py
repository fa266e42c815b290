"""What Keras offers beyond a plain fit goes on working: batch statistics, precision, accumulation, callbacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.1), steps=2)


def fit(model: keras.Model, data, batch_size: int = 4, optimizer=None, epochs: int = 1, **options) -> dict:
    model.compile(optimizer or keras.optimizers.SGD(0.1), SPARSE, metrics=["accuracy"], **options)
    history = model.fit(*data, batch_size=batch_size, shuffle=False, epochs=epochs, verbose=0)
    return history.history


def statistics(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(v) for v in model.variables if "moving" in v.path]


def test_joint_pass_makes_no_difference_without_batch_norm(conv_classifier, batch):
    weights = []
    for joint_pass in (True, False):
        model = kr.AdversarialLogitPairing(conv_classifier(), ATTACK, joint_pass=joint_pass)
        fit(model, batch())
        weights.append(model.get_weights())
    for joint, apart in zip(*weights, strict=True):
        np.testing.assert_allclose(joint, apart, atol=1e-6)


@pytest.fixture
def normalizing() -> keras.Model:
    """Logits of a batch normalisation of the images, momentum 0.9, of weights that hardly train."""
    normalization = keras.layers.BatchNormalization(momentum=0.9)
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), normalization, keras.layers.Dense(3)])


@pytest.mark.parametrize("joint_pass", [True, False])
def test_batch_statistics_of_joint_and_separate_passes(normalizing, batch, joint_pass):
    """One pass moves the mean by 0.1 of the mixture's; two move it by 0.1 of each, clean first.

    The moving mean starts at 0: 0.1 (c + a) / 2, or 0.9 * 0.1 c + 0.1 a.
    """
    images, labels = batch(shape=(4, 4, 1))
    attack = kr.attacks.FGSM(kr.Linf(0.1))
    adversarial = np.asarray(attack(lambda x: normalizing(x, training=False), images, labels, 0)).reshape(8, -1)
    clean, attacked = images.reshape(8, -1).mean(axis=0), adversarial.mean(axis=0)
    expected = 0.05 * (clean + attacked) if joint_pass else 0.09 * clean + 0.1 * attacked
    model = kr.AdversarialTraining(normalizing, attack, clean_fraction=1.0, joint_pass=joint_pass)
    fit(model, (images, labels), batch_size=8)
    np.testing.assert_allclose(statistics(model)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("training_mode", [False, True])
def test_the_attack_leaves_batch_statistics_alone(conv_classifier, batch, training_mode):
    """An attack of epsilon 0 with 5 steps must move them as a plain step of Keras does; evaluation not at all."""
    data = batch()
    attack = kr.attacks.PGD(kr.Linf(0.0), steps=5)
    plain = conv_classifier(batch_norm=True)
    fit(plain, data)
    classifier = conv_classifier(batch_norm=True)
    model = kr.AdversarialTraining(classifier, attack, validation_attack=attack, attack_in_training_mode=training_mode)
    fit(model, data)
    for old, new in zip(plain.get_weights(), classifier.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)
    before = statistics(model)
    model.evaluate(*data, verbose=0)
    for old, new in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_attack_in_training_mode_uses_batch_statistics(normalizing, batch):
    """FGSM through batch statistics, by a tape on the classifier in training mode, moves the statistics' mean."""
    images, labels = batch(shape=(4, 4, 1))
    attack = kr.attacks.FGSM(kr.Linf(0.1))
    found = {}
    for training in (False, True):
        model = kr.AdversarialTraining(normalizing, attack, attack_in_training_mode=training)
        found[training] = np.asarray(model.perturb(tf.constant(images), tf.constant(labels), tf.constant([0, 0])))
        with tf.GradientTape() as tape:
            x = tf.constant(images)
            tape.watch(x)
            copy = keras.models.clone_model(normalizing)
            copy.set_weights(normalizing.get_weights())
            loss = SPARSE(labels, copy(x, training=training))
        expected = np.clip(images + 0.1 * np.sign(tape.gradient(loss, x)), 0, 1)
        assert (np.abs(found[training] - expected) < 1e-6).mean() > 0.98
    assert np.abs(found[True] - found[False]).max() > 0.1


def test_frozen_statistics_are_frozen_in_attacks_in_training_mode_too(normalizing, batch):
    images, labels = batch(shape=(4, 4, 1))
    found = []
    for training in (False, True):
        model = kr.AdversarialTraining(normalizing, kr.attacks.FGSM(kr.Linf(0.1)), attack_in_training_mode=training)
        model.batch_statistics_frozen = True
        found.append(np.asarray(model.perturb(tf.constant(images), tf.constant(labels), tf.constant([0, 0]))))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("joint_pass", [True, False])
def test_a_last_batch_of_one_image_keeps_statistics_finite(normalizing, batch, joint_pass):
    """round(0.4 * 1) = 0 clean images: their statistics do not exist and must not be averaged in."""
    images, labels = batch(count=5, shape=(4, 4, 1))
    model = kr.AdversarialTraining(normalizing, ATTACK, clean_fraction=0.4, joint_pass=joint_pass)
    history = fit(model, (images, labels), batch_size=4)
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_mixed_bfloat16_classifier_trains(batch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_bfloat16")]
        model = kr.AdversarialLogitPairing(keras.Sequential(layers), ATTACK, validation_attack=ATTACK)
    finally:
        keras.config.set_dtype_policy("float32")
    history = fit(model, batch(count=16), optimizer=keras.optimizers.SGD(0.05), epochs=6)
    assert history["loss"][-1] < history["loss"][0]
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    assert np.isfinite(model.evaluate(*batch(), verbose=0)).all()


def test_feature_pairing_returns_float32_logits(batch):
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(name="flat"), keras.layers.Dense(3, dtype="mixed_bfloat16")]
    model = kr.FeaturePairing(keras.Sequential(layers), ATTACK, layers=["flat"])
    images, _ = batch()
    assert model(images).dtype == "float32"
    assert model({"clean": tf.constant(images)}, training=True)["clean"].dtype == "float32"


def test_low_precision_attack_in_fit(conv_classifier, batch):
    """Only the attack is in bfloat16: the loss is close to float32's and the classifier stays float32."""
    losses = []
    for compute_dtype in (None, "bfloat16"):
        attack = kr.attacks.PGD(kr.Linf(0.1), steps=2, compute_dtype=compute_dtype)
        model = kr.AdversarialTraining(conv_classifier(), attack)
        losses.append(fit(model, batch())["loss"][0])
        assert model.predict(batch()[0], verbose=0).dtype == np.float32
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_loss_scaling_and_float16(conv_classifier, batch):
    """A LossScaleOptimizer multiplies the loss before and divides the gradient after: the same weights."""
    weights = []
    for wrap in (lambda o: o, lambda o: keras.optimizers.LossScaleOptimizer(o, initial_scale=1024.0)):
        model = kr.AdversarialLogitPairing(conv_classifier(), ATTACK)
        fit(model, batch(), optimizer=wrap(keras.optimizers.SGD(0.1)))
        weights.append(model.classifier.get_weights())
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, scaled, atol=1e-5)


@pytest.mark.graph
@pytest.mark.parametrize("method", ["logit_pairing", "free"])
def test_a_classifier_in_float16_is_trained_with_loss_scaling(batch, method):
    """A scale of 2**40 overflows: until it is halved often enough, steps are skipped and nothing becomes NaN."""
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_float16")]
    classifier = keras.Sequential(layers)
    if method == "free":
        model = kr.FreeAdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.1)), replays=4)
    else:
        model = kr.AdversarialLogitPairing(classifier, ATTACK, validation_attack=ATTACK)
    before = classifier.get_weights()[0]
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0**40)
    fit(model, batch(count=64), optimizer=optimizer, epochs=4)
    assert model.optimizer is optimizer
    assert 0 < float(optimizer.dynamic_scale) < 2.0**40
    assert np.abs(classifier.get_weights()[0] - before).max() > 1e-3
    if method == "free":
        assert np.isfinite(model.replica_state["perturbation"].to_array()).all()
    assert np.isfinite(model.evaluate(*batch(), verbose=0)).all()
    assert model.predict(batch()[0], verbose=0).dtype == np.float32


@pytest.mark.graph
def test_gradient_accumulation(conv_classifier, batch):
    """Two steps of half a batch make one update of their mean; the draws' counter counts each of them."""
    attack = kr.attacks.FGSM(kr.Linf(0.1))
    whole = kr.AdversarialTraining(conv_classifier(), attack)
    fit(whole, batch(), batch_size=8, optimizer=keras.optimizers.SGD(0.1))
    halves = kr.AdversarialTraining(conv_classifier(), attack)
    fit(halves, batch(), batch_size=4, optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    assert int(whole.steps_taken) == 1
    assert int(halves.steps_taken) == 2
    for one, two in zip(whole.classifier.get_weights(), halves.classifier.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.graph
def test_steps_per_execution(conv_classifier, batch):
    models = [kr.AdversarialTraining(conv_classifier(), ATTACK) for _ in range(2)]
    for steps, model in enumerate(models, start=1):
        fit(model, batch(count=16), steps_per_execution=steps)
        assert int(model.steps_taken) == 4
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_random_starts_differ_from_step_to_step_and_with_the_seed(linear_classifier, batch):
    """With tiny steps and no learning the loss is that of the starts: the same images give another loss."""
    attack = kr.attacks.PGD(kr.Linf(0.3), steps=1, step_size=1e-6)
    losses = []
    for seed in (0, 0, 1):
        model = kr.AdversarialTraining(linear_classifier(), attack, seed=seed)
        data = batch(shape=(4, 4, 1))
        losses.append(fit(model, data, batch_size=8, optimizer=keras.optimizers.SGD(0.0), epochs=3)["loss"])
    assert losses[0] == losses[1]
    assert len({*losses[0], *losses[2]}) == 6


def test_predict_returns_logits(conv_classifier, batch):
    classifier = conv_classifier()
    model = kr.AdversarialLogitPairing(classifier, ATTACK)
    images, _ = batch()
    expected = classifier(images, training=False)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(model(images), expected, atol=1e-6)


def test_evaluate_without_training(conv_classifier, batch):
    """The loss on clean images, of the loss given to `compile`."""
    images, labels = batch()
    classifier = conv_classifier()
    model = kr.AdversarialLogitPairing(classifier, ATTACK)
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert float(result["loss"]) == pytest.approx(float(SPARSE(labels, classifier(images))), rel=1e-5)


def test_a_subclassed_classifier_without_a_known_shape(batch):
    """Built at the first batch."""

    class Plain(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

        def call(self, images):
            return self.dense(self.flatten(images))

    model = kr.AdversarialTraining(Plain(), ATTACK, clean_fraction=0.5)
    history = fit(model, batch(count=16), epochs=5, optimizer=keras.optimizers.SGD(0.05))
    assert history["loss"][-1] < history["loss"][0]
