"""The checks for gradient masking on trained classifiers: weak defences are called masked, and no others."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import masking_checks

BALL = kr.Linf(0.3)
BATCH = 128
SUM = kr.losses.PairingLoss("l2", over_classes="sum")
pytestmark = pytest.mark.slow


def digits(split):
    """Returns images and labels of the embedded digits."""
    batches = kr.data.evaluation_batches("mnist_small", split, batch_size=10_000)
    return next(batches.as_numpy_iterator())


def suspicious(model):
    checks = masking_checks(model, digits("test[:200]"), BALL)
    print(*(f"{check.name}: {check.value} {check.reason}" for check in checks), sep="\n")
    return {check.name for check in checks if check.suspicious}


def train(make, epochs, rate):
    """Returns a method around LeNet, trained."""
    keras.utils.set_random_seed(0)
    images, labels = digits("train")
    model = make(kr.architectures.LeNet())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=2)
    assert np.mean(model.predict(digits("test")[0], verbose=0).argmax(1) == digits("test")[1]) > 0.95
    return model


def test_a_plain_classifier_is_not_masked():
    assert suspicious(train(kr.NaturalTraining, 6, 1e-3)) == set()


@pytest.mark.parametrize(
    "make",
    [
        lambda classifier: kr.LogitSqueezing(classifier, squeezing_loss=SUM, input_noise=0.5),
        lambda classifier: kr.CleanLogitPairing(classifier, pairing_loss=SUM, input_noise=0.5),
    ],
    ids=["logit squeezing", "clean logit pairing"],
)
def test_penalties_on_logits_mask_gradients(make):
    """Of Kannan et al. (2018), sections 4.2.2 and 4.2.3, with weight and noise of Mosbach et al. (2018)."""
    assert len(suspicious(train(make, 20, 1e-3))) >= 2


def test_adversarial_training_is_not_masked():
    attack = kr.attacks.PGD(BALL, steps=8, compute_dtype="bfloat16")
    rate = kr.optimizers.one_cycle(20 * -(-10_000 // BATCH), peak=2e-3)
    assert suspicious(train(lambda classifier: kr.AdversarialTraining(classifier, attack), 20, rate)) == set()
