"""Pairing losses against NumPy."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.losses import PairingLoss, get_pairing_loss

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(size=(6, 4)).astype(np.float32) * 2
ADVERSARIAL = RNG.normal(size=(6, 4)).astype(np.float32) * 2
WEIGHT = RNG.uniform(size=6).astype(np.float32)
DIFFERENCES = {
    "l2": lambda d: d**2,
    "l1": np.abs,
    "huber": lambda d: np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5),
}


@pytest.mark.parametrize("kind", ["l2", "l1", "huber"])
@pytest.mark.parametrize("over_classes", ["mean", "sum"])
def test_values(kind, over_classes):
    """Reduced over classes as asked, then averaged over the 6 examples: weighted ones too are divided by 6."""
    distance = DIFFERENCES[kind](CLEAN.astype(np.float64) - ADVERSARIAL)
    per_example = getattr(np, over_classes)(distance, axis=1)
    loss = PairingLoss(kind, over_classes=over_classes)
    np.testing.assert_allclose(loss.call(CLEAN, ADVERSARIAL), per_example, rtol=1e-5)
    np.testing.assert_allclose(loss(CLEAN, ADVERSARIAL), per_example.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(CLEAN, ADVERSARIAL, WEIGHT), (WEIGHT * per_example).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(CLEAN, CLEAN), 0)


def test_by_hand():
    """Differences 3 and 0.5: squares 9 and 0.25, absolute 3 and 0.5, Huber 2.5 and 0.125."""
    a, b = np.array([[3.0, 0.5]], np.float32), np.zeros((1, 2), np.float32)
    values = [float(PairingLoss(kind, "sum")(a, b)) for kind in ("l2", "l1", "huber")]
    np.testing.assert_allclose(values, [9.25, 3.5, 2.625])


@pytest.mark.parametrize("kind", ["l2", "l1", "huber"])
def test_gradient_of_equal_logits_is_0(kind):
    logits = tf.constant(CLEAN)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = PairingLoss(kind)(CLEAN, logits)
    np.testing.assert_array_equal(tape.gradient(value, logits), 0 * CLEAN)


@pytest.mark.multi_device
def test_two_replicas_give_the_gradient_of_one(two_replicas):
    """Replicas' gradients are summed; half of the batch each, scaled by Keras, must add up to the whole batch's."""
    loss = PairingLoss("l2")

    def gradient(clean: tf.Tensor, adversarial: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            scale = tf.ones(())
            tape.watch(scale)
            value = loss(scale * clean, adversarial)
        return tape.gradient(value, scale)

    def half(context: tf.distribute.ReplicaContext) -> tf.Tensor:
        start = 3 * context.replica_id_in_sync_group
        return gradient(tf.constant(CLEAN)[start : start + 3], tf.constant(ADVERSARIAL)[start : start + 3])

    run = tf.function(lambda: two_replicas.run(lambda: half(tf.distribute.get_replica_context())))
    summed = two_replicas.reduce("SUM", run(), axis=None)
    np.testing.assert_allclose(summed, gradient(CLEAN, ADVERSARIAL), rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [PairingLoss(), PairingLoss("huber", "sum", name="p"), PairingLoss("l1", reduction="sum")]
)
def test_serialisation_round_trip(loss):
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.get_config() == loss.get_config()
    np.testing.assert_allclose(again(CLEAN, ADVERSARIAL), loss(CLEAN, ADVERSARIAL))


def test_get_pairing_loss():
    loss = PairingLoss("l1")
    assert get_pairing_loss(loss) is loss
    assert get_pairing_loss("huber").get_config() == PairingLoss("huber").get_config()


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: PairingLoss("cosine"), "'cosine'"),
        (lambda: PairingLoss(None), "None"),
        (lambda: PairingLoss("l2", over_classes="max"), "over_classes='max'"),
        (lambda: get_pairing_loss(["l2"]), "['l2']"),
        (lambda: get_pairing_loss(keras.losses.MeanSquaredError()), "mean_squared_error"),
    ],
)
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)
