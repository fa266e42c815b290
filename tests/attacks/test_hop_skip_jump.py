"""HopSkipJump: closed forms of a linear classifier, and Foolbox (`tests/golden/make_hop_skip_jump.py`)."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.attacks import HopSkipJump, as_model_fn
from keras_robust.attacks.hop_skip_jump import coarsen
from keras_robust.core import L1, L2, Linf, seeds

pytestmark = pytest.mark.graph

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
BALLS = {"linf": Linf, "l2": L2}
WEIGHTS = np.random.default_rng(0).normal(size=64).astype(np.float32)
IMAGES = np.random.default_rng(1).uniform(0.3, 0.7, (6, 8, 8, 1)).astype(np.float32)
MARGINS = IMAGES.reshape(6, -1) @ WEIGHTS
MARGINS += 0.5 - MARGINS.mean()
LABELS = (MARGINS > 0).astype(np.int64)


def decisions(images):
    """A linear classifier of two classes that tells the class alone: rows of 1 for it, and -1."""
    shift = 0.5 - (IMAGES.reshape(6, -1) @ WEIGHTS).mean()
    found = tf.linalg.matvec(tf.reshape(images, (-1, 64)), WEIGHTS) + shift
    return 2.0 * tf.one_hot(tf.cast(found > 0, tf.int32), 2) - 1.0


def walked(attack, model_fn, images, labels, seed=0, **options):
    """The state after all queries."""

    def run():
        state = attack.start(model_fn, images, labels, seeds.as_seed(seed))
        rounds = (tf.constant(0), tf.constant(attack.total_steps))
        return attack.advance(model_fn, state, *rounds, seeds.as_seed(seed + 100))

    return tf.function(run, autograph=False, **options)()


@pytest.mark.parametrize("norm", BALLS)
def test_it_comes_to_the_nearest_boundary(norm):
    """That of a linear classifier is |margin| / ||w||, in the dual norm, away: nothing is nearer, and it gets close."""
    attack = HopSkipJump(BALLS[norm](0.0), queries=5000)
    state = walked(attack, decisions, IMAGES, LABELS)
    nearest = np.abs(MARGINS) / np.linalg.norm(WEIGHTS, ord=1 if norm == "linf" else 2)
    ratio = attack.threat_model.distance(state["points"], IMAGES).numpy() / nearest
    assert ratio.min() > 0.999
    assert ratio.max() < (1.15 if norm == "linf" else 1.05)
    assert np.all(decisions(state["points"]).numpy().argmax(1) != LABELS)
    assert np.all((state["queries"] > 4000) & (state["queries"] <= 5000))


@pytest.mark.parametrize("norm", BALLS)
def test_what_is_returned_is_in_the_ball_and_wrong_where_a_wrong_one_is_near(norm):
    nearest = np.abs(MARGINS) / np.linalg.norm(WEIGHTS, ord=1 if norm == "linf" else 2)
    ball = BALLS[norm](float(np.median(nearest)))
    found = HopSkipJump(ball, queries=3000)(decisions, IMAGES, LABELS, seed=3)
    assert np.all(ball.distance(found, IMAGES) <= ball.epsilon * (1 + 1e-5))
    assert found.numpy().min() >= 0.0
    assert found.numpy().max() <= 1.0
    wrong = decisions(found).numpy().argmax(1) != LABELS
    np.testing.assert_array_equal(wrong[nearest > ball.epsilon], False)
    np.testing.assert_array_equal(wrong[nearest < 0.8 * ball.epsilon], True)


@pytest.mark.xla
def test_xla_draws_and_walks_alike(linear_classifier):
    """Decisions at the boundary turn on rounding, so points agree after the start, and distances after all rounds."""
    attack = HopSkipJump(L2(0.0), queries=400, samples=20, samples_per_pass=10)
    model_fn = as_model_fn(linear_classifier())
    images = IMAGES[:, :4, :4]
    labels = tf.argmax(model_fn(images), axis=1)
    graph, xla = (walked(attack, model_fn, images, labels, jit_compile=compiled) for compiled in (False, True))
    starts = [
        tf.function(lambda: attack.start(model_fn, images, labels, seeds.as_seed(0)), jit_compile=compiled)()
        for compiled in (False, True)
    ]
    np.testing.assert_allclose(starts[1]["points"], starts[0]["points"], atol=1e-3)
    distances = [attack.threat_model.distance(state["points"], images) for state in (graph, xla)]
    np.testing.assert_allclose(distances[1], distances[0], rtol=0.1)


def test_an_example_does_not_depend_on_its_neighbours():
    attack = HopSkipJump(L2(0.0), queries=600)
    together = walked(attack, decisions, IMAGES, LABELS)["points"]
    alone = walked(attack, decisions, IMAGES[2:3], LABELS[2:3])["points"]
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)


def test_no_more_queries_are_made_than_said():
    """Counted per image by a classifier that sees each of them alone in its batch."""
    seen = []

    def counting(images):
        return tf.numpy_function(lambda x: (seen.append(len(x)), decisions(x).numpy())[1], [images], tf.float32)

    def with_shape(images):
        return tf.ensure_shape(counting(images), (None, 2))

    attack = HopSkipJump(Linf(0.0), queries=500)
    state = walked(attack, with_shape, IMAGES[:1], LABELS[:1])
    assert sum(seen) == state["queries"][0] <= 500


def test_without_a_start_the_image_stays():
    def certain(images):
        return tf.tile([[1.0, -1.0]], [tf.shape(images)[0], 1])

    found = HopSkipJump(L2(1.0), queries=300)(certain, IMAGES, np.zeros(6, np.int64), seed=0)
    np.testing.assert_array_equal(found, IMAGES)


def test_an_image_that_is_wrong_already_stays():
    found = HopSkipJump(L2(1.0), queries=300)(decisions, IMAGES, 1 - LABELS, seed=0)
    np.testing.assert_array_equal(found, IMAGES)


def test_coarse_noise_has_blocks():
    noise = coarsen(tf.reshape(tf.range(30), (5, 6, 1)), tf.constant(4)).numpy()[:, :, 0]
    np.testing.assert_array_equal(np.unique(noise), [0, 4, 24, 28])
    assert (noise[:4, :4] == 0).all()


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "hop_skip_jump.json").read_text())["cases"], ids=lambda case: case["norm"]
)
def test_distances_are_no_larger_than_those_of_foolbox(case):
    """Medians of 40 digits at as many queries as Foolbox made, with a tenth for the draws."""
    sys.path.insert(0, str(GOLDEN))
    import small_cnn

    images, labels = (array[: case["examples"]] for array in small_cnn.digits())
    attack = HopSkipJump(BALLS[case["norm"]](0.0), queries=case["queries"], samples_per_pass=50)
    state = walked(attack, as_model_fn(small_cnn.keras_model()), images, labels)
    distances = attack.threat_model.distance(state["points"], images).numpy()
    right = np.array(case["distances"]) > 0
    assert np.median(distances[right]) <= 1.1 * np.median(np.array(case["distances"])[right])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threat_model": L1(1.0)}, "norms"),
        ({"threat_model": L2(1.0), "queries": 0}, "queries must be an integer of at least 1"),
        ({"threat_model": L2(1.0), "samples_per_pass": 2.5}, "samples_per_pass must be an integer"),
        ({"threat_model": L2(1.0), "compute_dtype": "int8"}, "compute_dtype"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HopSkipJump(**options)


def test_targets_are_refused():
    with pytest.raises(ValueError, match="untargeted"):
        HopSkipJump(L2(1.0))(decisions, IMAGES, LABELS, 0, targets=1 - LABELS)
