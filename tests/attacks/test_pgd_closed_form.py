"""PGD and its special cases where the answer is known: linear models, and loops written by hand in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import BIM, FGSM, PGD, RFGSM
from keras_robust.core import L1, L2, Linf

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 2)).astype(np.float32)
IMAGES = RNG.uniform(size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 1, 0])
ALONG = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(4, 4, 1)
SIDE = np.where(LABELS == 0, 1.0, -1.0)[:, None, None, None]


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 16)) @ WEIGHTS


def blind(images: tf.Tensor) -> tf.Tensor:
    """Logits that no image changes: the gradient is 0, and an attack ends where it starts."""
    return tf.reshape(images, (-1, 16)) @ np.zeros((16, 3), np.float32)


def run(attack: PGD, mode: str, images: np.ndarray = IMAGES) -> np.ndarray:
    def call() -> tf.Tensor:
        return attack(linear, tf.constant(images), LABELS, 3)

    return np.asarray(call() if mode == "eager" else tf.function(call, jit_compile=mode == "xla")())


MODES = ["eager", "graph", pytest.param("xla", marks=pytest.mark.xla)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("objective", "random_start"), [("cross_entropy", "uniform"), ("margin", "sign"), ("margin", "none")]
)
def test_linf_reaches_the_corner(mode, objective, random_start):
    """For logits x @ w the loss is monotone along w[:, 1] - w[:, 0], so PGD ends at a corner of ball and range.

    Any start is within 2 epsilon of it, and the steps add up to 2.5 epsilon.
    """
    attack = PGD(Linf(0.2), steps=5, objective=objective, random_start=random_start)
    corner = np.clip(IMAGES + 0.2 * SIDE * np.sign(ALONG), 0, 1)
    np.testing.assert_allclose(run(attack, mode), corner, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_l2_reaches_the_far_point(mode):
    """The largest linear function on a sphere is along its gradient; the range is too far away to matter here."""
    images = 0.5 + 0.2 * (IMAGES - 0.5)
    attack = PGD(L2(0.1), steps=5, random_start="none")
    expected = images + 0.1 * SIDE * ALONG / np.linalg.norm(ALONG)
    np.testing.assert_allclose(run(attack, mode, images), expected, atol=1e-6)


def test_l2_from_a_random_start_comes_close_to_the_far_point():
    """Each step halves the sideways part or better, as it adds epsilon along the gradient and is scaled back."""
    images = 0.5 + 0.2 * (IMAGES - 0.5)
    attack = PGD(L2(0.1), steps=30, step_size=0.1)
    expected = images + 0.1 * SIDE * ALONG / np.linalg.norm(ALONG)
    np.testing.assert_allclose(run(attack, "graph", images), expected, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_l1_spends_all_on_the_steepest_pixel(mode):
    """The largest linear function on the L1 ball is at a vertex: epsilon on the pixel of the largest |w1 - w0|."""
    images = 0.5 + 0.2 * (IMAGES - 0.5)
    attack = PGD(L1(0.3, quantile=1.0), steps=5, random_start="none")
    vertex = np.sign(ALONG) * (np.abs(ALONG) == np.abs(ALONG).max())
    np.testing.assert_allclose(run(attack, mode, images), images + 0.3 * SIDE * vertex, atol=1e-6)


@pytest.mark.xla
@pytest.mark.parametrize(
    "attack",
    [
        PGD(Linf(0.3), steps=2, restarts=2, clean_start_probability=0.3),
        PGD(L2(0.8), steps=2, objective="margin"),
        PGD(L1(2.0), steps=2, target="random"),
    ],
    ids=lambda attack: attack.name,
)
def test_eager_graph_and_xla_agree(attack):
    eager = run(attack, "eager")
    np.testing.assert_allclose(run(attack, "graph"), eager, atol=1e-5)
    np.testing.assert_allclose(run(attack, "xla"), eager, atol=1e-5)


A = 0.3 * RNG.normal(size=(16, 5))
B = RNG.normal(size=(5, 3))
CLASSES = np.array([0, 1, 2, 0, 1, 2])


def quadratic(images: tf.Tensor) -> tf.Tensor:
    """Logits (x A)^2 B."""
    return (tf.reshape(images, (-1, 16)) @ tf.constant(A, tf.float32)) ** 2 @ tf.constant(B, tf.float32)


def gradient(x: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Returns d CE / dx = A (2 (x A) * (B (softmax - y))), by the chain rule."""
    hidden = x @ A
    logits = hidden**2 @ B
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    return (2 * hidden * ((softmax - soft) @ B.T)) @ A.T


def ascend(start: np.ndarray, soft: np.ndarray, epsilon: float, step: float, steps: int) -> np.ndarray:
    """The sign-gradient loop of the papers, in float64."""
    x = IMAGES.reshape(-1, 16).astype(np.float64)
    x_adv = start.reshape(-1, 16).astype(np.float64)
    for _ in range(steps):
        x_adv = x_adv + step * np.sign(gradient(x_adv, soft))
        x_adv = np.clip(np.clip(x_adv, x - epsilon, x + epsilon), 0, 1)
    return x_adv.reshape(IMAGES.shape)


ONE_HOT = np.eye(3)[CLASSES]


def test_fgsm_is_one_step_of_epsilon():
    x_adv = FGSM(Linf(0.1))(quadratic, IMAGES, CLASSES, 0)
    np.testing.assert_allclose(x_adv, ascend(IMAGES, ONE_HOT, 0.1, 0.1, 1), atol=1e-6)


@pytest.mark.parametrize(("step_size", "step"), [(None, 0.025), (0.04, 0.04)])
def test_bim_is_a_loop_from_the_image(step_size, step):
    """Without a step size, 4 steps of 0.1 / 4."""
    x_adv = BIM(Linf(0.1), steps=4, step_size=step_size)(quadratic, IMAGES, CLASSES, 0)
    np.testing.assert_allclose(x_adv, ascend(IMAGES, ONE_HOT, 0.1, step, 4), atol=1e-6)


@pytest.mark.parametrize(("start_radius", "alpha"), [(None, 0.05), (0.02, 0.02)])
def test_rfgsm_is_random_signs_and_one_step_of_the_rest(start_radius, alpha):
    """A blind model shows the start: alpha times random signs."""
    attack = RFGSM(Linf(0.1), start_radius=start_radius)
    start = np.asarray(attack(blind, IMAGES, CLASSES, 5))
    inner = (IMAGES > 0.1) & (IMAGES < 0.9)
    np.testing.assert_allclose(np.abs(start - IMAGES)[inner], alpha, atol=1e-6)
    assert 0.3 < (start > IMAGES)[inner].mean() < 0.7
    x_adv = attack(quadratic, IMAGES, CLASSES, 5)
    np.testing.assert_allclose(x_adv, ascend(start, ONE_HOT, 0.1, 0.1 - alpha, 1), atol=1e-6)


def test_pgd_is_a_loop_from_its_random_start():
    """2.5 epsilon / steps = 0.05 each."""
    attack = PGD(Linf(0.1), steps=5)
    start = np.asarray(attack(blind, IMAGES, CLASSES, 5))
    assert np.abs(start - IMAGES).max() <= 0.1 + 1e-6
    assert np.abs(start - IMAGES).mean() > 0.02
    x_adv = attack(quadratic, IMAGES, CLASSES, 5)
    np.testing.assert_allclose(x_adv, ascend(start, ONE_HOT, 0.1, 0.05, 5), atol=1e-6)


def test_soft_labels_are_used_as_they_are():
    """The gradient is that of -sum y log softmax; with these labels its signs differ from the hard labels'."""
    soft = np.array([[0.1, 0.1, 0.8]] * 6)
    x_adv = FGSM(Linf(0.1))(quadratic, IMAGES, soft.astype(np.float32), 0)
    expected = ascend(IMAGES, soft, 0.1, 0.1, 1)
    np.testing.assert_allclose(x_adv, expected, atol=1e-6)
    assert np.abs(expected - ascend(IMAGES, ONE_HOT, 0.1, 0.1, 1)).max() > 0.1


def test_one_hot_labels_equal_sparse_labels():
    attack = PGD(L2(0.5), steps=3)
    sparse = attack(quadratic, IMAGES, CLASSES, 0)
    np.testing.assert_allclose(attack(quadratic, IMAGES, ONE_HOT.astype(np.float32), 0), sparse, atol=1e-6)
    np.testing.assert_allclose(attack(quadratic, IMAGES, CLASSES[:, None], 0), sparse, atol=1e-6)


@pytest.mark.parametrize(
    "attack", [FGSM(Linf(0.0)), RFGSM(Linf(0.0)), BIM(L2(0.0)), PGD(L1(0.0))], ids=lambda attack: attack.name
)
def test_epsilon_0_returns_the_images(attack):
    np.testing.assert_array_equal(attack(quadratic, IMAGES, CLASSES, 0), IMAGES)


def test_no_gradient_flows_through_the_attack():
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(PGD(Linf(0.1), steps=2)(linear, images, LABELS, 0))
    assert tape.gradient(total, images) is None
