"""The checks for gradient masking on trained classifiers: weak defences are called masked, and no others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation import masking_checks

BALL = kr.Linf(0.3)
BATCH = 128
pytestmark = pytest.mark.slow


def digits(split):
    """Returns images and labels of the embedded digits."""
    batches = kr.data.evaluation_batches("mnist_small", split, batch_size=10_000)
    return next(batches.as_numpy_iterator())


def suspicious(classifier):
    checks = masking_checks(classifier, digits("test[:200]"), BALL)
    print(*(f"{check.name}: {check.value} {check.reason}" for check in checks), sep="\n")
    return {check.name for check in checks if check.suspicious}


def train(penalty, noise, epochs):
    """Returns LeNet trained on cross-entropy and a penalty on the logits, with Gaussian noise on the images."""
    keras.utils.set_random_seed(0)
    images, labels = digits("train")
    classifier, optimizer = kr.architectures.LeNet(), keras.optimizers.Adam(1e-3)
    optimizer.build(classifier.trainable_variables)

    @tf.function
    def step(batch, targets):
        with tf.GradientTape() as tape:
            logits = classifier(batch + noise * tf.random.normal(tf.shape(batch)), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_mean(losses) + penalty(logits)
        optimizer.apply(tape.gradient(loss, classifier.trainable_variables), classifier.trainable_variables)

    shuffled = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in np.split(shuffled.permutation(len(images)), range(BATCH, len(images), BATCH))[:-1]:
            step(images[rows], labels[rows])
    assert np.mean(classifier.predict(digits("test")[0], verbose=0).argmax(1) == digits("test")[1]) > 0.95
    return classifier


def test_a_plain_classifier_is_not_masked():
    assert suspicious(train(lambda logits: 0.0, noise=0.0, epochs=6)) == set()


@pytest.mark.parametrize("defence", ["logit squeezing", "clean logit pairing"])
def test_penalties_on_logits_mask_gradients(defence):
    """Weight and noise are 0.5, as in Kannan et al. (2018), sections 4.2.2 and 4.2.3."""

    def squeezing(logits):
        return 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(logits), axis=1))

    def pairing(logits):
        return squeezing(logits[: BATCH // 2] - logits[BATCH // 2 :])

    penalty = squeezing if defence == "logit squeezing" else pairing
    assert len(suspicious(train(penalty, noise=0.5, epochs=20))) >= 2


def test_adversarial_training_is_not_masked():
    keras.utils.set_random_seed(0)
    images, labels = digits("train")
    epochs = 20
    attack = kr.attacks.PGD(BALL, steps=8, compute_dtype="bfloat16")
    model = kr.AdversarialTraining(kr.architectures.LeNet(), attack)
    rate = kr.optimizers.one_cycle(epochs * -(-len(images) // BATCH), peak=2e-3)
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=2)
    assert suspicious(model) == set()
