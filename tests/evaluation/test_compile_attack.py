"""XLA is used where there is a GPU, and with `compile_attack` everywhere or nowhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation import masking

pytestmark = pytest.mark.graph

BALL = kr.Linf(0.1)
PGD = kr.attacks.PGD(BALL, steps=2)
IMAGES = np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(8) % 3
KERNEL = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)


def no_xla(images):
    """A classifier with an operation that XLA does not have, and that changes nothing."""
    logits = tf.reshape(images, (-1, 16)) @ KERNEL
    nothing = tf.cast(tf.strings.length(tf.strings.as_string(tf.reduce_sum(tf.stop_gradient(logits)))), tf.float32)
    return logits + 0.0 * nothing


@pytest.fixture
def gpu_in_sight(monkeypatch):
    """TensorFlow says that there is a GPU."""
    found = tf.config.list_logical_devices
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind=None: ["GPU:0"] if kind == "GPU" else found(kind)
    )


MEASUREMENTS = {
    "evaluate": lambda **o: kr.evaluate(no_xla, (IMAGES, LABELS), PGD, verbose=False, **o),
    "evaluate_suite": lambda **o: kr.evaluation.evaluate_suite(None, no_xla, (IMAGES, LABELS), PGD, verbose=False, **o),
    "epsilon_curve": lambda **o: kr.evaluation.epsilon_curve(no_xla, (IMAGES, LABELS), PGD, (0.1,), verbose=False, **o),
    "iteration_curve": lambda **o: kr.evaluation.iteration_curve(
        no_xla, (IMAGES, LABELS), PGD, (1, 2), verbose=False, **o
    ),
    "transfer_matrix": lambda **o: kr.evaluation.transfer_matrix(
        {"one": no_xla, "two": no_xla}, (IMAGES, LABELS), PGD, verbose=False, **o
    ),
    "masking_checks": lambda **o: kr.evaluation.masking_checks(no_xla, (IMAGES, LABELS), BALL, examples=4, **o),
    "loss_surface": lambda **o: kr.evaluation.loss_surface(no_xla, (IMAGES, LABELS), 0.1, points=3, examples=1, **o),
    "large_epsilon_images": lambda **o: kr.evaluation.large_epsilon_images(no_xla, (IMAGES, LABELS), PGD, **o),
}


@pytest.mark.graph
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_there_is_a_way_out_of_xla(gpu_in_sight, monkeypatch, name):
    for constant, value in {"STEPS": 2, "LONG_STEPS": 4, "RESTARTS": 2, "QUERIES": 10}.items():
        monkeypatch.setattr(masking, constant, value)
    MEASUREMENTS[name](batch_size=4, compile_attack=False)


@pytest.mark.xla
@pytest.mark.parametrize("name", ["evaluate", "evaluate_suite"])
def test_auto_is_xla_where_there_is_a_gpu(gpu_in_sight, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        MEASUREMENTS[name](batch_size=4)


@pytest.mark.xla
def test_true_is_xla_without_a_gpu_and_gives_the_same(linear_classifier):
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        MEASUREMENTS["evaluate"](batch_size=4, compile_attack=True)
    model = linear_classifier()
    plain, compiled = (
        kr.evaluate(model, (IMAGES, LABELS), PGD, batch_size=4, compile_attack=choice, verbose=False)
        for choice in (False, True)
    )
    assert plain.attacks == compiled.attacks
    assert (plain.record["compile_attack"], compiled.record["compile_attack"]) == (False, True)


def test_auto_is_no_xla_without_a_gpu():
    assert MEASUREMENTS["evaluate"](batch_size=4).record["compile_attack"] == "auto"


@pytest.mark.parametrize("choice", [None, "yes", 2])
def test_another_choice_is_refused(choice):
    with pytest.raises(ValueError, match=f"Received: compile_attack={choice!r}"):
        MEASUREMENTS["evaluate"](compile_attack=choice)


def test_normalization_statistics_take_it(gpu_in_sight, conv_classifier, batch):
    """Of a Keras classifier, whose convolution under XLA gives the same."""
    model, dataset = conv_classifier(batch_norm=True), batch(8)
    facts = kr.evaluation.normalization_statistics(model, dataset, PGD, batch_size=4, compile_attack=False)
    assert isinstance(model, keras.Model)
    assert facts["kind"] == "normalization_statistics"
