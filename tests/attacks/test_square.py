"""Square Attack: schedule, ball and range, blocks, neighbours, cost, and models without gradients."""

import json

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow

from keras_robust.attacks.square import Square, project_l1
from keras_robust.core import L1, L2, Linf, seeds

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(8, 9, 9, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8)
WEIGHTS = RNG.normal(size=(243, 3)).astype(np.float32)
SEED = tf.constant([0, 5])
BALLS = [Linf(0.05), L2(0.4), L1(3.0)]


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 243)) @ WEIGHTS


def unbreakable(images: tf.Tensor) -> tf.Tensor:
    """The label always wins, by a margin that depends on the image."""
    return 200 * tf.one_hot(LABELS[: images.shape[0]], 3) + linear(images)


def blocks(attack: Square, model_fn, lengths: list[int], state=None, first: int = 0):
    state = attack.start(model_fn, tf.constant(IMAGES), LABELS, SEED) if state is None else state
    for steps in lengths:
        state = attack.advance(model_fn, state, tf.constant(first), steps, SEED)
        first += steps
    return {name: value.numpy() for name, value in state.items()}


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_a_point_without_logits_is_misclassified(ball):
    """The label wins by far, but where the first row has become brighter the logits are no numbers."""

    def model_fn(x):
        brighter = tf.reduce_mean(x[:, 0], axis=(1, 2)) > IMAGES[:, 0].mean(axis=(1, 2))
        return tf.where(brighter[:, None], float("nan"), unbreakable(x))

    attacked = Square(ball, queries=100)(model_fn, tf.constant(IMAGES), LABELS, 3)
    assert np.isnan(model_fn(attacked)).all()


@pytest.mark.xla
@pytest.mark.parametrize(
    ("ball", "restarts"),
    rest_slow([(BALLS[0], 1), *((ball, 2) for ball in BALLS)], [(BALLS[0], 1), (BALLS[2], 2)]),
    ids=str,
)
def test_xla_changes_nothing(ball, restarts):
    """Draws are the same bits; what is left is rounding, far below the margins that decide."""
    attack = Square(ball, queries=30, restarts=restarts)

    def run() -> tf.Tensor:
        return attack(unbreakable, tf.constant(IMAGES), LABELS, 3)

    np.testing.assert_allclose(run(), tf.function(run, jit_compile=True)(), atol=1e-5 * max(1.0, ball.epsilon))


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
    norm=st.sampled_from([Linf, L2, L1]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    bounds=st.sampled_from([(0.0, 1.0), (-1.0, 2.0), (0.0, 255.0)]),
    radius=st.floats(0.0, 0.9),
    seed=st.integers(0, 1000),
)
def test_points_stay_in_ball_and_range(norm, height, width, channels, bounds, radius, seed):
    """Whatever the model says: here, each candidate is better than the one before."""
    images = np.random.default_rng(seed).uniform(*bounds, size=(3, height, width, channels)).astype(np.float32)
    images[0] = bounds[0]
    span = bounds[1] - bounds[0]
    size = {Linf: 1.0, L2: np.sqrt(images[0].size), L1: images[0].size}[norm]
    ball = norm(float(radius * span * size), bounds)
    calls = [0]

    def ever_better(points):
        calls[0] += 1
        assert np.all(ball.distance(points, images) <= ball.epsilon * (1 + 2e-6) + 2e-7 * span * size)
        assert points.numpy().min() >= bounds[0]
        assert points.numpy().max() <= bounds[1]
        return tf.constant([[1e3 - calls[0], 0.0]] * 3)

    Square(ball, queries=12)(ever_better, images, [0, 0, 0], seed)
    assert calls[0] == 13


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_margin_never_falls(ball):
    """Only better candidates are kept, so the margin that the attack climbs is monotone."""
    attack = Square(ball, queries=20)
    values = [blocks(attack, unbreakable, [steps])["value"] for steps in (0, 1, 5, 20)]
    assert np.all(np.diff(values, axis=0) >= 0)
    assert np.all(values[-1] > values[0])


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_blocks_of_any_length_give_the_same(ball):
    attack, model_fn = Square(ball, queries=16), linear if ball.norm == "l2" else unbreakable
    whole, parts = blocks(attack, model_fn, [16]), blocks(attack, model_fn, [1, 7, 0, 5, 3])
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name])


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_an_example_does_not_depend_on_its_neighbours(ball):
    """Half of the batch leaves after 8 queries, and what is left is in another order."""
    attack = Square(ball, queries=24)
    whole = blocks(attack, linear, [24])
    kept = np.array([6, 1, 4, 3])
    state = {name: tf.gather(value, kept) for name, value in blocks(attack, linear, [8]).items()}
    rest = blocks(attack, linear, [16], state, first=8)
    np.testing.assert_array_equal(rest["broken"], whole["broken"][kept])
    np.testing.assert_allclose(rest["points"], whole["points"][kept], atol=1e-6)


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_broken_is_misclassified_and_stays(ball):
    """A linear model falls to a large ball; after that an example no longer changes."""
    attack = Square(ball, queries=30)
    early, late = blocks(attack, linear, [10]), blocks(attack, linear, [30])
    for state in (early, late):
        predictions = np.argmax(linear(state["points"]), axis=1)
        np.testing.assert_array_equal(state["broken"], predictions != LABELS)
    broken = early["broken"]
    assert broken.any()
    np.testing.assert_array_equal(late["points"][broken], early["points"][broken])


@pytest.mark.parametrize(("model_fn", "cost"), [(unbreakable, 2 * 11), (lambda x: 0 * linear(x) + [9.0, 0, 0], 1)])
def test_cost(model_fn, cost):
    """One forward pass for each start and query, and none once all are broken."""
    calls = []
    labels = LABELS if cost > 1 else np.ones(8, int)

    def counted(images):
        calls.append(1)
        return model_fn(images)

    Square(Linf(0.05), queries=10, restarts=2)(counted, IMAGES, labels, 0)
    assert len(calls) == cost


def test_it_is_traced_once():
    """Sizes of squares are tensors: all queries run the same graph."""
    traces = []

    def counted(images):
        traces.append(1)
        return unbreakable(images)

    attack = Square(L2(0.4), queries=200)
    run = tf.function(lambda state, first: attack.advance(counted, state, first, 20, SEED))
    state = attack.start(unbreakable, tf.constant(IMAGES), LABELS, SEED)
    for first in range(0, 200, 20):
        state = run(state, tf.constant(first))
    assert len(traces) == 1


@pytest.mark.parametrize("ball", [Linf(0.2), L2(2.5), L1(20.0)], ids=str)
def test_it_breaks_models_without_gradients(ball):
    """Logits in steps, behind `stop_gradient`: there is nothing to differentiate, and random search goes on."""

    def steps(images):
        return tf.stop_gradient(tf.round(linear(images)))

    labels = np.argmax(steps(tf.constant(IMAGES)), axis=1)
    x_adv = tf.function(lambda: Square(ball, queries=200)(steps, tf.constant(IMAGES), labels, 0))()
    assert np.mean(np.argmax(steps(x_adv), axis=1) != labels) >= 0.75


def test_restarts_only_add():
    """Restart after restart, the examples that are broken keep the point that broke them."""
    ball = Linf(0.012)
    results = [np.asarray(Square(ball, queries=6, restarts=n)(linear, IMAGES, LABELS, 0)) for n in (1, 4)]
    broken = [np.argmax(linear(points), axis=1) != LABELS for points in results]
    assert broken[1].sum() >= broken[0].sum()
    np.testing.assert_array_equal(results[0][broken[0]], results[1][broken[0]])


def test_seeds_and_label_forms():
    attack = Square(Linf(0.05), queries=10)
    first, again, other = (np.asarray(attack(unbreakable, IMAGES, LABELS, seed)) for seed in (0, 0, 1))
    one_hot = attack(unbreakable, IMAGES, tf.one_hot(LABELS, 3), 0)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, one_hot)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("scale", [0.01, 0.1, 2.0])
def test_projection_equals_the_exact_one(scale):
    """Bisection against the sorted closed form of the threat model."""
    ball = L1(3.0)
    delta = tf.constant(RNG.normal(scale=scale, size=IMAGES.shape), tf.float32)
    expected = ball.project(IMAGES + delta, tf.constant(IMAGES))
    np.testing.assert_allclose(project_l1(delta, tf.constant(IMAGES), ball), expected, atol=1e-5)


OPTIONS = [
    Square(Linf(0.3)),
    Square(L2(1.0, (-1.0, 1.0)), queries=100, p_init=0.3, resc_schedule=False, restarts=3, compute_dtype="bfloat16"),
    Square(L1(12.0)),
]


@pytest.mark.parametrize("attack", OPTIONS, ids=lambda attack: attack.name)
def test_json_round_trip(attack):
    text = json.dumps(keras.saving.serialize_keras_object(attack))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == attack


def test_names():
    assert [attack.name for attack in OPTIONS] == [
        "Square-5000 (Linf 0.3)",
        "Square-100 (L2 1, p 0.3, fixed schedule, 3 restarts, bfloat16)",
        "Square-5000 (L1 12)",
    ]
    assert Square(Linf(0.3)).total_steps == 5000


ERRORS = [
    (lambda: Square(0.3), "threat_model=0.3"),
    (lambda: Square(Linf), "type type"),
    (lambda: Square(Linf(0.1), queries=0), "queries=0"),
    (lambda: Square(Linf(0.1), queries=True), "queries=True"),
    (lambda: Square(Linf(0.1), queries=2.5), "queries=2.5"),
    (lambda: Square(Linf(0.1), restarts=0), "restarts=0"),
    (lambda: Square(Linf(0.1), p_init=0), "p_init=0"),
    (lambda: Square(Linf(0.1), p_init=1.5), "p_init=1.5"),
    (lambda: Square(Linf(0.1), p_init=float("nan")), "p_init=nan"),
    (lambda: Square(Linf(0.1), p_init="a"), "p_init='a'"),
    (lambda: Square(Linf(0.1), resc_schedule=1), "resc_schedule=1"),
    (lambda: Square(Linf(0.1), compute_dtype="int8"), "compute_dtype='int8'"),
    (lambda: Square(Linf(0.1))(linear, IMAGES[:, 0, 0], LABELS, 0), "shape (3,)"),
    (lambda: Square(Linf(0.1))(linear, IMAGES, LABELS, 0, LABELS), "targets="),
]


@pytest.mark.parametrize(("make", "received"), ERRORS, ids=[received for _, received in ERRORS])
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value)


def test_signs_are_fair_and_independent_between_examples():
    """Of 4000 signs per example, means and correlations are within 5 standard deviations (1 / sqrt 4000) of 0."""
    from keras_robust.attacks.square import KEYS, signs

    drawn = signs(seeds.integers((20,), seeds.as_seed(0), KEYS), (4000,), seeds.as_seed(1)).numpy()
    assert np.abs(drawn.mean(axis=1)).max() < 5 / np.sqrt(4000)
    correlations = drawn @ drawn.T / 4000
    assert np.abs(correlations - np.eye(20)).max() < 5 / np.sqrt(4000)
