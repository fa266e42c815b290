"""What the options of PGD do: starts, restarts, targets, objectives, and what a run costs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robust.attacks import BIM, CW, FGSM, PGD, RFGSM
from keras_robust.core import L1, L2, Linf
from keras_robust.core.objectives import margin

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(9, 4)).astype(np.float32) * 3
IMAGES = RNG.uniform(size=(10, 3, 3, 1)).astype(np.float32)
LABELS = np.arange(10) % 4
KAPPAS = (0.0, 5.0, None)


def linear(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, 9)) @ WEIGHTS


def wavy(images: tf.Tensor) -> tf.Tensor:
    """Many local maxima, so that starts matter."""
    return tf.sin(9 * tf.reshape(images, (-1, 9))) @ WEIGHTS


def blind(images: tf.Tensor) -> tf.Tensor:
    return 0 * linear(images)


class Recorder:
    """A model function that keeps the images it was called on."""

    def __init__(self, model_fn=wavy) -> None:
        self.model_fn = model_fn
        self.calls: list[np.ndarray] = []

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        self.calls.append(np.asarray(images))
        return self.model_fn(images)


COSTS = [
    (FGSM(Linf(0.1)), 1),
    (RFGSM(Linf(0.1)), 1),
    (BIM(Linf(0.1), steps=3), 3),
    (PGD(Linf(0.1), steps=7), 7),
    (PGD(L2(0.1), steps=2, clean_start_probability=0.5), 2),
    (PGD(Linf(0.1), steps=4, restarts=3), 3 * (4 + 1)),
    (PGD(Linf(0.1), steps=4, eot_iter=3), 3 * 4),
    (PGD(Linf(0.1), steps=4, restarts=2, target="least_likely", eot_iter=3), 1 + 3 * 2 * (4 + 1)),
    (PGD(Linf(0.1), steps=4, objective="kl_divergence"), 4 + 1),
    (PGD(Linf(0.1), steps=4, target="least_likely"), 4 + 1),
    (PGD(Linf(0.1), steps=4, target="random", restarts=2), 1 + 2 * (4 + 1)),
]


@pytest.mark.parametrize(("attack", "calls"), COSTS, ids=[attack.name for attack, _ in COSTS])
def test_a_run_costs_its_steps(attack, calls):
    """Per gradient's passes one per step, and one per restart of several; one where the clean image is looked at."""
    model_fn = Recorder()
    attack(model_fn, IMAGES, LABELS, 0)
    assert len(model_fn.calls) == calls


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    ball=st.sampled_from([Linf(0.3), Linf(1.0), L2(0.7), L2(5.0), L1(2.0), L1(2.0, quantile=0.5), Linf(0.0)]),
    objective=st.sampled_from(["cross_entropy", "margin", "dlr", "kl_divergence"]),
    target=st.sampled_from(["untargeted", "random", "random_any", "least_likely", "untargeted_from_prediction"]),
    start=st.sampled_from(["uniform", "none", "sign"]),
    clean=st.sampled_from([0.0, 0.5]),
    restarts=st.integers(1, 2),
    step_size=st.sampled_from([None, 0.01, 10.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_always_in_the_ball_and_the_range(ball, objective, target, start, clean, restarts, step_size, seed):
    """Whatever the options, and at every point on the way."""
    start = "uniform" if start == "sign" and ball.norm != "linf" else start
    if objective == "kl_divergence":  # takes no targets and no start at the clean image
        target, start, clean = "untargeted", "uniform", 0.0
    attack = PGD(
        ball,
        steps=2,
        step_size=step_size,
        objective=objective,
        target=target,
        random_start=start,
        clean_start_probability=clean,
        restarts=1 if start == "none" else restarts,
    )
    model_fn = Recorder()
    x_adv = attack(model_fn, IMAGES, LABELS, seed)
    assert x_adv.dtype == tf.float32
    assert x_adv.shape == IMAGES.shape
    for points in [*model_fn.calls, np.asarray(x_adv)]:
        assert np.all(ball.distance(points, IMAGES) <= ball.epsilon + 1e-5)
        assert points.min() >= 0
        assert points.max() <= 1


def scores(points: np.ndarray, objective: str) -> list[tuple[bool, float]]:
    """(misclassified, objective) per example, in NumPy; such pairs compare as the restarts should."""
    logits = np.asarray(wavy(tf.constant(points)), np.float64)
    rows = np.arange(len(points))
    others = np.where(np.eye(4, dtype=bool)[LABELS], -np.inf, logits).max(axis=1)
    margin = others - logits[rows, LABELS]
    value = margin if objective == "margin" else np.log(np.exp(logits).sum(axis=1)) - logits[rows, LABELS]
    return list(zip(margin > 0, value, strict=True))


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_restarts_keep_the_worst_per_example(objective):
    """With 2 steps per restart the third call scores its result; the best of those by NumPy must be returned."""
    attack = PGD(Linf(0.1), steps=2, objective=objective, restarts=5)
    model_fn = Recorder()
    x_adv = np.asarray(attack(model_fn, IMAGES, LABELS, 2))
    ends = model_fn.calls[2::3]
    assert len(ends) == 5
    of_restart = [scores(end, objective) for end in ends]
    best = [max(range(5), key=lambda r, i=i: of_restart[r][i]) for i in range(10)]
    np.testing.assert_array_equal(x_adv, [ends[r][i] for i, r in enumerate(best)])
    assert len(set(best)) > 2


def test_more_restarts_are_never_worse():
    """The first restarts of a longer run are those of a shorter one with the same seed."""
    runs = [PGD(Linf(0.1), steps=2, restarts=r)(wavy, IMAGES, LABELS, 4) for r in (1, 2, 4)]
    one, two, four = (scores(np.asarray(x_adv), "cross_entropy") for x_adv in runs)
    assert all(a <= b <= c for a, b, c in zip(one, two, four, strict=True))
    assert one != four


def test_restarts_prefer_a_misclassified_example_over_a_larger_objective():
    """Towards a target the objective can be larger where the label still wins: misclassification goes first.

    Among 200 images, tiny steps and large starts, some have their largest objective where they are classified rightly,
    and are misclassified elsewhere.
    """
    images = np.random.default_rng(1).uniform(size=(200, 3, 3, 1)).astype(np.float32)
    labels = np.asarray(wavy(images)).argmax(axis=1)
    targets = (labels + 1) % 4
    model_fn = Recorder()
    attack = PGD(Linf(0.1), steps=1, step_size=1e-6, target="given", restarts=4)
    x_adv = np.asarray(attack(model_fn, images, labels, 0, targets))

    def wrong(points: np.ndarray) -> np.ndarray:
        return np.asarray(wavy(points)).argmax(axis=1) != labels

    ends = model_fn.calls[1::2]
    values = [np.asarray(tf.nn.log_softmax(wavy(end))).astype(np.float64)[np.arange(200), targets] for end in ends]
    of_largest = np.array([wrong(ends[r])[i] for i, r in enumerate(np.argmax(values, axis=0))])
    ever = np.any([wrong(end) for end in ends], axis=0)
    assert np.any(ever & ~of_largest)
    np.testing.assert_array_equal(wrong(x_adv), ever)


def test_attacks_that_differ_in_their_start_have_their_own_names():
    ball = Linf(0.3)
    assert PGD(ball, clean_start_probability=0.2).name == "PGD-10 (Linf 0.3, step 0.075, clean start 0.2)"
    names = [
        *(
            PGD(ball, random_start=start, start_radius=radius).name
            for start in ("sign", "normal")
            for radius in (0.1, 0.2)
        ),
        *(PGD(ball, clean_start_probability=0.5, clean_start_per=per).name for per in ("example", "batch")),
        *(RFGSM(ball, start_radius=radius).name for radius in (0.1, 0.2)),
    ]
    assert len(set(names)) == len(names)


def test_clean_start_probability_1_starts_at_the_image():
    for per in ("example", "batch"):
        attack = PGD(Linf(0.3), steps=2, clean_start_probability=1.0, clean_start_per=per)
        np.testing.assert_array_equal(attack(blind, IMAGES, LABELS, 0), IMAGES)


def test_clean_start_is_drawn_per_example_or_per_batch():
    """A blind model leaves each example at its start: mixed within a batch, or all alike."""
    clean = {}
    for per in ("example", "batch"):
        attack = PGD(Linf(0.3), steps=1, clean_start_probability=0.5, clean_start_per=per)
        starts = [np.asarray(attack(blind, IMAGES, LABELS, seed)) for seed in range(16)]
        clean[per] = np.array([[np.array_equal(s, x) for s, x in zip(start, IMAGES, strict=True)] for start in starts])
    assert 0.4 < clean["example"].mean() < 0.6
    assert 0 < clean["example"][0].mean() < 1
    assert np.all(clean["batch"].all(axis=1) == clean["batch"].any(axis=1))
    assert 0.2 < clean["batch"].mean() < 0.8


def test_clean_starts_are_independent_of_the_random_points():
    """Among the images of one pixel that do start elsewhere, half start above it."""
    images = np.full((400, 1), 0.5, np.float32)
    attack = PGD(Linf(0.3), steps=1, clean_start_probability=0.5)
    moved = np.asarray(attack(lambda x: 0 * tf.tile(x, (1, 2)), images, np.zeros(400, int), 0)) - images
    assert 0.4 < (moved != 0).mean() < 0.6
    assert 0.4 < (moved[moved != 0] > 0).mean() < 0.6


def fgsm_towards(classes: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """The exact FGSM of the linear model: x + 0.1 sign * sign(-dCE(classes)/dx), -dCE/dx = (y - p) w^T."""
    flat = IMAGES.reshape(-1, 9).astype(np.float64)
    p = np.exp(flat @ WEIGHTS)
    p /= p.sum(axis=1, keepdims=True)
    step = 0.1 * sign * np.sign((np.eye(4)[classes] - p) @ WEIGHTS.T)
    return np.clip(flat + step, 0, 1).reshape(IMAGES.shape)


def test_targets():
    """Given targets are approached, the least likely class likewise; predictions are left instead of labels."""
    logits = np.asarray(linear(IMAGES))
    targets = (LABELS + 2) % 4
    given_targets = FGSM(Linf(0.1), target="given")(linear, IMAGES, LABELS, 0, targets)
    np.testing.assert_allclose(given_targets, fgsm_towards(targets), atol=1e-6)
    least = FGSM(Linf(0.1), target="least_likely")(linear, IMAGES, LABELS, 0)
    np.testing.assert_allclose(least, fgsm_towards(logits.argmin(axis=1)), atol=1e-6)
    prediction = FGSM(Linf(0.1), target="untargeted_from_prediction")(linear, IMAGES, LABELS, 0)
    np.testing.assert_allclose(prediction, fgsm_towards(logits.argmax(axis=1), -1.0), atol=1e-6)
    assert np.any(logits.argmax(axis=1) != LABELS)


@pytest.mark.parametrize(("target", "may_be_label"), [("random", False), ("random_any", True)])
def test_random_targets_are_approached(target, may_be_label):
    """Each result is the exact FGSM towards one class: for "random" never the label, for "random_any" sometimes."""
    towards = [fgsm_towards(np.full(10, k)) for k in range(4)]
    reached = []
    for seed in range(8):
        x_adv = np.asarray(FGSM(Linf(0.1), target=target)(linear, IMAGES, LABELS, seed))
        near = [[np.allclose(x_adv[i], towards[k][i], atol=1e-6) for k in range(4)] for i in range(10)]
        assert np.all(np.any(near, axis=1))
        reached.append([near[i][LABELS[i]] for i in range(10)])
    own = [np.array_equal(towards[LABELS[i]][i], towards[k][i]) for i in range(10) for k in range(4) if k != LABELS[i]]
    assert not any(own)
    assert np.any(reached) == may_be_label


def test_kl_objective_leaves_the_clean_prediction():
    """From a random start it drives the prediction further away than the start did, and labels play no part."""
    attack = PGD(Linf(0.2), steps=3, objective="kl_divergence")
    x_adv = attack(linear, IMAGES, LABELS, 0)
    np.testing.assert_array_equal(attack(linear, IMAGES, 3 - LABELS, 0), x_adv)

    def divergence(points: np.ndarray) -> np.ndarray:
        log_p, log_q = (np.asarray(tf.nn.log_softmax(linear(x)), np.float64) for x in (IMAGES, points))
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)

    start = attack(blind, IMAGES, LABELS, 0)
    assert np.all(divergence(x_adv) > divergence(start))


def test_the_seed_decides_the_start():
    attack = PGD(Linf(0.3), steps=1)
    first = attack(blind, IMAGES, LABELS, 0)
    np.testing.assert_array_equal(attack(blind, IMAGES, LABELS, tf.constant([0, 0])), first)
    assert not np.allclose(attack(blind, IMAGES, LABELS, 1), first)
    assert attack != PGD(Linf(0.3), steps=2)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(1.0)], ids=str)
@pytest.mark.parametrize("restarts", [1, 3])
def test_nan_is_not_hidden(ball, restarts):
    """A model that returns NaN for an example gives NaN images for it, and no other example suffers."""

    def broken(images: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.range(10)[:, None] == 3, float("nan"), 1.0) * linear(images)

    x_adv = np.asarray(PGD(ball, steps=2, restarts=restarts)(broken, IMAGES, LABELS, 0))
    assert np.isnan(x_adv[3]).any()
    assert np.isfinite(np.delete(x_adv, 3, axis=0)).all()


def test_cw_leaves_an_example_alone_once_its_margin_is_kappa():
    """Climbing stops at the first point with a margin of kappa; without a limit it goes on."""
    attacked = {
        kappa: CW(Linf(0.5), steps=20, step_size=0.02, kappa=kappa)(wavy, IMAGES, LABELS, 0) for kappa in KAPPAS
    }
    margins = {kappa: margin(LABELS, wavy(images)).numpy() for kappa, images in attacked.items()}
    means = [margins[kappa].mean() for kappa in KAPPAS]
    assert means == sorted(means)
    assert means[0] + 1 < means[-1]
    assert CW(Linf(0.5), kappa=50.0).name == "PGD-100 (Linf 0.5, step 0.0125, margin up to 50)"
