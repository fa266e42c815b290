"""Objectives against NumPy, and their limits."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.core import CrossEntropy, DifferenceOfLogitsRatio, KLDivergence, Margin, objectives
from keras_robust.core.objectives import Goal, get_objective, labels_are_valid

pytestmark = pytest.mark.graph

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32) * 3
TENSOR = tf.constant(LOGITS)
LABELS = np.array([0, 1, 2, 3, 4, int(LOGITS[5].argmax())])
TARGETS = (LABELS + 1) % 5
ONE_HOT = np.eye(5, dtype=np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def numpy_margin(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return np.array(
        [max(z for k, z in enumerate(row) if k != y) - row[y] for row, y in zip(logits, labels, strict=True)]
    )


def test_cross_entropy():
    """-log softmax of the label; for soft labels -sum y log softmax."""
    rows = np.arange(6)
    np.testing.assert_allclose(
        objectives.cross_entropy(LABELS, LOGITS), -log_softmax(LOGITS)[rows, LABELS], rtol=1e-5, atol=1e-6
    )
    soft = (0.9 * ONE_HOT[LABELS] + 0.02).astype(np.float32)
    expected = -(soft * log_softmax(LOGITS)).sum(axis=1)
    np.testing.assert_allclose(objectives.cross_entropy(soft, LOGITS), expected, rtol=1e-5)


def test_margin():
    """Largest other logit less the label's: by hand for three rows, then against a loop."""
    by_hand = np.array([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [-3.0, -1.0, -2.0]], np.float32)
    np.testing.assert_allclose(objectives.margin([0, 1, 2], tf.constant(by_hand)), [3.0, -2.0, 1.0])
    np.testing.assert_allclose(objectives.margin(LABELS, TENSOR), numpy_margin(LABELS, LOGITS), rtol=1e-6)
    assert objectives.margin(LABELS, TENSOR)[5] < 0


def test_difference_of_logits_ratio():
    """(max other - z_y) / (z_(1) - z_(3)): by hand (2 - 5) / (5 - 1) for the right label, (5 - 1) / (5 - 1) for 1's."""
    logits = np.array([[5.0, 2.0, 1.0, 0.0]] * 2, np.float32)
    np.testing.assert_allclose(objectives.difference_of_logits_ratio([0, 2], tf.constant(logits)), [-0.75, 1.0])
    ranked = -np.sort(-LOGITS, axis=1)
    expected = numpy_margin(LABELS, LOGITS) / (ranked[:, 0] - ranked[:, 2])
    np.testing.assert_allclose(objectives.difference_of_logits_ratio(LABELS, TENSOR), expected, rtol=1e-5)


def test_targeted_difference_of_logits_ratio():
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2): by hand (2 - 5) / (5 - (1 + 0) / 2)."""
    logits = np.array([[5.0, 2.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(objectives.targeted_difference_of_logits_ratio([0], [1], logits), [-3 / 4.5], rtol=1e-6)
    ranked, rows = -np.sort(-LOGITS, axis=1), np.arange(6)
    expected = (LOGITS[rows, TARGETS] - LOGITS[rows, LABELS]) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2)
    value = objectives.targeted_difference_of_logits_ratio(LABELS, TARGETS, LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_dlr_is_unchanged_by_scaling_and_shifting_the_logits(targets):
    """Numerator and denominator are both differences of logits, so shifts cancel and scales divide out."""
    objective, goal = DifferenceOfLogitsRatio(), Goal(LABELS, targets)
    value = objective(TENSOR, goal)
    np.testing.assert_allclose(objective(100 * TENSOR, goal), value, rtol=1e-4)
    np.testing.assert_allclose(objective(TENSOR + 7, goal), value, rtol=1e-4, atol=1e-5)


def test_kl_divergence():
    """It is sum p log(p / q), and 0 of a prediction from itself, where its gradient is 0 too."""
    other = LOGITS[::-1].copy()
    log_p, log_q = log_softmax(other), log_softmax(LOGITS)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(objectives.kl_divergence(other, LOGITS), expected, rtol=1e-4, atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(TENSOR)
        value = KLDivergence()(TENSOR, Goal(LABELS, clean_logits=LOGITS))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(value, TENSOR), 0 * LOGITS, atol=1e-6)


def test_kl_divergence_of_certain_predictions_is_finite():
    """From (1, 0) to (e^-1000, 1) it is 1000 nats, though the probabilities underflow."""
    certain = np.array([[1000.0, 0.0]], np.float32)
    np.testing.assert_allclose(objectives.kl_divergence(certain, certain[:, ::-1].copy()), [1000.0], rtol=1e-5)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), Margin(kappa=0.5), DifferenceOfLogitsRatio()])
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_one_hot_labels_equal_sparse_labels(objective, targets):
    """Also sparse labels of shape (batch, 1), as Keras hands them over."""
    sparse = objective(TENSOR, Goal(LABELS, targets))
    one_hot = objective(TENSOR, Goal(ONE_HOT[LABELS], None if targets is None else ONE_HOT[targets]))
    column = objective(TENSOR, Goal(LABELS[:, None], None if targets is None else targets[:, None]))
    assert sparse.shape == (6,)
    np.testing.assert_allclose(one_hot, sparse, rtol=1e-6)
    np.testing.assert_allclose(column, sparse, rtol=1e-6)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin()])
def test_a_target_turns_the_sign(objective):
    """Reaching t is worth minus what leaving t is worth."""
    toward, away = objective(TENSOR, Goal(LABELS, TARGETS)), objective(TENSOR, Goal(TARGETS))
    np.testing.assert_allclose(toward, -np.asarray(away), rtol=1e-6)


def test_kappa_stops_the_margin():
    """It is min(margin, kappa): beyond kappa the gradient is 0, so the attack leaves the example alone."""
    logits = tf.constant([[0.0, 5.0], [0.0, 1.0], [3.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = Margin(kappa=2.0)(logits, Goal([0, 0, 0]))
    np.testing.assert_allclose(value, [2.0, 1.0, -3.0])
    np.testing.assert_allclose(tape.gradient(value, logits), [[0, 0], [-1, 1], [-1, 1]])


@pytest.mark.parametrize("kappa", [-1, float("nan")])
def test_kappa_is_at_least_0(kappa):
    with pytest.raises(ValueError, match=f"kappa={kappa}"):
        Margin(kappa=kappa)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross_entropy", CrossEntropy),
        ("margin", Margin),
        ("dlr", DifferenceOfLogitsRatio),
        ("kl_divergence", KLDivergence),
    ],
)
def test_get_objective_by_name(name, kind):
    assert get_objective(name) == kind()
    assert get_objective(kind()) == kind()


@pytest.mark.parametrize("objective", ["ce", None, 3, Margin, lambda logits, goal: logits])
def test_get_objective_refuses_anything_else(objective):
    with pytest.raises(ValueError, match=r"cross_entropy.*Received: objective=") as error:
        get_objective(objective)
    assert repr(objective) in str(error.value)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(kappa=50.0), DifferenceOfLogitsRatio(), KLDivergence()])
def test_serialisation_round_trip(objective):
    text = json.dumps(keras.saving.serialize_keras_object(objective))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == objective


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_no_class_is_not_a_number(label):
    """`tf.one_hot` has zeros there, so the loss would be 0, and a gather under XLA the logit of another class."""
    labels = tf.constant([0, label, 2])
    logits = TENSOR[:3]
    np.testing.assert_array_equal(np.isnan(objectives.cross_entropy(labels, logits)), [False, True, False])
    of_margin = tf.function(objectives.margin, jit_compile=True)(labels, logits)
    np.testing.assert_array_equal(np.isnan(of_margin), [False, True, False])


def test_valid_labels():
    """Indices of classes, also as a column and as floats; rows of numbers from 0 that add up to 1."""
    valid = lambda labels: list(labels_are_valid(np.asarray(labels), 3).numpy())  # noqa: E731
    assert valid([0, 2, 3, -1]) == [True, True, False, False]
    assert valid([[0], [3]]) == [True, False]
    assert valid([0.0, 0.5, np.nan]) == [True, False, False]
    assert valid([[0, 1, 0], [0, 0, 0], [0.5, 0.5, 0.5], [1.5, -0.5, 0], [0.2, 0.3, 0.5]]) == [True, *3 * [False], True]
    assert valid(np.array([255, 1], np.uint8)) == [False, True]
