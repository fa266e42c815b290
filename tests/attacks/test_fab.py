"""FAB where the answer is known: linear models, splits into blocks, what breaks, what it costs, NaN."""

import itertools
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from cases import as_slow, rest_slow
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.attacks.fab import FAB
from keras_robust.core import L1, L2, Linf, ThreatModel, seeds

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 4)).astype(np.float32)
IMAGES = (0.5 + 0.3 * RNG.uniform(-1, 1, size=(10, 4, 4, 1))).astype(np.float32)
SEED = seeds.as_seed(3)
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.3), L1(0.8)], ids=str)
KINDS = pytest.mark.parametrize("targets", [None, 3], ids=["untargeted", "targeted"])
EACH_BALL_AND_KIND = pytest.mark.parametrize(
    ("ball", "targets"),
    rest_slow(
        itertools.product([Linf(0.1), L2(0.3), L1(0.8)], [None, 3]), [(Linf(0.1), 3), (L2(0.3), None), (L1(0.8), 3)]
    ),
    ids=str,
)


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 16)) @ WEIGHTS


def wavy(images: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(images, (-1, 16))
    return tf.sin(3.0 * flat @ WEIGHTS) + 0.5 * flat @ WEIGHTS[:, ::-1]


def predictions(model_fn, images) -> np.ndarray:
    return np.asarray(model_fn(tf.constant(images))).argmax(axis=1)


def state_after(attack: FAB, model_fn, labels, steps: int | None = None, images=IMAGES) -> dict[str, tf.Tensor]:
    steps = attack.total_steps if steps is None else steps
    state = attack.start(model_fn, tf.constant(images), labels, seeds.fold(SEED, 0))
    return advance(attack, model_fn, state, 0, steps) if steps else state


def advance(attack: FAB, model_fn, state, first_step: int, steps: int) -> dict[str, tf.Tensor]:
    @tf.function
    def block(state, first_step):
        return attack.advance(model_fn, state, first_step, steps, seeds.fold(SEED, 1))

    return block(state, tf.constant(first_step))


def least_norms(norm: str) -> np.ndarray:
    """For logits x @ w the boundary to class k is margin / ||w_k - w_y|| away, in the dual norm: the least over k."""
    labels = predictions(linear, IMAGES)
    logits = IMAGES.reshape(10, 16) @ WEIGHTS
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    ways = np.full((10, 4), np.inf)
    for i, label in enumerate(labels):
        for k in set(range(4)) - {label}:
            slope = np.linalg.norm(WEIGHTS[:, k] - WEIGHTS[:, label], ord=order)
            ways[i, k] = (logits[i, label] - logits[i, k]) / slope
    return ways.min(axis=1)


@EACH_BALL_AND_KIND
def test_linear_model(ball, targets):
    """One step goes eta = 1.05 times the way to the closest boundary, where the range is far away.

    The second starts at 0.9 * 1.05 = 0.945 of the way, goes past the 0.055 that are left by 5 % of them, to 1.00275,
    and mixes this with 1.05, what the image says, with the weight alpha = 0.055 / (0.055 + 1): 1.0052.
    """
    ball = type(ball)(ball.epsilon, bounds=(-2.0, 3.0))
    labels, exact = predictions(linear, IMAGES), least_norms(ball.norm)
    for steps, factor in ((1, 1.05), (2, 1.0052)):
        distance = state_after(FAB(ball, steps=steps, targets=targets), linear, labels)["distance"]
        np.testing.assert_allclose(distance / exact, factor, rtol=1e-4)


@EACH_BALL_AND_KIND
def test_units_do_not_matter(ball, targets):
    """Images stretched to [-2, 4], with the model behind the inverse, need 6 times the distance."""
    labels = predictions(wavy, IMAGES)
    wide = type(ball)(6 * ball.epsilon, bounds=(-2.0, 4.0))
    distance = state_after(FAB(ball, steps=6, targets=targets), wavy, labels)["distance"]
    stretched = (6 * IMAGES - 2).astype(np.float32)
    state = state_after(FAB(wide, steps=6, targets=targets), lambda x: wavy((x + 2) / 6), labels, images=stretched)
    np.testing.assert_allclose(np.asarray(state["distance"]) / 6, distance, rtol=1e-3)


@pytest.mark.xla
@EACH_BALL_AND_KIND
def test_xla_changes_nothing(ball, targets):
    """Over two runs per class, random starts included; only rounding differs."""
    attack = FAB(ball, steps=3, targets=targets, restarts=2)
    labels = predictions(wavy, IMAGES)

    def run() -> dict[str, tf.Tensor]:
        return state_after(attack, wavy, labels)

    plain, xla = run(), tf.function(run, jit_compile=True)()
    for name in ("point", "closest", "distance"):
        np.testing.assert_allclose(plain[name], xla[name], atol=1e-4)
    np.testing.assert_array_equal(plain["broken"], xla["broken"])


@pytest.mark.parametrize(
    ("blocks", "targets"), [([5, 7], None), ([1, 1, 5, 5], 3), *map(as_slow, [([5, 7], 3), ([11, 1], None)])], ids=str
)
def test_blocks_are_the_whole(blocks, targets):
    """Bitwise, wherever the runs are cut: 12 steps, 3 or 6 per run, and the step is a tensor."""
    attack = FAB(Linf(0.1), steps=2 if targets else 6, targets=targets, restarts=2)
    labels = predictions(wavy, IMAGES)
    whole = state_after(attack, wavy, labels)
    assert attack.total_steps == 12
    state, done = state_after(attack, wavy, labels, steps=0), 0
    for steps in blocks:
        state = advance(attack, wavy, state, done, steps)
        done += steps
    assert state.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_one_trace_serves_every_block():
    attack, traces = FAB(L2(0.3), steps=3, targets=2, restarts=2), []

    @tf.function
    def block(state: dict[str, tf.Tensor], first_step: tf.Tensor) -> dict[str, tf.Tensor]:
        traces.append(first_step)
        return attack.advance(wavy, state, first_step, 4, SEED)

    state = state_after(attack, wavy, predictions(wavy, IMAGES), steps=0)
    for first_step in (0, 4, 8):
        state = block(state, tf.constant(first_step))
    assert len(traces) == 1


@BALLS
def test_neighbours_do_not_matter(ball):
    """Examples that lose their neighbours after 5 steps, before random starts, end where they would have."""
    attack = FAB(ball, steps=4, targets=2, restarts=2)
    labels = predictions(wavy, IMAGES)
    whole = state_after(attack, wavy, labels)
    kept = [7, 2, 3]
    state = {name: tf.gather(value, kept) for name, value in state_after(attack, wavy, labels, steps=3).items()}
    state = advance(attack, wavy, state, 3, attack.total_steps - 3)
    np.testing.assert_allclose(state["distance"], tf.gather(whole["distance"], kept), rtol=1e-4)
    np.testing.assert_allclose(state["point"], tf.gather(whole["point"], kept), atol=1e-4)


@BALLS
def test_random_starts(ball):
    """Without a gradient and a weight for the image, a run ends where it began.

    The first at the image; others at half of epsilon from it (the range does not cut), each at a place of its own.
    """
    images = np.full((5, 4, 4, 1), 0.5, np.float32)

    def blind(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (-1, 16)) @ (0 * WEIGHTS) + [1.0, 0.0, 0.0, 0.0]

    attacks = [FAB(ball, steps=1, restarts=restarts, alpha_max=0.0) for restarts in (1, 2, 3)]
    ends = [np.asarray(state_after(attack, blind, np.zeros(5, int), images=images)["point"]) for attack in attacks]
    np.testing.assert_array_equal(ends[0], images)
    for end in ends[1:]:
        np.testing.assert_allclose(ball.distance(end, images), 0.5 * ball.epsilon, rtol=1e-4)
        assert np.abs(end[0] - end[1]).max() > 1e-3
    assert np.abs(ends[1] - ends[2]).max(axis=(1, 2, 3)).min() > 1e-3


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    ball=st.sampled_from([Linf(0.05), Linf(0.3), L2(0.7), L1(2.0), Linf(0.0), L2(0.5, (-1.0, 2.0))]),
    targets=st.sampled_from([None, 1, 3]),
    restarts=st.integers(1, 2),
    alpha_max=st.sampled_from([0.0, 0.1, 1.0]),
    eta=st.sampled_from([1.0, 1.05, 5.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_always_in_the_ball_and_the_range(ball, targets, restarts, alpha_max, eta, seed):
    """Images as well as points on the way, and what counts as broken is misclassified."""
    attack = FAB(ball, steps=3, targets=targets, restarts=restarts, alpha_max=alpha_max, eta=eta)
    labels = np.arange(10) % 4
    low, high = ball.bounds

    def model_fn(x: tf.Tensor) -> tf.Tensor:
        assert low <= np.min(x) <= np.max(x) <= high
        return wavy(x)

    x_adv = np.asarray(attack(model_fn, IMAGES, labels, seed))
    assert x_adv.shape == IMAGES.shape
    assert x_adv.dtype == np.float32
    assert low <= x_adv.min() <= x_adv.max() <= high
    assert np.all(ball.distance(x_adv, IMAGES) <= ball.epsilon)
    moved = np.any(x_adv != IMAGES, axis=(1, 2, 3))
    assert np.all(predictions(wavy, x_adv)[moved] != labels[moved])


@EACH_BALL_AND_KIND
def test_broken(ball: ThreatModel, targets):
    """Broken is misclassified within epsilon: by the images that come back, and by the distances; clean ones count."""
    labels = predictions(wavy, IMAGES)
    labels[:2] = (labels[:2] + 1) % 4
    distance = np.asarray(state_after(FAB(ball, steps=10, targets=targets), wavy, labels)["distance"])
    attack = FAB(type(ball)(float(np.median(distance[2:]))), steps=10, targets=targets)
    state = state_after(attack, wavy, labels)
    broken, x_adv = np.asarray(state["broken"]), np.asarray(attack.finish(state))
    assert 2 < broken.sum() < 10
    np.testing.assert_array_equal(predictions(wavy, x_adv) != labels, broken)
    np.testing.assert_array_equal(np.asarray(state["distance"]) <= attack.threat_model.epsilon, broken)
    np.testing.assert_array_equal(x_adv[:2], IMAGES[:2])
    np.testing.assert_array_equal(x_adv[~broken], IMAGES[~broken])
    np.testing.assert_array_equal(state["distance"][:2], [0.0, 0.0])
    np.testing.assert_allclose(ball.distance(state["closest"], IMAGES), state["distance"], rtol=1e-5)
    one_hot = np.asarray(attack(wavy, IMAGES, np.eye(4, dtype=np.float32)[labels], SEED))
    np.testing.assert_array_equal(attack(wavy, IMAGES, labels, SEED), one_hot)


@pytest.mark.parametrize(
    ("attack", "calls"),
    [(FAB(Linf(0.1), steps=5), 11), (FAB(L1(0.1), steps=4, targets=3), 25), (FAB(L2(0.1), steps=2, restarts=3), 13)],
    ids=str,
)
def test_cost(attack, calls):
    """One pass of the clean images, and two per step: one to differentiate, one to classify the new point."""
    sizes = []

    def model_fn(x: tf.Tensor) -> tf.Tensor:
        sizes.append(len(x))
        return wavy(x)

    attack(model_fn, IMAGES, np.zeros(10, int), 0)
    assert sizes == [10] * calls == [10] * (1 + 2 * attack.total_steps)


def bytes_of_largest_tensor(attack: FAB, classes: int) -> int:
    """Returns what the largest tensor of the compiled attack takes, on a convolution of 16 filters."""
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.normal(size=(3, 3, 1, 16)), tf.float32)
    weights = tf.constant(rng.normal(size=(16, classes)), tf.float32)

    def model_fn(x: tf.Tensor) -> tf.Tensor:
        features = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return tf.reduce_mean(features, axis=(1, 2)) @ weights

    images, labels = tf.constant(rng.uniform(size=(8, 16, 16, 1)), tf.float32), tf.zeros(8, tf.int32)
    run = tf.function(lambda images: attack(model_fn, images, labels, 0), jit_compile=True)
    program = run.experimental_get_compiler_ir(images)("optimized_hlo")
    return 4 * max(math.prod(map(int, shape.split(","))) for shape in re.findall(r"[fsu]32\[([\d,]+)\]", program))


@pytest.mark.xla
def test_memory_does_not_grow_with_the_number_of_classes():
    """The largest tensor stays that of the features, 8 x 16 x 16 x 16 floats: no gradients of all classes at once."""
    sizes = [bytes_of_largest_tensor(FAB(Linf(0.1), steps=1), classes) for classes in (10, 1000)]
    assert sizes == [4 * 8 * 16**3] * 2


@BALLS
def test_a_step_takes_the_closest_boundary_of_all(ball):
    """The gap and gradient of the jacobian's row with the shortest way, where each label is another class."""
    labels = np.arange(10) % 4
    point = tf.constant(IMAGES)
    gap, gradient = FAB(ball)._boundary(wavy, {"labels": tf.constant(labels, tf.int32)}, point, tf.constant(0))
    with tf.GradientTape() as tape:
        tape.watch(point)
        logits = wavy(point)
    jacobian = np.asarray(tape.batch_jacobian(logits, point)).reshape(10, 4, 16)
    order = {"linf": 1, "l2": 2, "l1": np.inf}[ball.norm]
    for i, label in enumerate(labels):
        gaps, slopes = logits[i] - logits[i, label], jacobian[i] - jacobian[i, label]
        ways = np.abs(gaps) / (1e-12 + np.linalg.norm(slopes, ord=order, axis=1))
        chosen = min(set(range(4)) - {label}, key=lambda k, ways=ways: ways[k])
        np.testing.assert_allclose(gap[i], gaps[chosen], rtol=1e-5)
        np.testing.assert_allclose(np.reshape(gradient[i], 16), slopes[chosen], rtol=1e-4, atol=1e-5)


@KINDS
def test_a_classifier_without_a_gradient_is_refused(targets):
    attack = FAB(Linf(0.1), steps=1, targets=targets)
    with pytest.raises(ValueError, match=r"differentiable in its images.*Received: a classifier without a gradient"):
        attack(lambda x: linear(tf.round(x)), IMAGES, predictions(linear, IMAGES), 0)


@EACH_BALL_AND_KIND
@pytest.mark.parametrize("mode", ["eager", pytest.param("xla", marks=pytest.mark.xla)])
def test_nan_is_not_hidden(ball, targets, mode):
    """A model that returns NaN gives NaN images for that example, and no other example suffers."""
    labels = predictions(linear, IMAGES)

    def partly(images: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.range(10)[:, None] == 3, float("nan"), 1.0) * linear(images)

    attack = FAB(ball, steps=2, targets=targets, restarts=2)

    def run() -> tf.Tensor:
        return attack(partly, tf.constant(IMAGES), labels, 0)

    x_adv = np.asarray(tf.function(run, jit_compile=True)() if mode == "xla" else run())
    assert np.isnan(x_adv[3]).any()
    assert np.isfinite(np.delete(x_adv, 3, axis=0)).all()


@KINDS
def test_a_nan_gradient_of_an_early_run_is_not_hidden_by_later_ones(targets):
    """Only the clean start meets it: a model that is NaN where a pixel is exactly 0.5."""
    images = IMAGES.copy()
    images[2, 0, 0, 0] = 0.5

    def holed(x: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reshape(x, (-1, 16))[:, :1] == 0.5, float("nan"), 1.0) * linear(x)

    attack = FAB(Linf(0.001), steps=1, targets=targets, restarts=3)
    x_adv = np.asarray(attack(holed, images, predictions(linear, images), 0))
    assert np.isnan(x_adv[2]).any()
    assert np.isfinite(np.delete(x_adv, 2, axis=0)).all()


def test_it_goes_on_from_an_example_that_is_not_broken_after_all():
    """What was closest is forgotten, and the next steps find it again."""
    attack, labels = FAB(Linf(0.5), 20), predictions(linear, IMAGES)
    state = state_after(attack, linear, labels, 10)
    assert state["broken"].numpy().all()
    again = attack.go_on(state)
    assert not again["broken"].numpy().any()
    assert np.isinf(again["distance"]).all()
    after = advance(attack, linear, again, 10, 10)
    assert after["broken"].numpy().all()
    np.testing.assert_allclose(after["distance"], state["distance"], rtol=0.05)
