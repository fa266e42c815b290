"""A classifier behind an API, wrapped with `tf.numpy_function` as docs/evaluation.md has it."""

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

pytestmark = pytest.mark.graph

WEIGHTS = np.random.default_rng(0).normal(size=(16, 3))
IMAGES = np.random.default_rng(1).uniform(size=(30, 4, 4, 1)).astype(np.float32)


class Service:
    """A NumPy classifier that counts its images."""

    def __init__(self) -> None:
        self.images = 0

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.images += len(images)
        return images.reshape(len(images), -1) @ WEIGHTS


def wrapped(service: Service):
    def scores(images):
        return service.predict(images).astype("float32")

    def classifier(images):
        return tf.numpy_function(scores, [images], tf.float32)

    return classifier


@pytest.mark.graph
@pytest.mark.parametrize(
    "attack",
    [
        kr.attacks.Square(kr.Linf(0.2), queries=60),
        kr.attacks.SPSA(kr.Linf(0.2), steps=10, samples=16),
    ],
    ids=lambda attack: attack.name,
)
def test_it_is_attacked_as_if_it_were_in_tensorflow(attack):
    """The same accuracies as of the same classifier with static shapes; the static shape is the toolkit's affair."""
    labels = (IMAGES.reshape(30, -1) @ WEIGHTS).argmax(axis=1)

    def inside(images):
        return tf.reshape(images, (-1, 16)) @ tf.constant(WEIGHTS, tf.float32)

    service = Service()
    reports = [
        kr.evaluate(model, (IMAGES, labels), attack, batch_size=10, verbose=False)
        for model in (wrapped(service), inside)
    ]
    assert service.images > 100
    assert reports[0].clean_accuracy == 1.0
    assert reports[0].robust_accuracy == pytest.approx(reports[1].robust_accuracy, abs=0.1)
    assert reports[0].robust_accuracy < 0.9


def test_an_output_of_another_shape_is_refused():
    def classifier(images):
        return tf.numpy_function(lambda images: images.mean(axis=(1, 2, 3)), [images], tf.float32)

    with pytest.raises(ValueError, match="Received: an output of shape"):
        kr.evaluate(classifier, (IMAGES, np.zeros(30, int)), kr.attacks.Square(kr.Linf(0.2)), verbose=False)


def test_a_service_that_tells_the_class_alone_is_attacked():
    """As docs/evaluation.md has it: one image after another comes to the boundary, and nothing but classes is seen."""
    service = Service()

    def decisions(images):
        return 2 * np.eye(3, dtype="float32")[service.predict(images).argmax(axis=1)] - 1

    def classifier(images):
        return tf.numpy_function(decisions, [images], tf.float32)

    labels = (IMAGES.reshape(30, -1) @ WEIGHTS).argmax(axis=1)
    attack = kr.attacks.HopSkipJump(kr.L2(0.5), queries=400)
    report = kr.evaluate(classifier, (IMAGES, labels), attack, batch_size=10, keep_adversarials=True, verbose=False)
    pairs = WEIGHTS[:, :, None] - WEIGHTS[:, None]  # the nearest boundary of all, of a linear classifier
    gaps = np.take_along_axis(IMAGES.reshape(30, -1) @ WEIGHTS, labels[:, None], 1) - IMAGES.reshape(30, -1) @ WEIGHTS
    lengths = np.linalg.norm(pairs, axis=0)[labels]
    nearest = np.min(gaps / np.where(lengths == 0, np.inf, lengths), axis=1, where=lengths > 0, initial=np.inf)
    assert report.robust_accuracy >= np.mean(nearest > 0.5)
    assert report.robust_accuracy <= np.mean(nearest > 0.3)
    assert service.images < 30 * 400 + 200
