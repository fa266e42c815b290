"""One step of each method that changes what is attacked, and when, against a numerical gradient of its formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from softmax_regression import (
    CLASSES,
    CLEAN,
    COUNT,
    EPSILON,
    IMAGES,
    LABELS,
    ONE_HOT,
    RATE,
    SIZE,
    SPARSE,
    STEP,
    WEIGHT,
    attacked,
    check,
    cross_entropies,
    gradient,
    image_gradient,
    logits,
    parameters,
    train,
)

import keras_robust as kr
from keras_robust.core import seeds


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(("activity", "decay"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.02)])
def test_adversarial_weight_perturbation(linear_classifier, activity, decay, functional):
    """The update is the gradient at w + gamma ||w|| / ||g|| g, of the kernel alone; the logged loss is there, too.

    A penalty of `activity` times the squared norm of the logits is a part of the loss in both passes; weight decay has
    no part in g, and its own gradient is that at w. Keras 3.12 adds the penalty over the batch, later ones average it.
    """
    classifier = linear_classifier()
    classifier.layers[-1].activity_regularizer = keras.regularizers.L2(activity)
    classifier.layers[-1].kernel.regularizer = keras.regularizers.L2(decay)
    if functional:
        classifier = keras.Model(classifier.inputs, classifier.outputs)
    p = parameters(classifier)
    adversarial = attacked(p)
    probe = keras.layers.Activation("linear", activity_regularizer=keras.regularizers.L2(1.0))
    probe(np.ones((2, 1)))
    sums = float(probe.losses[0]) == 2

    def loss(q: np.ndarray) -> float:
        penalty = activity * (logits(q, adversarial) ** 2).sum(axis=1)
        return cross_entropies(q, adversarial).mean() + (penalty.sum() if sums else penalty.mean())

    kernel = np.arange(len(p)) < SIZE * CLASSES
    g = gradient(loss, p)
    v = np.where(kernel, 0.1 * np.linalg.norm(p[kernel]) / np.linalg.norm(g[kernel]) * g, 0)
    perturbation = kr.AdversarialWeightPerturbation(gamma=0.1)
    got, after = train(kr.AdversarialTraining(classifier, STEP, weight_perturbation=perturbation))
    np.testing.assert_allclose(got, loss(p + v) + decay * (p[kernel] ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(after, p - RATE * (gradient(loss, p + v) + 2 * decay * p * kernel), atol=3e-6)


@pytest.mark.parametrize(("scale", "moved"), [(1.0, 0.0), (2.0**15, 0.1), (2.0**40, 0.0)])
def test_weight_perturbation_in_float16(scale, moved):
    """Gradients of 1e-8 are zero in float16 without loss scaling; those of too large a scale are no numbers."""
    dense = keras.layers.Dense(CLASSES, dtype="mixed_float16", kernel_initializer="ones")
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])
    dense.bias.assign([16.0, 0.0, 0.0])  # 1e-7 is left of the probability of the other classes
    model = kr.AdversarialTraining(classifier, STEP)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=scale)
    model.compile(optimizer, SPARSE)
    model.steps_taken.assign(1)
    batch = ({"adversarial": tf.constant(IMAGES)}, tf.zeros(len(IMAGES), tf.int64), None)
    ((kernel, offset),) = kr.AdversarialWeightPerturbation(gamma=0.1).offsets(model, batch)
    np.testing.assert_allclose(tf.norm(offset), moved * np.linalg.norm(kernel), rtol=1e-3)


def test_weight_perturbation_begins_after_its_steps(linear_classifier):
    late = kr.AdversarialWeightPerturbation(gamma=0.5, after_steps=2)
    results = [
        train(kr.AdversarialTraining(linear_classifier(), STEP, weight_perturbation=w), batch_size=5, epochs=epochs)[1]
        for w, epochs in ((late, 1), (None, 1), (late, 2), (None, 2))
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    assert np.abs(results[2] - results[3]).max() > 1e-3


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("replays", [1, 3])
def test_free_adversarial_training(linear_classifier, replays, still):
    """Two batches: the perturbation starts at zero, grows with every replay and goes on with the second batch.

    Of some pixels it has been clipped, where it goes on or stands still.
    """
    classifier = linear_classifier()
    p, delta = parameters(classifier), np.zeros((5, SIZE))
    losses, clipped = [], 0
    for rows in (slice(0, 5), slice(5, 10)):
        for _ in range(replays):
            x = np.clip(CLEAN[rows] + delta, 0, 1)

            def loss(q: np.ndarray, x: np.ndarray = x, rows: slice = rows) -> float:
                return cross_entropies(q, x, ONE_HOT[rows]).mean()

            losses.append(loss(p))
            ascent = EPSILON * np.sign(image_gradient(p, x, ONE_HOT[rows]))
            outside = (CLEAN[rows] + delta < 0) | (CLEAN[rows] + delta > 1)
            clipped += outside.sum()
            p = p - RATE * gradient(loss, p)
            delta = np.clip(delta + np.where(outside & still, 0, ascent), -EPSILON, EPSILON)
    assert clipped > 0
    model = kr.FreeAdversarialTraining(classifier, STEP, replays=replays, still_when_clipped=still)
    got, after = train(model, batch_size=5)
    np.testing.assert_allclose(got, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after, p, atol=1e-5)
    assert int(model.optimizer.iterations) == 2 * replays
    assert int(model.steps_taken) == 2
    perturbation = model.replica_state["perturbation"].to_array().reshape(delta.shape)
    np.testing.assert_allclose(perturbation, delta, atol=1e-6)


def test_free_training_with_epsilon_0_is_replay(linear_classifier):
    """Natural training on a data set in which every batch comes three times (figure 1 of the paper)."""
    plain = linear_classifier()
    plain.compile(keras.optimizers.SGD(RATE), SPARSE)
    rows = np.concatenate([np.tile(np.arange(5), 3), np.tile(np.arange(5, 10), 3)])
    plain.fit(IMAGES[rows], LABELS[rows], batch_size=5, shuffle=False, verbose=0)
    still = kr.attacks.FGSM(kr.Linf(0.0))
    _, got = train(kr.FreeAdversarialTraining(linear_classifier(), still, replays=3), batch_size=5)
    np.testing.assert_allclose(got, parameters(plain), atol=1e-6)


def test_free_training_takes_a_smaller_last_batch(linear_classifier):
    model = kr.FreeAdversarialTraining(linear_classifier(), STEP, replays=2)
    value, _ = train(model, batch_size=4)
    assert np.isfinite(value)
    perturbation = model.replica_state["perturbation"].to_array()
    assert perturbation.shape == (4, 4, 4, 1)
    assert np.abs(perturbation).max() <= EPSILON


@pytest.mark.parametrize(("staleness", "weighted"), [(1, False), (3, True)])
def test_stale_adversarial_training(linear_classifier, staleness, weighted):
    """Each of five batches is trained on `staleness` steps late: as attacked when it came, its labels, its weights."""
    classifier = linear_classifier()
    start = p = parameters(classifier)
    weight = WEIGHT if weighted else np.ones(COUNT)
    queue, losses = [], []
    for rows in (slice(first, first + 2) for first in range(0, COUNT, 2)):
        queue.append((rows, attacked(p, CLEAN[rows], ONE_HOT[rows])))
        if len(queue) <= staleness:
            losses.append(0.0)
            continue

        def loss(q: np.ndarray, rows: slice = queue[0][0], x: np.ndarray = queue[0][1]) -> float:
            return (weight[rows] * cross_entropies(q, x, ONE_HOT[rows])).mean()

        losses.append(loss(p))
        p = p - RATE * gradient(loss, p)
        queue.pop(0)
    assert np.abs(p - start).max() > 0.1
    model = kr.StaleAdversarialTraining(classifier, STEP, staleness=staleness)
    value, after = train(model, batch_size=2, sample_weight=WEIGHT if weighted else None)
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after, p, atol=1e-5)


def test_nothing_is_learned_while_the_queue_is_filled(linear_classifier):
    classifier = linear_classifier()
    start = parameters(classifier)
    value, after = train(kr.StaleAdversarialTraining(classifier, STEP, staleness=2), batch_size=5)
    assert value == 0
    np.testing.assert_allclose(after, start, atol=1e-7)


def test_stale_training_needs_batches_of_one_size(linear_classifier):
    model = kr.StaleAdversarialTraining(linear_classifier(), STEP, staleness=2)
    with pytest.raises(ValueError, match="Received: 10 images in batches of 4"):
        train(model, batch_size=4)


def test_stale_training_counts_the_images_that_a_validation_split_leaves(linear_classifier):
    """Of 10 images 0.2 leaves 8, two batches of 4; 0.3 leaves 7."""
    train(kr.StaleAdversarialTraining(linear_classifier(), STEP, staleness=2), batch_size=4, validation_split=0.2)
    model = kr.StaleAdversarialTraining(linear_classifier(), STEP, staleness=2)
    with pytest.raises(ValueError, match="Received: 7 images in batches of 5"):
        train(model, batch_size=5, validation_split=0.3)


def test_staleness_0_is_adversarial_training(linear_classifier):
    attack = kr.attacks.PGD(kr.Linf(EPSILON), steps=2)
    _, stale = train(kr.StaleAdversarialTraining(linear_classifier(), attack, staleness=0), batch_size=5)
    _, fresh = train(kr.AdversarialTraining(linear_classifier(), attack), batch_size=5)
    np.testing.assert_array_equal(stale, fresh)


def test_fast_training_is_adversarial_training_of_one_step(linear_classifier):
    attack, strong = kr.attacks.PGD(kr.Linf(EPSILON), steps=1, step_size=0.125), kr.attacks.PGD(kr.Linf(EPSILON))
    model = kr.FastAdversarialTraining(linear_classifier(), attack, validation_attack=strong)
    _, fast = train(model, validation_data=(IMAGES, LABELS))
    np.testing.assert_allclose(fast, train(kr.AdversarialTraining(linear_classifier(), attack))[1], atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_ensemble_attacks_the_model_that_was_drawn(linear_classifier, seed):
    """The classifier itself, or one of two static models, by the draw of the step."""
    classifier, others = linear_classifier(), [linear_classifier(seed=1), linear_classifier(seed=2)]
    p = parameters(classifier)
    draw = seeds.fold_replica(seeds.fold(seeds.as_seed(seed), seeds.TRAINING, 0))
    index = int(seeds.integers((), seeds.fold(draw, 0), 3))
    x = attacked(parameters([classifier, *others][index]))
    model = kr.EnsembleAdversarialTraining(classifier, STEP, source_models=others, clean_fraction=0.0, seed=seed)
    check(train(model), lambda q: cross_entropies(q, x).mean(), p)


def test_an_ensemble_attacks_static_models_in_inference_mode_and_by_its_schedule():
    """Its own classifier in training mode, where half of the units are 0 (not so in inference); half of epsilon."""

    def make(seed: int) -> keras.Model:
        middle = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        dense = keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.GlorotUniform(seed))
        return keras.Sequential([keras.Input((4, 4, 1)), *middle, dense])

    own, other = make(0), make(1)
    options = {"attack_in_training_mode": True, "epsilon_schedule": kr.optimizers.PiecewiseLinear([0, 1], [0.5, 0.5])}
    model = kr.EnsembleAdversarialTraining(own, STEP, source_models=[other], **options)

    def agreement(x_adv: tf.Tensor, classifier: keras.Model, training: bool) -> float:
        x = tf.constant(IMAGES)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = SPARSE(LABELS, keras.models.clone_model(classifier)(x, training=training))
        expected = np.clip(IMAGES + EPSILON / 2 * np.sign(tape.gradient(loss, x)), 0, 1)
        return (np.abs(x_adv - expected) < 1e-6).mean()

    draws = set()
    for k in range(6):
        seed = tf.constant([0, k])
        draws.add(draw := int(seeds.integers((), seeds.fold(seed, 0), 2)))
        x_adv = model.perturb(tf.constant(IMAGES), tf.constant(LABELS), seed)
        classifier, training = [(own, True), (other, False)][draw]
        assert agreement(x_adv, classifier, training) > 0.99
        assert agreement(x_adv, own, False) < 0.95
    assert draws == {0, 1}


def test_a_static_model_that_would_freeze_the_classifier_is_refused(linear_classifier):
    classifier = linear_classifier()
    copy = keras.Model(classifier.inputs, classifier.outputs, name="view")
    for shared in (classifier, copy):
        with pytest.raises(ValueError, match=f"must share no weights with the classifier. Received: '{shared.name}'"):
            kr.EnsembleAdversarialTraining(classifier, STEP, source_models=[linear_classifier(seed=1), shared])


def test_the_draws_of_the_ensemble_differ():
    """The seeds of the test above draw more than one of the models."""
    draws = [seeds.fold(seeds.fold_replica(seeds.fold(seeds.as_seed(s), seeds.TRAINING, 0)), 0) for s in range(4)]
    assert len({int(seeds.integers((), draw, 3)) for draw in draws}) > 1


@pytest.mark.parametrize("taken", [0, 2, 4, 9])
def test_epsilon_schedule(linear_classifier, taken):
    """After `taken` of 4 steps of warm-up the attack has that fraction of epsilon and step."""
    classifier = linear_classifier()
    p, x = parameters(classifier), attacked(parameters(classifier), epsilon=EPSILON * min(taken / 4, 1))
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    model = kr.AdversarialTraining(classifier, STEP, epsilon_schedule=schedule)
    model.steps_taken.assign(taken)
    check(train(model), lambda q: cross_entropies(q, x).mean(), p)


def test_an_epsilon_schedule_needs_an_attack(linear_classifier):
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    with pytest.raises(ValueError, match="without an attack"):
        kr.NaturalTraining(linear_classifier(), epsilon_schedule=schedule)
