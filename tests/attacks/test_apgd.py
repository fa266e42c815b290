"""Auto-PGD: closed form, ball and range, blocks, what a run costs, what is kept, serialisation and errors."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.attacks.apgd import APGD
from keras_robust.core import L1, L2, Linf, Margin, seeds

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(9, 5)).astype(np.float32) * 3
IMAGES = RNG.uniform(0.3, 0.7, size=(12, 3, 3, 1)).astype(np.float32)
SEED = tf.constant([3, 4])


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 9)) @ WEIGHTS


def wavy(images: tf.Tensor) -> tf.Tensor:
    """Many local maxima, so that starts and step sizes matter."""
    return tf.sin(9 * tf.reshape(images, (-1, 9))) @ WEIGHTS


LABELS = np.asarray(wavy(IMAGES)).argmax(axis=1)
ATTACKS = [
    APGD(Linf(0.03), steps=9),
    APGD(L2(0.1), steps=6, objective="dlr", restarts=2),
    APGD(L1(0.2), steps=12),
    APGD(Linf(0.02), steps=3, objective="dlr", targeted=2, restarts=2),
    APGD(L1(0.15), steps=5, objective="margin", targeted=2, larger_radii=True),
    APGD(L2(0.15), steps=6, objective="kl_divergence"),
]
by_name = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


class Counter:
    """A model function that keeps the images it was called on."""

    def __init__(self, model_fn=wavy) -> None:
        self.model_fn = model_fn
        self.calls: list[np.ndarray] = []

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        self.calls.append(np.asarray(images))
        return self.model_fn(images)


def run(attack: APGD, model_fn=wavy, blocks: tuple[int, ...] | None = None, rows: slice = slice(None)) -> dict:
    """Returns the state after all steps, taken in blocks."""
    state = attack.start(model_fn, IMAGES[rows], LABELS[rows], SEED)
    first = 0
    for steps in blocks or (attack.total_steps,):
        state = attack.advance(model_fn, state, tf.constant(first), steps, SEED)
        first += steps
    assert first == attack.total_steps
    return {name: np.asarray(value) for name, value in state.items()}


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.2), L1(0.2)], ids=str)
def test_linear_model(ball):
    """For two classes the margin grows along g = w_1 - w_0 only, so the optimum of each ball is known.

    Linf: the corner epsilon sign(g). L2: epsilon g / ||g||. L1: epsilon times the largest |g|; the attack moves two
    pixels of nine, so it reaches at least the second largest. No optimum meets the pixel range. With the offset
    nothing is ever misclassified, so the best point is returned.
    """
    weights, labels = WEIGHTS[:, :2], np.arange(12) % 2
    g = (weights[:, 1] - weights[:, 0]) * np.where(labels == 0, 1.0, -1.0)[:, None]
    offset = 20.0 * np.eye(2, dtype=np.float32)[labels]
    attack = APGD(ball, steps=40, objective="margin")

    @tf.function
    def attacked():
        return attack(lambda x: tf.reshape(x, (-1, 9)) @ weights + offset, IMAGES, labels, 0)

    moved = (np.asarray(attacked()) - IMAGES).reshape(-1, 9)
    gain = (moved * g).sum(axis=1) / ball.epsilon
    if ball.norm == "linf":
        np.testing.assert_allclose(moved, ball.epsilon * np.sign(g), atol=1e-6)
    elif ball.norm == "l2":
        np.testing.assert_allclose(gain, np.linalg.norm(g, axis=1), rtol=1e-3)
    else:
        _, second, largest = np.sort(np.abs(g), axis=1)[:, -3:].T
        assert np.all((gain >= second * (1 - 1e-4)) & (gain <= largest * (1 + 1e-4)))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    ball=st.sampled_from([Linf(0.3), Linf(1.0), L2(0.7), L2(5.0), L1(2.0), L1(9.0), Linf(0.0), L2(0.0), L1(0.0)]),
    objective=st.sampled_from(["cross_entropy", "margin", "dlr"]),
    targeted=st.integers(0, 2),
    larger_radii=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_always_in_the_ball_and_the_range(ball, objective, targeted, larger_radii, seed):
    """Every point on the way, but for the first 60 % of the steps with larger radii."""
    larger_radii &= ball.norm == "l1"
    attack = APGD(ball, steps=6, objective=objective, targeted=targeted, larger_radii=larger_radii)
    model_fn = Counter()
    x_adv = attack(model_fn, IMAGES, LABELS, seed)
    assert x_adv.dtype == tf.float32
    assert x_adv.shape == IMAGES.shape
    for points in [np.asarray(x_adv), *([] if larger_radii else model_fn.calls)]:
        assert np.all(ball.distance(points, IMAGES) <= ball.epsilon * (1 + 1e-5) + 1e-6)
    for points in model_fn.calls:
        assert points.min() >= 0
        assert points.max() <= 1


@by_name
def test_blocks_change_nothing(attack):
    """Bitwise the same state, also for blocks that cross from run to run."""
    whole = run(attack)
    for blocks in ((4, attack.total_steps - 4), (attack.total_steps - 1, 1)):
        state = run(attack, blocks=blocks)
        for name, value in whole.items():
            np.testing.assert_array_equal(state[name], value, name)


@by_name
def test_neighbours_change_nothing(attack):
    """Without the last rows, which are drawn last, and when rows leave between blocks, the others are the same.

    But for rounding: a matrix product of another size adds in another order.
    """
    whole = run(attack)
    part = run(attack, rows=slice(0, 5))
    for name in ("result", "broken", "best_loss"):
        np.testing.assert_allclose(part[name], whole[name][:5], rtol=1e-3, atol=1e-4, err_msg=name)
    half = attack.steps // 2
    state = attack.start(wavy, IMAGES, LABELS, SEED)
    state = attack.advance(wavy, state, tf.constant(0), half, SEED)
    left = {name: value[:7] for name, value in state.items()}
    left = attack.advance(wavy, left, tf.constant(half), attack.total_steps - half, SEED)
    np.testing.assert_allclose(attack.finish(left), whole["result"][:7], atol=1e-4)


@pytest.mark.xla
@pytest.mark.parametrize(
    "attack", rest_slow(ATTACKS, [ATTACKS[0], ATTACKS[3], ATTACKS[4]]), ids=lambda attack: attack.name
)
def test_xla_is_the_graph_is_eager(attack):
    """On a smooth model, where rounding cannot choose another path. One attack is traced without XLA, too."""
    eager = attack(linear, IMAGES, LABELS, 5)
    for jit_compile in (False, True) if attack is ATTACKS[0] else (True,):
        compiled = tf.function(lambda: attack(linear, IMAGES, LABELS, 5), jit_compile=jit_compile)
        np.testing.assert_allclose(compiled(), eager, atol=1e-5)


COSTS = [
    (APGD(Linf(0.1), steps=7), 7 + 1),
    (APGD(L2(0.1), steps=7, restarts=3), 3 * (7 + 1)),
    (APGD(Linf(0.1), steps=4, targeted=3, restarts=2), 1 + 6 * (4 + 1)),
    (APGD(L1(0.1), steps=10, larger_radii=True), 10 + 3),
    (APGD(Linf(0.1), steps=4, objective="kl_divergence"), 1 + 4 + 1),
]


@pytest.mark.parametrize(("attack", "calls"), COSTS, ids=[attack.name for attack, _ in COSTS])
def test_a_run_costs_its_steps_and_its_start(attack, calls):
    model_fn = Counter()
    attack(model_fn, IMAGES, LABELS, 0)
    assert len(model_fn.calls) == calls


@by_name
def test_broken_and_result(attack):
    """`broken` where a point was misclassified, and the first such point is kept; else the one of largest objective."""
    model_fn = Counter()
    state = run(attack, model_fn)
    points = np.stack(model_fn.calls[1 if attack.targeted or "kl" in attack.name else 0 :])
    if attack.larger_radii:
        points = np.concatenate([points[6:8], points[14:16]])  # per target 2 + 1 and 2 + 1 outside, 1 + 1 inside
    wrong = np.stack([np.asarray(wavy(p)).argmax(axis=1) != LABELS for p in points])
    np.testing.assert_array_equal(state["broken"], wrong.any(axis=0))
    for row in np.flatnonzero(wrong.any(axis=0)):
        np.testing.assert_array_equal(state["result"][row], points[np.argmax(wrong[:, row]), row])
    for row in np.flatnonzero(~wrong.any(axis=0)):
        assert (points[:, row] == state["result"][row]).all(axis=(1, 2, 3)).any()
    assert len(set(wrong.any(axis=0))) == 2


def test_result_of_an_unbroken_example_has_the_largest_objective():
    attack = APGD(Linf(0.01), steps=10, restarts=3)
    model_fn = Counter()
    state = run(attack, model_fn)
    loss = np.stack([tf.keras.losses.sparse_categorical_crossentropy(LABELS, wavy(p), True) for p in model_fn.calls])
    rows = np.flatnonzero(~state["broken"])
    assert len(rows) > 3
    np.testing.assert_allclose(state["result_loss"][rows], loss.max(axis=0)[rows], rtol=1e-5)


def test_target_classes_are_the_most_likely_wrong_ones():
    """Sorted by the clean logit, the label left out, also where it is not the most likely class."""
    labels = (LABELS + np.arange(12) % 2) % 5
    state = APGD(Linf(0.1), targeted=3).start(wavy, IMAGES, labels, SEED)
    order = np.argsort(-np.asarray(wavy(IMAGES)), axis=1)
    expected = [[k for k in row if k != label][:3] for row, label in zip(order, labels, strict=True)]
    np.testing.assert_array_equal(state["targets"], expected)


def test_one_hot_labels():
    attack = APGD(Linf(0.1), steps=5, objective="dlr", targeted=2)
    sparse = attack(wavy, IMAGES, LABELS, 0)
    np.testing.assert_array_equal(attack(wavy, IMAGES, np.eye(5, dtype=np.float32)[LABELS], 0), sparse)


def test_seeds_and_runs_differ():
    attack = APGD(Linf(0.3), steps=1, restarts=2)
    model_fn = Counter(lambda x: 0 * linear(x))
    attack(model_fn, IMAGES, LABELS, 0)
    assert not np.allclose(model_fn.calls[0], model_fn.calls[2])
    again = Counter(lambda x: 0 * linear(x))
    attack(again, IMAGES, LABELS, seeds.as_seed(1))
    assert not np.allclose(model_fn.calls[0], again.calls[0])


@pytest.mark.parametrize(
    ("ball", "jit_compile"),
    [(Linf(0.1), False), (L2(0.5), False), (L1(1.0), False), pytest.param(L1(1.0), True, marks=pytest.mark.xla)],
    ids=str,
)
def test_nan_is_not_hidden(ball, jit_compile):
    """NaN logits count as misclassified, NaN gradients give NaN images; no other example suffers."""
    bad = tf.range(12)[:, None] == 3

    @tf.custom_gradient
    def spoil(x):
        return x, lambda grad: tf.where(bad, float("nan"), 1.0) * grad

    def nan_logits(images):
        return tf.where(bad, float("nan"), 1.0) * linear(images)

    def nan_gradients(images):
        return spoil(tf.reshape(images, (-1, 9))) @ (0.01 * WEIGHTS) + 9 * tf.one_hot(LABELS, 5)

    attack = APGD(ball, steps=3)
    for model_fn in (nan_logits, nan_gradients):

        def call(fn=model_fn):
            return attack(fn, IMAGES, LABELS, 0)

        x_adv = np.asarray(tf.function(call, jit_compile=True)() if jit_compile else call())
        assert np.isnan(np.asarray(model_fn(x_adv))[3]).any()
        assert np.isfinite(np.delete(x_adv, 3, axis=0)).all()


@by_name
def test_json_round_trip(attack):
    attack = dataclasses.replace(attack, rho=0.5, compute_dtype="bfloat16")
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == attack


NAMES = [
    (APGD(Linf(0.3)), "APGD-100 (Linf 0.3, cross_entropy)"),
    (APGD(Linf(0.3), objective="dlr", targeted=9), "APGD-T-100 (Linf 0.3, dlr, 9 targets)"),
    (
        APGD(L1(12.0), 50, Margin(), targeted=1, restarts=5, rho=0.5, larger_radii=True, compute_dtype="float16"),
        "APGD-T-50 (L1 12, margin, 1 target, 5 restarts, rho 0.5, larger radii, float16)",
    ),
]


@pytest.mark.parametrize(("attack", "name"), NAMES, ids=[name for _, name in NAMES])
def test_name(attack, name):
    assert attack.name == name
