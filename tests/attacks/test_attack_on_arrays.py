"""`attack(model, images, labels)` of a Keras model and arrays: checked, compiled, in batches, with its own seed."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

import keras_robust as kr
from keras_robust.attacks import APGD, FAB, FGSM, PGD, SPSA, HopSkipJump, Square, as_model_fn

pytestmark = pytest.mark.graph

BALL = kr.Linf(0.1)
ATTACKS = {
    "PGD": PGD(BALL, steps=3),
    "PGD towards a random class": PGD(BALL, steps=3, target="random", restarts=2),
    "APGD": APGD(kr.L2(0.5), steps=4),
    "FAB": FAB(kr.L2(2.0), steps=5, targets=2),
    "Square": Square(BALL, queries=5),
    "SPSA": SPSA(BALL, steps=2, samples=4),
    "HopSkipJump": HopSkipJump(kr.L2(0.5), queries=200, samples=20),
    "low precision": PGD(BALL, steps=3, compute_dtype="bfloat16"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_arrays_are_attacked_as_tensors_are(conv_classifier, batch, case):
    """In one batch, the seed 0 gives the images that the attack in TensorFlow gives."""
    attack, model, images = ATTACKS[case], conv_classifier(4), batch(6, classes=4)[0]
    labels = model(images).numpy().argmax(1)
    found = attack(model, images, labels)
    expected = attack(as_model_fn(model, compute_dtype=attack.compute_dtype), images, labels, 0)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (np.float32, images.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4 if attack.compute_dtype else 1e-6)
    assert np.abs(found - images).max() > 0


def test_batches_are_filled_up_and_draw_anew(conv_classifier, batch):
    """11 images in batches of 4: each is attacked, within its ball, and no two batches have the same random start."""
    model, (images, labels) = conv_classifier(), batch(11)
    images[4:8], labels[4:8] = images[:4], labels[:4]
    attack = PGD(BALL, steps=1, step_size=1e-4)
    found = attack(model, images, labels, seed=5, batch_size=4)
    assert found.shape == images.shape
    distance = np.asarray(BALL.distance(found, images))
    assert distance.min() > 0.05
    assert distance.max() <= 0.1 + 1e-6
    assert np.abs(found[:4] - found[4:8]).max() > 0.05
    np.testing.assert_array_equal(found, attack(model, images, labels, seed=5, batch_size=4))
    assert np.abs(found - attack(model, images, labels, seed=6, batch_size=4)).max() > 0.05
    np.testing.assert_allclose(found[:4], attack(as_model_fn(model), images[:4], labels[:4], 5), atol=1e-6)


def test_every_form_of_images_and_labels_is_taken(conv_classifier, batch):
    model, (images, labels) = conv_classifier(), batch(5)
    expected = ATTACKS["PGD"](model, images, labels)
    one_hot = keras.utils.to_categorical(labels, 3)
    for given in ((tf.constant(images), labels), (images.astype(np.float64), tf.constant(labels)), (images, one_hot)):
        found = ATTACKS["PGD"](model, *given)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_training_model_is_attacked_at_its_classifier(conv_classifier, batch):
    classifier, (images, labels) = conv_classifier(batch_norm=True), batch(5)
    model = kr.AdversarialTraining(classifier, ATTACKS["PGD"])
    before = [variable.numpy() for variable in classifier.variables]
    found = ATTACKS["PGD"](model, images, labels)
    np.testing.assert_array_equal(found, ATTACKS["PGD"](classifier, images, labels))
    for variable, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_new_weights_are_seen_by_the_next_call(conv_classifier, batch):
    model, (images, labels) = conv_classifier(), batch(5)
    first = ATTACKS["PGD"](model, images, labels)
    model.set_weights([-weight for weight in model.get_weights()])
    assert np.abs(ATTACKS["PGD"](model, images, labels) - first).max() > 0.01


def test_given_targets_are_taken(conv_classifier, batch):
    """Towards a class, its logit rises against that of the label."""
    model, images = conv_classifier(4), batch(6, classes=4)[0]
    labels = model(images).numpy().argmax(1)
    targets = (labels + 1) % 4
    attack = PGD(kr.Linf(0.3), steps=5, target="given")
    found = attack(model, images, labels, targets=targets)
    rows = np.arange(6)

    def gap(x):
        logits = model(x).numpy()
        return logits[rows, targets] - logits[rows, labels]

    assert (gap(found) > gap(images)).all()
    one_hot = keras.utils.to_categorical(targets, 4)
    np.testing.assert_array_equal(found, attack(model, images, labels, targets=one_hot))


def test_a_function_and_a_graph_get_tensors_as_before(conv_classifier, batch):
    model, (images, labels) = conv_classifier(), batch(4)
    assert tf.is_tensor(FGSM(BALL)(as_model_fn(model), images, labels, 0))
    inside = tf.function(lambda x: FGSM(BALL)(model, x, labels, 0), autograph=False)(tf.constant(images))
    np.testing.assert_allclose(inside, FGSM(BALL)(model, images, labels), atol=1e-6)


def test_nothing_of_a_call_stays_alive(conv_classifier, batch):
    """The graphs of an attack, and with them the classifier, are gone after the call."""
    model, (images, labels) = conv_classifier(), batch(4)
    ATTACKS["PGD"](model, images, labels)

    def graphs():
        gc.collect()
        return sum(isinstance(value, FuncGraph) for value in gc.get_objects())

    before = graphs()
    for seed in range(3):
        ATTACKS["PGD"](model, images, labels, seed)
    assert graphs() <= before
    alive = weakref.ref(model)
    del model
    gc.collect()
    keras.backend.clear_session()
    gc.collect()
    assert alive() is None


def with_softmax():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])


GIVEN = PGD(BALL, steps=1, target="given")
MISTAKES = {
    "bytes": (
        {"images": lambda x: (255 * x).astype(np.uint8)},
        r"cast uint8 images to float32 and divide them by 255\. Received: .*uint8",
    ),
    "out of range": ({"images": lambda x: 255 * x}, r"bounds=\[0.0, 1.0\].*Received: images from"),
    "no images": ({"images": lambda x: x[:0]}, "Received: 0 images"),
    "too few labels": ({"labels": lambda y: y[:3]}, "Received: 3 labels for 4 images"),
    "a label too large": ({"labels": lambda y: y + 3}, "Received: labels from"),
    "probabilities": ({"model": with_softmax}, "Remove the softmax"),
    "a seed that is none": ({"seed": -1}, "seed=-1"),
    "batches of none": ({"batch_size": 0}, "batch_size=0"),
    "targets for nobody": ({"targets": lambda y: (y + 1) % 3}, r"Received: PGD-1 .*targets=an array"),
    "no targets": ({"attack": GIVEN}, r"target given\) and targets=None"),
    "targets that are labels": ({"attack": GIVEN, "targets": lambda y: y}, "Received: 4 targets that equal the label"),
    "targets too large": ({"attack": GIVEN, "targets": lambda y: y + 3}, "Received: targets from"),
    "targets of half a class": ({"attack": GIVEN, "targets": lambda y: y + 0.5}, "Received: targets from"),
    "too few targets": ({"attack": GIVEN, "targets": lambda y: y[:2]}, r"Received: targets of shape \(2,\)"),
    "soft targets": ({"attack": GIVEN, "targets": lambda y: np.full((4, 3), 1 / 3)}, "Received: targets from"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(conv_classifier, batch, case):
    options, message = MISTAKES[case]
    options, (images, labels) = dict(options), batch(4)
    model = options.pop("model", conv_classifier)()
    attack = options.pop("attack", PGD(BALL, steps=1))
    images = options.pop("images", lambda x: x)(images)
    given = {"targets": options.pop("targets")(labels)} if "targets" in options else {}
    labels = options.pop("labels", lambda y: y)(labels)
    with pytest.raises(ValueError, match=message):
        attack(model, images, labels, **options, **given)


def test_a_function_needs_a_seed(batch):
    images, labels = batch(4)
    with pytest.raises(ValueError, match="Received: seed=None"):
        FGSM(BALL)(lambda x: tf.reshape(x, (-1, 64))[:, :3], images, labels)
