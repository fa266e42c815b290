"""FAB against the reference code of AutoAttack, on the small classifier and its 100 digits; see golden/make_fab.py."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow

from keras_robust.attacks import as_model_fn
from keras_robust.attacks.fab import FAB
from keras_robust.core import L1, L2, Linf, seeds

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(FOLDER))
import small_cnn  # noqa: E402

pytestmark = pytest.mark.graph

GOLDEN = json.loads((FOLDER / "fab.json").read_text())
BALLS = {"linf": Linf, "l2": L2, "l1": L1}
SEED = seeds.as_seed(0)


def distances_per_target(norm: str, **options) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least norms that each run finds, (runs, 100), and which examples are broken, in blocks of a run."""
    images, labels = small_cnn.digits()
    model_fn = as_model_fn(small_cnn.keras_model())
    attack = FAB(BALLS[norm](GOLDEN[norm]["epsilons"][1]), **options)

    @tf.function
    def block(state: dict[str, tf.Tensor], first_step: tf.Tensor) -> dict[str, tf.Tensor]:
        return attack.advance(model_fn, state, first_step, attack.steps, SEED)

    state = attack.start(model_fn, tf.constant(images), labels, SEED)
    found, broken = [], np.asarray(state["broken"])
    for first_step in range(0, attack.total_steps, attack.steps):
        # What earlier targets found is forgotten, as each run of the reference starts anew.
        forgotten = tf.where(state["distance"] > 0, tf.constant(np.inf, tf.float32), 0.0)
        state = block({**state, "distance": forgotten}, tf.constant(first_step))
        found.append(np.asarray(state["distance"]))
        broken = broken | np.asarray(state["broken"])
    return np.array(found), broken


def check_norms(found: np.ndarray, golden: list[float], median: float) -> None:
    """The same digits need nothing; the median relative difference is small, that of the means below 2 %."""
    golden = np.array(golden)
    np.testing.assert_array_equal(found == 0, golden == 0)
    assert np.mean(np.isinf(found) == np.isinf(golden)) >= 0.98
    both = np.isfinite(found) & np.isfinite(golden) & (golden > 0)
    assert both.sum() > 80
    assert np.median(np.abs(found[both] / golden[both] - 1)) < median
    assert found[both].mean() == pytest.approx(golden[both].mean(), rel=0.02)


@pytest.mark.parametrize("norm", rest_slow(BALLS, ["linf"]))
def test_targeted(norm):
    """FAB-T with 9 targets: norms per example for the first and the last target, the least ones, the accuracies.

    Both start at the image, so nothing is random; but 100 steps of ReLUs carry the rounding of two convolutions
    far, for single examples into another linear region. So the norms agree in the median, and accuracies within
    2 of 100 examples.
    """
    golden = GOLDEN[norm]
    found, broken = distances_per_target(norm, targets=9)
    check_norms(found[0], golden["norms_of_first_target"], 1e-4)
    check_norms(found[-1], golden["norms_of_last_target"], 1e-4)
    least = found.min(axis=0)
    check_norms(least, golden["least_norms"], 1e-4)
    for epsilon, accuracy in zip(golden["epsilons"], golden["targeted_accuracy"], strict=True):
        assert abs(100 * np.mean(least > epsilon) - accuracy) <= 2
    assert abs(100 * np.mean(~broken) - golden["targeted_accuracy"][1]) <= 2


@pytest.mark.parametrize("norm", sorted(BALLS))
def test_untargeted(norm):
    """20 steps over all classes: as above."""
    golden = GOLDEN[norm]
    found, _ = distances_per_target(norm, steps=GOLDEN["untargeted_steps"])
    check_norms(found[0], golden["untargeted_norms"], 1e-4)
    for epsilon, accuracy in zip(golden["epsilons"], golden["untargeted_accuracy"], strict=True):
        assert abs(100 * np.mean(found[0] > epsilon) - accuracy) <= 2
