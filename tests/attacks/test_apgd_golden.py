"""Auto-PGD against its authors' code: golden/apgd.json, made by golden/make_apgd.py on the 100 digits of small_cnn."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow

from keras_robust.attacks import as_model_fn
from keras_robust.attacks.apgd import APGD
from keras_robust.attacks.apgd_rules import RULES, kth_largest, project_l1
from keras_robust.core import L1, L2, Linf

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
sys.path.append(str(GOLDEN))
import small_cnn  # noqa: E402

pytestmark = pytest.mark.graph

NUMBERS = json.loads((GOLDEN / "apgd.json").read_text())
BALLS = {"linf": Linf, "l2": L2, "l1": L1}
OBJECTIVES = {"ce": "cross_entropy", "dlr": "dlr", "targeted": "dlr"}
ACCURACY = 2.0
"""Points. Starts are drawn by other generators: over seeds, the reference itself moves by up to 5 points."""


def golden_attack(case: dict) -> APGD:
    targeted = 9 if case["kind"] == "targeted" else 0
    options = {"larger_radii": case["larger_radii"]} if "larger_radii" in case else {}
    ball = BALLS[case["norm"]](case["epsilon"])
    return APGD(ball, case["steps"], OBJECTIVES[case["kind"]], targeted=targeted, **options)


def marked(case: dict):
    """Runs of 20 steps are quick: one of each norm is not among the slow tests."""
    quick = case["steps"] <= 20 and (case["norm"], case["epsilon"]) in {("linf", 0.2), ("l2", 2.0), ("l1", 10.0)}
    return pytest.param(case, id=golden_attack(case).name, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize("case", [marked(case) for case in NUMBERS["runs"]])
def test_accuracy_and_loss(case):
    """Means over seeds agree: of the digits that stay right, and of the best losses.

    The loss of DLR has no useful mean, as its denominator can be almost 0: there only the digits count.
    """
    images, labels = small_cnn.digits()
    model_fn, attack = as_model_fn(small_cnn.keras_model()), golden_attack(case)

    @tf.function
    def run(seed):
        state = attack.start(model_fn, images, labels, seed)
        state = attack.advance(model_fn, state, tf.constant(0), attack.total_steps, seed)
        return attack.finish(state), state["broken"], state["best_loss"]

    robust, losses = [], []
    for seed in range(len(case["robust"])):
        attacked, broken, loss = run(tf.constant([0, seed]))
        right = np.asarray(model_fn(attacked)).argmax(axis=1) == labels
        np.testing.assert_array_equal(right, ~broken.numpy())
        robust.append(right.sum())
        losses.append(np.mean(loss))
    assert abs(np.mean(robust) - np.mean(case["robust"])) <= ACCURACY, (robust, case["robust"])
    if case["kind"] == "ce" and "mean_loss" in case:
        np.testing.assert_allclose(np.mean(losses), case["mean_loss"], rtol=0.03, atol=0.02)


def start_points(norm: str, epsilon: float) -> np.ndarray:
    """The start that make_apgd.py injects into the reference."""
    images, _ = small_cnn.digits()
    noise = np.random.default_rng(1).uniform(-1, 1, images.shape).astype(np.float32)
    if norm == "l2":
        noise /= np.sqrt((noise**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.clip(images + np.float32(0.5 * epsilon) * noise, 0, 1)


@pytest.mark.parametrize("case", NUMBERS["traces"], ids=lambda case: case["norm"])
@pytest.mark.parametrize("index", rest_slow(range(8), [0, 3, 5, 6]))  # after 1, 5, 10 and 20 steps
def test_path_from_a_given_start(case, index, monkeypatch):
    """From the same start, the best points (a random projection of each) and losses after the same number of steps.

    Losses agree for every digit. Points agree for nearly all: where a gradient is 0 but for rounding, its sign, and
    with it a pixel, is anyone's choice; so after many steps only losses are compared, a little less closely.
    """
    images, labels = small_cnn.digits()
    steps = case["steps"][index]
    attack = APGD(BALLS[case["norm"]](case["epsilon"]), steps)
    start = tf.constant(start_points(case["norm"], case["epsilon"]))
    monkeypatch.setattr(type(RULES[case["norm"]]), "draw", lambda *_: start)
    model_fn = as_model_fn(small_cnn.keras_model())

    @tf.function
    def run():
        state = attack.start(model_fn, images, labels, tf.constant([0, 0]))
        return attack.advance(model_fn, state, tf.constant(0), steps, tf.constant([0, 0]))

    state = run()
    expected_loss, expected_sums = case["best_loss"][index], case["weighted_sums"][index]
    np.testing.assert_allclose(state["best_loss"], expected_loss, rtol=1e-3, atol=5e-6 if steps <= 10 else 1e-3)
    if steps <= 10:
        weights = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)
        sums = (state["best"] * weights).numpy().sum(axis=(1, 2, 3))
        assert np.isclose(sums, expected_sums, atol=5e-3).mean() >= 0.94


@pytest.mark.parametrize("radius", [0.0, 0.5, 10.0, 50.0, 500.0])
def test_projection_is_that_of_the_threat_model(radius):
    """Newton's method finds what `L1.project` finds by sorting."""
    rng = np.random.default_rng(0)
    images = small_cnn.digits()[0][:20]
    points = (images + 0.3 * rng.normal(size=images.shape)).astype(np.float32)
    projected = project_l1(points, images, tf.constant(radius), (0.0, 1.0))
    np.testing.assert_allclose(projected, L1(radius).project(points, images), atol=2e-6)


def test_kth_largest():
    """Exactly the sorted entry, ties, zeros and infinities included."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(6, 50)) * 10.0 ** rng.integers(-30, 30, (6, 50))).astype(np.float32)
    values[1] = 2.0
    values[2, :40] = 0.0
    values[3, 0] = np.inf
    ranks = np.array([1, 7, 20, 1, 50, 25], np.int32)
    expected = np.sort(values, axis=1)[np.arange(6), -ranks]
    np.testing.assert_array_equal(kth_largest(tf.constant(values), tf.constant(ranks)), expected)
