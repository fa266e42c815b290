"""Batches that were attacked elsewhere, for every method: trained on as they are, or attacked by the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from makers import BALL, METHODS

import keras_robust as kr
from keras_robust.distribution.crafted_batches import CRAFTED_AT, NOT_CRAFTED, TrainsOnCraftedBatches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACKED = sorted(set(METHODS) - {"natural", "clean pairing", "squeezing", "mixup", "free", "stale"})


def compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"], **options)
    return model


def crafted(images, labels, adversarial=None, crafted_at=(NOT_CRAFTED,), batch_size=4):
    """A data set of crafted batches, one for each entry of `crafted_at`."""
    adversarial = images if adversarial is None else adversarial
    when = np.repeat(np.asarray(crafted_at, np.int32), batch_size)
    parts = {"clean": images, "adversarial": adversarial, CRAFTED_AT: when}
    return tf.data.Dataset.from_tensor_slices((parts, labels)).batch(batch_size, drop_remainder=True)


def fit(model, data, **options):
    with TrainsOnCraftedBatches(model):
        return model.fit(data, shuffle=False, verbose=0, **options).history


def assert_same_weights(one, two, atol=1e-6):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("method", ATTACKED)
def test_a_batch_that_was_not_crafted_is_attacked_by_the_step(conv_classifier, batch, method):
    """Two steps on plain images, and on the same in dicts, with random starts."""
    images, labels = batch(count=8)
    plain, other = (compiled(METHODS[method](conv_classifier(batch_norm=True))) for _ in range(2))
    options = {"validation_data": (images, labels)} if method == "fast" else {}
    expected = fit(plain, tf.data.Dataset.from_tensor_slices((images, labels)).batch(4), **options)
    history = fit(other, crafted(images, labels, crafted_at=[NOT_CRAFTED] * 2), **options)
    assert history.pop("staleness") == [0.0]
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, atol=1e-6, err_msg=name)
    assert_same_weights(plain, other)


@pytest.mark.parametrize(
    ("make", "jit_compile"),
    [
        *((make, False) for make in (kr.AdversarialTraining, kr.AdversarialLogitPairing, kr.TRADES)),
        pytest.param(kr.AdversarialLogitPairing, True, marks=pytest.mark.xla),
    ],
)
def test_a_crafted_batch_is_not_attacked_again(conv_classifier, batch, make, jit_compile):
    """With the clean images for attacked ones, a model learns what it learns from an attack that does nothing."""
    images, labels = batch(count=8)
    nothing, something = kr.attacks.PGD(kr.Linf(0.0), steps=1), kr.attacks.PGD(kr.Linf(0.3), steps=2)
    plain, other = compiled(make(conv_classifier(), nothing)), compiled(make(conv_classifier(), something))
    fit(plain, tf.data.Dataset.from_tensor_slices((images, labels)).batch(4))
    other.jit_compile = jit_compile
    fit(other, crafted(images, labels, crafted_at=[0, 1]))
    assert_same_weights(plain, other, 1e-5)
    assert int(other.steps_taken.numpy()) == 2


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.xla)])
def test_staleness_is_logged_exactly_and_in_such_training_only(linear_classifier, batch, jit_compile):
    """Weights of steps 0, 0, none and 1 at steps 0, 1, 2 and 3 are 0, 1, 0 and 2 steps old."""
    images, labels = batch(count=16, shape=(4, 4, 1))
    model = kr.AdversarialTraining(linear_classifier(), kr.attacks.FGSM(BALL), validation_attack=kr.attacks.FGSM(BALL))
    compiled(model, jit_compile=jit_compile)
    options = {"validation_data": (images, labels)}
    history = fit(model, crafted(images, labels, crafted_at=[0, 0, NOT_CRAFTED, 1]), **options)
    assert history["staleness"] == [0.75]
    assert "val_staleness" not in history
    assert "staleness" not in fit(model, tf.data.Dataset.from_tensor_slices((images, labels)).batch(4))
    assert fit(model, crafted(images, labels, crafted_at=[8] * 4))["staleness"] == [1.5]


@pytest.mark.multi_device
def test_two_replicas_give_the_weights_of_one(two_replicas, conv_classifier, batch):
    """Crafted batches and others alternate; both replicas see the same images, so random starts are left out."""
    images, labels = batch(count=8)
    adversarial = images[::-1].copy()
    still = kr.attacks.PGD(BALL, steps=1, random_start="none")
    one = compiled(kr.AdversarialLogitPairing(conv_classifier(), still))
    with two_replicas.scope():
        two = compiled(kr.AdversarialLogitPairing(conv_classifier(), still))
    histories = [
        fit(model, crafted(images, labels, adversarial, [0, NOT_CRAFTED], 4), epochs=2) for model in (one, two)
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, atol=1e-5, err_msg=name)
    assert histories[0]["staleness"] == [0.0, 1.0]
    assert_same_weights(one, two, 1e-5)


def test_models_are_saved_as_without_staleness(linear_classifier, batch, tmp_path):
    images, labels = batch(count=4, shape=(4, 4, 1))
    model = compiled(kr.AdversarialTraining(linear_classifier(), kr.attacks.FGSM(BALL)))
    fit(model, crafted(images, labels, crafted_at=[0]))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_weights(model, loaded, 0)
    assert "staleness" not in fit(loaded, tf.data.Dataset.from_tensor_slices((images, labels)).batch(4))


REFUSED = {
    "a part is missing": (lambda x: {"clean": x["clean"], CRAFTED_AT: x[CRAFTED_AT]}, r"a dict of \['clean', 'crafted"),
    "no clean images": (lambda x: {k: v for k, v in x.items() if k != "clean"}, r"a dict of \['adversarial', 'cr"),
    "not crafted at all": (lambda x: {"adversarial": x["adversarial"]}, "Received: a dict"),
    "shapes differ": (lambda x: {**x, "adversarial": x["adversarial"][:, :3]}, r"adversarial of shape \(4, 3, 4, 1\)"),
    "attacked images out of bounds": (lambda x: {**x, "adversarial": x["adversarial"] + 2}, "images from 2"),
    "clean images out of bounds": (lambda x: {**x, "clean": x["clean"] + 2}, "images from 2"),
    "not an integer": (lambda x: {**x, CRAFTED_AT: x[CRAFTED_AT] + 0.5}, "float"),
    "not of the whole batch": (lambda x: {**x, CRAFTED_AT: np.arange(4)}, r"values \[0 1 2 3\]"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_crafted_batches_are_checked(linear_classifier, batch, mistake):
    change, message = REFUSED[mistake]
    images, labels = batch(count=4, shape=(4, 4, 1))
    parts = change({"clean": images, "adversarial": images, CRAFTED_AT: np.zeros(4, np.int32)})
    model = compiled(kr.AdversarialTraining(linear_classifier(), kr.attacks.FGSM(BALL)))
    with pytest.raises(ValueError, match=message):
        fit(model, tf.data.Dataset.from_tensors((parts, labels)))
