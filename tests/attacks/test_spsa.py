"""SPSA: the estimate in closed form on a linear model, ball and range, blocks, neighbours, cost."""

import json

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import PGD
from keras_robust.attacks.spsa import SPSA, estimate_gradient
from keras_robust.core import L1, L2, Linf, seeds

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.3, 0.7, size=(6, 5, 5, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=(25, 2)).astype(np.float32)
LABELS = np.argmax(IMAGES.reshape(6, 25) @ WEIGHTS, axis=1)
SEED = tf.constant([0, 5])


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 25)) @ WEIGHTS


def unbreakable(images: tf.Tensor) -> tf.Tensor:
    """Class 0 always wins."""
    return linear(images) + tf.constant([1e2, 0.0])


def blocks(attack, model_fn, labels, lengths, state=None, first=0):
    state = attack.start(model_fn, tf.constant(IMAGES), labels, SEED) if state is None else state
    for steps in lengths:
        state = attack.advance(model_fn, state, tf.constant(first), steps, SEED)
        first += steps
    return {name: value.numpy() for name, value in state.items()}


def test_estimate_on_a_linear_function():
    """For f(x) = <g, x> each pair gives s <s, g>: mean g, variance |g|^2 - g_i^2 per coordinate.

    Over P pairs the standard error is sqrt((|g|^2 - g_i^2) / P); 5 of them hold for all 25 coordinates.
    """
    gradient = WEIGHTS[:, 1].reshape(5, 5, 1)
    pairs = 4096
    signs = 2.0 * tf.cast(seeds.integers((pairs, 5, 5, 1), seeds.as_seed(1), 2), tf.float32) - 1.0
    estimate = estimate_gradient(lambda x: linear(x)[:, 1], tf.constant(IMAGES), signs, 0.01, 64).numpy()
    error = np.sqrt((np.sum(gradient**2) - gradient**2) / pairs)
    assert np.all(np.abs(estimate - gradient) < 5 * error + 1e-3)
    cosine = np.sum(estimate[0] * gradient) / np.linalg.norm(estimate[0]) / np.linalg.norm(gradient)
    assert cosine > 0.99


def test_estimate_along_one_direction():
    """With all directions equal to s the estimate is s <s, g>, and curvature cancels within a pair."""
    sign = np.sign(RNG.normal(size=(1, 5, 5, 1))).astype(np.float32)

    def curved(x):
        return linear(x)[:, 1] + tf.reduce_sum(x**2, axis=(1, 2, 3))

    estimate = estimate_gradient(curved, tf.constant(IMAGES), tf.constant(np.repeat(sign, 4, 0)), 0.1, 2)
    slope = np.sum(sign * (WEIGHTS[:, 1].reshape(5, 5, 1) + 2 * IMAGES), axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(estimate, sign * slope, atol=1e-3)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=str)
def test_first_step_is_that_of_adam(ball):
    """After one step both moments are those of one gradient, so Adam moves each pixel by the learning rate."""
    attack = SPSA(ball, steps=1, samples=64, learning_rate=0.003)
    labels = np.zeros(6, int)
    start, end = (blocks(attack, unbreakable, labels, [steps]) for steps in (0, 1))
    step = 0.003 * np.sign(end["mean"])
    expected = ball.project(tf.constant(start["points"] + step), tf.constant(IMAGES))
    np.testing.assert_allclose(end["points"], expected, atol=1e-6)


@pytest.mark.parametrize("norm", [Linf, L2], ids=str)
def test_it_breaks_what_pgd_breaks(norm):
    """On a linear model PGD is exact; with a tenth more room SPSA reaches all that PGD reaches."""
    margins = np.abs(IMAGES.reshape(6, 25) @ (WEIGHTS[:, 1] - WEIGHTS[:, 0]))
    along = WEIGHTS[:, 1] - WEIGHTS[:, 0]
    length = np.abs(along).sum() if norm is Linf else np.linalg.norm(along)
    radius = float(np.median(margins) / length)
    exact = PGD(norm(radius), steps=20, objective="margin")(linear, IMAGES, LABELS, 0)
    broken = np.argmax(linear(exact), axis=1) != LABELS
    assert 0 < broken.sum() < 6
    attack = SPSA(norm(1.1 * radius), steps=60, samples=64)
    x_adv = tf.function(lambda: attack(linear, tf.constant(IMAGES), LABELS, 0))()
    assert np.all((np.argmax(linear(x_adv), axis=1) != LABELS)[broken])


def test_it_breaks_models_without_gradients():
    """PGD finds no direction behind `stop_gradient`."""

    def hidden(images):
        return tf.stop_gradient(linear(images))

    attack = SPSA(Linf(0.3), steps=40, samples=32)
    x_adv = tf.function(lambda: attack(hidden, tf.constant(IMAGES), LABELS, 0))()
    assert np.all(np.argmax(hidden(x_adv), axis=1) != LABELS)


@pytest.mark.xla
@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=str)
def test_xla_equals_graph(ball):
    attack = SPSA(ball, steps=5, samples=32, restarts=2)
    graph, xla = (
        tf.function(lambda: attack(unbreakable, tf.constant(IMAGES), np.zeros(6, int), 3), jit_compile=jit)()
        for jit in (False, True)
    )
    np.testing.assert_allclose(graph, xla, atol=1e-3)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    norm=st.sampled_from([Linf, L2]),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])),
    bounds=st.sampled_from([(0.0, 1.0), (-1.0, 2.0)]),
    epsilon=st.floats(0.0, 0.9),
    seed=st.integers(0, 1000),
)
def test_points_stay_in_ball_and_range(norm, shape, bounds, epsilon, seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(*bounds, size=(3, *shape)).astype(np.float32)
    weights = rng.normal(size=(images[0].size, 2)).astype(np.float32)
    ball = norm(epsilon, bounds)
    attack = SPSA(ball, steps=3, samples=4, learning_rate=0.5)
    x_adv = attack(lambda x: tf.reshape(x, (x.shape[0], -1)) @ weights + [1e4, 0.0], images, [0, 0, 0], seed)
    assert np.all(ball.distance(x_adv, images) <= epsilon * (1 + 1e-5) + 1e-6)
    assert x_adv.numpy().min() >= bounds[0]
    assert x_adv.numpy().max() <= bounds[1]


@pytest.mark.parametrize("model_fn", [linear, unbreakable])
def test_blocks_of_any_length_give_the_same(model_fn):
    attack = SPSA(Linf(0.1), steps=6, samples=16)
    labels = LABELS if model_fn is linear else np.zeros(6, int)
    whole, parts = (blocks(attack, model_fn, labels, lengths) for lengths in ([6], [1, 3, 0, 2]))
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name])


def test_an_example_does_not_depend_on_its_neighbours():
    attack, labels, kept = SPSA(Linf(0.1), steps=6, samples=16), np.zeros(6, int), np.array([4, 1, 3])
    whole = blocks(attack, unbreakable, labels, [6])
    state = {name: tf.gather(v, kept) for name, v in blocks(attack, unbreakable, labels, [2]).items()}
    rest = blocks(attack, unbreakable, labels, [4], state, first=2)
    np.testing.assert_allclose(rest["points"], whole["points"][kept], atol=1e-3)


def test_broken_is_misclassified_and_stays():
    attack = SPSA(Linf(0.3), steps=40, samples=16)
    early, late = (blocks(attack, linear, LABELS, [steps]) for steps in (8, 40))
    for state in (early, late):
        np.testing.assert_array_equal(state["broken"], np.argmax(linear(state["points"]), axis=1) != LABELS)
    assert late["broken"].all()
    np.testing.assert_array_equal(late["points"][early["broken"]], early["points"][early["broken"]])


@pytest.mark.parametrize(("pairs_per_pass", "passes"), [(None, 1), (1, 6), (2, 3)])
def test_cost(pairs_per_pass, passes):
    """Per step `samples` images in passes of one size, and one pass for the new point; chunks change nothing else."""
    counts = []

    def counted(images):
        counts.append(images.shape[0])
        return unbreakable(images)

    attack = SPSA(Linf(0.1), steps=3, samples=12, pairs_per_pass=pairs_per_pass)
    x_adv = attack(counted, IMAGES, np.zeros(6, int), 0)
    assert counts == [6] + 3 * (passes * [6 * 12 // passes] + [6])
    other = SPSA(Linf(0.1), steps=3, samples=12)(unbreakable, IMAGES, np.zeros(6, int), 0)
    np.testing.assert_allclose(x_adv, other, atol=1e-3)


OPTIONS = [
    SPSA(Linf(0.3)),
    SPSA(L2(1.0), 5, samples=20, delta=0.1, learning_rate=0.1, pairs_per_pass=5, restarts=2, compute_dtype="bfloat16"),
]


@pytest.mark.parametrize("attack", OPTIONS, ids=lambda attack: attack.name)
def test_json_round_trip(attack):
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == attack


def test_names():
    assert [attack.name for attack in OPTIONS] == [
        "SPSA-100 (Linf 0.3, 128 samples)",
        "SPSA-5 (L2 1, 20 samples, delta 0.1, learning rate 0.1, 2 restarts, bfloat16)",
    ]
    assert SPSA(Linf(0.3)).total_steps == 100


ERRORS = [
    (lambda: SPSA(0.3), "threat_model=0.3"),
    (lambda: SPSA(L1(3.0)), "L1(epsilon=3.0"),
    (lambda: SPSA(Linf(0.1), steps=0), "steps=0"),
    (lambda: SPSA(Linf(0.1), samples=0), "samples=0"),
    (lambda: SPSA(Linf(0.1), samples=7), "samples=7"),
    (lambda: SPSA(Linf(0.1), delta=0), "delta=0"),
    (lambda: SPSA(Linf(0.1), delta=float("inf")), "delta=inf"),
    (lambda: SPSA(Linf(0.1), learning_rate=-1), "learning_rate=-1"),
    (lambda: SPSA(Linf(0.1), pairs_per_pass=5), "pairs_per_pass=5"),
    (lambda: SPSA(Linf(0.1), pairs_per_pass=0), "pairs_per_pass=0"),
    (lambda: SPSA(Linf(0.1), restarts=0), "restarts=0"),
    (lambda: SPSA(Linf(0.1), compute_dtype="int8"), "compute_dtype='int8'"),
    (lambda: SPSA(Linf(0.1))(linear, IMAGES, LABELS, 0, LABELS), "targets="),
]


@pytest.mark.parametrize(("make", "received"), ERRORS, ids=[received for _, received in ERRORS])
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)
