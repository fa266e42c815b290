"""The virtual adversarial perturbation, against the Hessian of the divergence."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks import VirtualAdversarial
from keras_robust.attacks.virtual_adversarial import PROBE


def assert_first_eigenvector(classifier, images, alike: float, **options) -> None:
    """Of softmax regression the Hessian of KL at d = 0, the limit of short probes, is W (diag(p) - p p^T) W^T."""
    attack = VirtualAdversarial(kr.L2(0.1), **options)
    moved = attack(kr.attacks.as_model_fn(classifier), images, np.zeros(3, "int64"), 0).numpy() - images
    p = keras.ops.convert_to_numpy(keras.ops.softmax(classifier(images)))
    w = np.asarray(classifier.get_weights()[0], np.float64)
    for delta, probability in zip(moved.reshape(3, -1), p, strict=True):
        hessian = w @ (np.diag(probability) - np.outer(probability, probability)) @ w.T
        first = np.linalg.eigh(hessian)[1][:, -1]
        np.testing.assert_allclose(np.linalg.norm(delta), 0.1, rtol=1e-4)
        assert abs(delta @ first) / 0.1 > alike


def test_power_iteration_finds_the_first_eigenvector(linear_classifier):
    images = np.random.default_rng(0).uniform(0.4, 0.6, (3, 4, 4, 1)).astype("float32")
    assert_first_eigenvector(linear_classifier(seed=3), images, 0.999, power_iterations=30, probe=0.01)


@pytest.mark.parametrize(("probe", "alike"), [(1e-6, 1 - 1e-9), (PROBE, 0.99)])
def test_shorter_probes_come_nearer_in_float64(float64, linear_classifier, probe, alike):
    images = np.random.default_rng(0).uniform(0.4, 0.6, (3, 4, 4, 1))
    assert_first_eigenvector(linear_classifier(seed=3), images, alike, power_iterations=100, probe=probe)


@pytest.mark.parametrize("ball", [kr.Linf(0.2), kr.L2(0.5), kr.L1(3.0)])
def test_stays_in_ball_and_range(linear_classifier, batch, ball):
    images, labels = batch(shape=(4, 4, 1))
    attacked = VirtualAdversarial(ball)(kr.attacks.as_model_fn(linear_classifier()), images, labels, 1)
    assert float(np.max(ball.distance(attacked, images))) <= ball.epsilon * (1 + 1e-5)
    assert attacked.numpy().min() >= 0
    assert attacked.numpy().max() <= 1
    assert np.abs(attacked - images).max() > 0.01


def test_round_trip_and_name():
    attack = VirtualAdversarial(kr.L2(1.5), power_iterations=2, probe=0.01)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(attack)) == attack
    assert attack.name == "Virtual adversarial (L2 1.5, 2 power iterations, probe 0.01)"
    assert VirtualAdversarial(kr.L2(1.5)).name == "Virtual adversarial (L2 1.5, 1 power iteration)"


ERRORS = [
    (lambda: VirtualAdversarial(1.5), "threat_model=1.5 of type float"),
    (lambda: VirtualAdversarial(kr.L2), "of type type"),
    (lambda: VirtualAdversarial(kr.L2(1.0), power_iterations=0), "power_iterations=0"),
    (lambda: VirtualAdversarial(kr.L2(1.0), power_iterations=1.5), "power_iterations=1.5"),
    (lambda: VirtualAdversarial(kr.L2(1.0), probe=0.0), "probe=0.0"),
    (lambda: VirtualAdversarial(kr.L2(1.0), probe=float("nan")), "probe=nan"),
    (lambda: VirtualAdversarial(kr.L2(1.0), probe=float("inf")), "probe=inf"),
    (lambda: VirtualAdversarial(kr.L2(1.0), probe="a"), "probe='a'"),
    (lambda: VirtualAdversarial(kr.L2(1.0), compute_dtype="int8"), "compute_dtype='int8'"),
]


@pytest.mark.parametrize(("make", "received"), ERRORS, ids=[received for _, received in ERRORS])
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)


def test_targets_are_refused(linear_classifier, batch):
    images, labels = batch(shape=(4, 4, 1))
    with pytest.raises(ValueError, match="takes no targets"):
        VirtualAdversarial(kr.L2(1.0))(kr.attacks.as_model_fn(linear_classifier()), images, labels, 0, labels)
