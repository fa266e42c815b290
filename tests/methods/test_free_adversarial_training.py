"""Free adversarial training: what of its attack, of the weights and of the classifier's mode it uses."""

import keras
import numpy as np
import pytest
from softmax_regression import (
    CLEAN,
    EPSILON,
    IMAGES,
    LABELS,
    RATE,
    SPARSE,
    WEIGHT,
    cross_entropies,
    gradient,
    image_gradient,
    parameters,
    train,
)

import keras_robust as kr

BALL = kr.Linf(EPSILON)


def test_weighted_examples_and_a_step_of_l2(linear_classifier):
    """Two replays: the step has length 0.03 along each gradient; weights multiply the losses, not the step."""
    classifier = linear_classifier()
    p, delta, losses = parameters(classifier), np.zeros_like(CLEAN), []
    for _ in range(2):
        x = np.clip(CLEAN + delta, 0, 1)

        def loss(q: np.ndarray, x: np.ndarray = x) -> float:
            return (WEIGHT * cross_entropies(q, x)).mean()

        losses.append(loss(p))
        ascent = image_gradient(p, x)
        delta = delta + 0.03 * ascent / np.linalg.norm(ascent, axis=1, keepdims=True)
        delta *= np.minimum(1, 0.05 / np.linalg.norm(delta, axis=1, keepdims=True))
        p = p - RATE * gradient(loss, p)
    attack = kr.attacks.PGD(kr.L2(0.05), steps=1, step_size=0.03, random_start="none")
    model = kr.FreeAdversarialTraining(classifier, attack, replays=2)
    value, after = train(model, sample_weight=WEIGHT)
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after, p, atol=3e-6)
    perturbation = model.replica_state["perturbation"].to_array().reshape(delta.shape)
    np.testing.assert_allclose(perturbation, delta, atol=1e-6)


def test_the_loss_of_a_smaller_last_batch_counts_by_its_images(linear_classifier):
    """Without learning and perturbation the logged loss is the mean over all 10 images, in batches of 4, 4 and 2."""
    model = kr.FreeAdversarialTraining(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.0)), replays=2)
    model.compile(keras.optimizers.SGD(0.0), SPARSE)
    history = model.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [cross_entropies(parameters(linear_classifier()), CLEAN).mean()], 1e-5)


def test_it_trains_in_training_mode(conv_classifier, batch):
    """With epsilon 0 and one replay it is a step of Keras: by batch statistics, which move the averages."""
    images, labels = batch()
    plain = conv_classifier(batch_norm=True)
    free = kr.FreeAdversarialTraining(conv_classifier(batch_norm=True), kr.attacks.FGSM(kr.Linf(0.0)), replays=1)
    for model in (plain, free):
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
        model.fit(images, labels, batch_size=8, verbose=0)
    for got, expected in zip(free.classifier.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


IGNORED = {
    "steps": (lambda: kr.attacks.BIM(BALL, steps=2), "attack=PGD"),
    "another attack": (lambda: kr.attacks.Square(BALL), "attack=Square"),
    "objective": (lambda: kr.attacks.FGSM(BALL, objective="margin"), "objective='margin'"),
    "objective as an object": (lambda: kr.attacks.FGSM(BALL, objective=kr.core.Margin(3.0)), "objective=Margin"),
    "target": (lambda: kr.attacks.FGSM(BALL, target="least_likely"), "target='least_likely'"),
    "uniform start": (lambda: kr.attacks.PGD(BALL, steps=1), "random_start='uniform'"),
    "start of signs": (lambda: kr.attacks.RFGSM(BALL), "random_start='sign', start_radius=0.05"),
    "clean start": (lambda: kr.attacks.FGSM(BALL, clean_start_probability=0.2), "clean_start_probability=0.2"),
    "restarts": (lambda: kr.attacks.PGD(BALL, steps=1, restarts=2), "restarts=2"),
    "passes": (lambda: kr.attacks.FGSM(BALL, eot_iter=2), "eot_iter=2"),
    "precision": (lambda: kr.attacks.FGSM(BALL, compute_dtype="bfloat16"), "compute_dtype='bfloat16'"),
}


@pytest.mark.parametrize("option", IGNORED)
def test_options_of_the_attack_that_it_would_ignore_are_refused(linear_classifier, option):
    make, received = IGNORED[option]
    with pytest.raises(ValueError, match="Received: ") as error:
        kr.FreeAdversarialTraining(linear_classifier(), make())
    assert received in str(error.value).partition("Received: ")[2]


@pytest.mark.parametrize("step_size", [None, 0.2, 0.02])
def test_any_step_size_and_the_cross_entropy_as_an_object_are_taken(linear_classifier, step_size):
    options = {"steps": 1, "step_size": step_size, "random_start": "none", "objective": kr.core.CrossEntropy()}
    attack = kr.attacks.PGD(BALL, **options)
    assert kr.FreeAdversarialTraining(linear_classifier(), attack).attack == attack
