"""PGD on classifiers that are random at inference: gradients are means over passes."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import BIM, CW, FGSM, PGD, RFGSM
from keras_robust.core import L2, Linf, seeds

pytestmark = pytest.mark.graph

IMAGES = np.random.default_rng(0).uniform(0.4, 0.6, size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.zeros(6, np.int64)
SLOPES = np.float32([-1.0, -1.0, 5.0])
"""Of the label's logit in one pass after the other: against their mean of 1, two of three passes mislead."""

MODES = ["eager", "graph", pytest.param("xla", marks=pytest.mark.xla)]


class Fickle:
    """A classifier whose label's logit has another slope in each pass."""

    def __init__(self) -> None:
        self.passes = tf.Variable(0)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        slope = tf.gather(tf.constant(SLOPES), (self.passes.assign_add(1) - 1) % len(SLOPES))
        mean = tf.reduce_mean(tf.reshape(images, (-1, 16)), axis=1)
        return tf.stack([slope * mean, tf.zeros_like(mean)], axis=1)


def run(attack: PGD, model_fn, mode: str, images: np.ndarray = IMAGES) -> np.ndarray:
    def call() -> tf.Tensor:
        return attack(model_fn, tf.constant(images), tf.constant(LABELS[: len(images)]), 3)

    return np.asarray(call() if mode == "eager" else tf.function(call, jit_compile=mode == "xla")())


@pytest.mark.parametrize(
    ("make", "options", "mode"),
    [
        (PGD, {"steps": 4, "objective": "margin"}, "eager"),
        (PGD, {"steps": 4, "objective": "margin"}, "graph"),
        pytest.param(PGD, {"steps": 4, "objective": "margin"}, "xla", marks=pytest.mark.xla),
        (BIM, {"steps": 4, "objective": "margin"}, "eager"),
        (CW, {"steps": 4, "kappa": None}, "eager"),
        (FGSM, {"objective": "margin"}, "eager"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_mean_of_the_passes_is_climbed(make, options, mode):
    """The margin's mean gradient is -1/16 in each pixel, so every step goes down; most single passes go up."""
    np.testing.assert_allclose(run(make(Linf(0.1), **options, eot_iter=3), Fickle(), mode), IMAGES - 0.1, atol=1e-6)
    single = run(make(Linf(0.1), **options), Fickle(), mode)
    assert np.all(single.mean(axis=(1, 2, 3)) > IMAGES.mean(axis=(1, 2, 3)) - 0.06)


def test_rfgsm_takes_its_one_step_along_the_mean():
    """From x + or - 0.05, down by 0.05."""
    attack = RFGSM(Linf(0.1), objective="margin", eot_iter=3)
    moved = run(attack, Fickle(), "graph") - IMAGES
    np.testing.assert_allclose(np.minimum(np.abs(moved), np.abs(moved + 0.1)), 0.0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_of_l2_is_as_long_as_that_of_a_single_pass(mode):
    """Of the mean gradient only the direction counts: all 16 pixels go down by a quarter of epsilon."""
    attack = PGD(L2(0.2), steps=1, step_size=0.2, random_start="none", objective="margin", eot_iter=3)
    np.testing.assert_allclose(run(attack, Fickle(), mode), IMAGES - 0.05, atol=1e-6)


def noisy(stddev: float):
    """Adds noise to logits x w: it hides in one pass what the mean over many shows."""
    weights = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)

    def model_fn(images: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(images, (-1, 16))
        return flat @ (weights + tf.random.normal((16, 2), stddev=stddev))

    return model_fn, (weights[:, 1] - weights[:, 0]).reshape(4, 4, 1)


def test_noise_of_the_gradient_is_averaged_out():
    """In 3000 passes it shrinks from 7 to 0.13, beside differences of the weights of 1.4: most signs are right."""
    tf.random.set_seed(0)
    model_fn, along = noisy(5.0)
    agreement = {}
    for passes in (1, 3000):
        moved = run(FGSM(Linf(0.1), objective="margin", eot_iter=passes), model_fn, "graph") - IMAGES
        agreement[passes] = float((moved * np.sign(along)).mean() / 0.1)
    assert agreement[1] < 0.4
    assert agreement[3000] > 0.7


class Recorder(Fickle):
    """Keeps the points, and what it said of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        shift = SLOPES[len(self.calls) % len(SLOPES)] - 1.0  # of mean 0 over three passes, and large
        flat = tf.reshape(images, (-1, 16))
        waves = tf.reduce_sum(tf.sin(40.0 * flat), axis=1)
        logits = tf.stack([waves + 10.0 * shift, tf.zeros_like(waves)], axis=1)
        self.calls.append((np.asarray(images), logits.numpy()))
        return logits


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_restarts_are_compared_by_means_over_passes(objective):
    """NumPy: misclassified is a mean margin above 0, and then the largest mean objective counts."""
    model_fn = Recorder()
    attack = PGD(Linf(0.1), steps=1, step_size=1e-6, objective=objective, restarts=5, eot_iter=3)
    x_adv = run(attack, model_fn, "eager")
    assert len(model_fn.calls) == 5 * (3 + 3)
    keys = []
    for restart in range(5):
        judged = model_fn.calls[6 * restart + 3 :][:3]
        logits = np.stack([logits for _, logits in judged]).astype(np.float64)
        margin = logits[..., 1] - logits[..., 0]
        value = margin if objective == "margin" else np.logaddexp(0.0, margin)
        keys.append(list(zip(margin.mean(axis=0) > 0, value.mean(axis=0), strict=True)))
    best = [max(range(5), key=lambda restart, i=i: keys[restart][i]) for i in range(len(IMAGES))]
    np.testing.assert_array_equal(x_adv, [model_fn.calls[6 * r + 3][0][i] for i, r in enumerate(best)])
    assert len(set(best)) > 2


@pytest.mark.parametrize("mode", MODES[1:])
def test_of_a_deterministic_classifier_the_mean_is_that_of_one_pass(mode):
    """Bit for bit with two passes, as g + g is exact."""
    model_fn, _ = noisy(0.0)
    attacks = [PGD(L2(0.3), steps=3, step_size=0.02, objective="margin", restarts=2, eot_iter=n) for n in (1, 2)]
    one, two = (run(attack, model_fn, mode) for attack in attacks)
    np.testing.assert_array_equal(one, two)


def test_one_pass_is_bit_for_bit_the_plain_loop():
    """As it was before there were several passes: forward, gradient, step, projection."""
    model_fn, _ = noisy(0.0)
    attack = PGD(L2(0.3), steps=5)
    x_adv = attack.start(tf.constant(IMAGES), seeds.fold(seeds.as_seed(3), 1))
    for _ in range(5):
        with tf.GradientTape() as tape:
            tape.watch(x_adv)
            value = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, model_fn(x_adv))
        step = attack.resolved_step_size * attack.threat_model.steepest_ascent(tape.gradient(value, x_adv))
        x_adv = attack.threat_model.project(x_adv + step, IMAGES)
    np.testing.assert_array_equal(run(attack, model_fn, "eager"), x_adv)
