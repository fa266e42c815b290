"""The curve over iterations against closed forms on linear classifiers, and against attacks run one by one."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation.curves import iteration_curve

STEP, EPSILON = 0.01, 0.05
ATTACK = kr.attacks.PGD(kr.Linf(EPSILON), step_size=STEP, random_start="none")


def linear(kernel):
    return lambda x: tf.reshape(x, (-1, 16)) @ kernel


def first_broken(images, labels, kernel, counts):
    """Per example: n steps from the image lower a linear margin by min(n step, epsilon) times the L1 norm."""
    difference = (kernel[:, 1] - kernel[:, 0]) * np.where(labels, 1, -1)[:, None]
    margins = (images.reshape(len(images), -1) * difference).sum(1)
    lost = np.array([min(count * STEP, EPSILON) for count in [0, *counts]])[:, None] * np.abs(difference).sum(1)
    broken = margins < lost
    return [int([0, *counts][np.argmax(row)]) if row.any() else None for row in broken.T]


def curve(model, dataset, attack, iterations, **options):
    return iteration_curve(model, dataset, attack, iterations, **{"verbose": False, **options})


@pytest.mark.parametrize("batch_size", [4, 128])
def test_a_linear_margin_falls_until_the_edge_of_the_ball(problem, batch_size):
    """5 steps of 0.01 reach epsilon 0.05: nothing breaks later, so 8 and 16 iterations leave the same."""
    images, labels, kernel = problem
    counts = [1, 2, 4, 8, 16]
    found = curve(linear(kernel), (images, labels), ATTACK, counts, batch_size=batch_size)
    expected = first_broken(*problem, counts)
    assert set(expected) == {0, 1, 2, 4, 8, None}
    assert found["broken_at"] == expected
    assert found["accuracy"] == [np.mean([at is None or at > count for at in expected]) for count in counts]
    assert found["kind"] == "iteration_curve"
    assert found["attack"] == "PGD-16 (Linf 0.05, step 0.01, start none)"
    assert found["iterations"] == counts
    assert found["flat"]
    assert found["verdict"].startswith("The curve is flat: ")
    assert found["verdict"].endswith(f"{100 * found['accuracy'][-1]:.1f} % withstand 16.")
    assert json.loads(json.dumps(found)) == found


def test_a_curve_that_still_falls_is_not_flat(problem):
    images, labels, kernel = problem
    found = curve(linear(kernel), (images, labels), ATTACK, (1, 2, 3, 4))
    assert not found["flat"]
    assert found["verdict"].startswith("The curve still falls")
    assert f"{100 * found['accuracy'][1]:.1f} % withstand 2 iterations" in found["verdict"]


@pytest.mark.parametrize(("lost", "flat"), [(0, True), (1, True), (2, False)])
def test_one_example_of_few_is_no_fall(lost, flat):
    """Pixels at 0.5 - 0.025 break in 3 steps of 0.01 up, the others never."""
    levels = np.where(np.arange(10) < lost, 0.475, 0.1).astype(np.float32)

    def brighter(x):
        return tf.reshape(x, (-1, 1)) * [[-1.0, 1.0]] + [[0.5, -0.5]]

    attack = dataclasses.replace(ATTACK, threat_model=kr.Linf(0.2))
    found = curve(brighter, (levels.reshape(10, 1, 1, 1), np.zeros(10, np.int64)), attack, (1, 2, 4))
    assert found["accuracy"] == [1, 1, 1 - lost / 10]
    assert found["flat"] is flat


def test_a_count_agrees_with_the_attack_of_as_many_steps(conv_classifier, batch):
    """Worst case: robust at both counts is robust under both attacks, run by `evaluate`."""
    images, _ = batch(60)
    model = conv_classifier()
    labels = keras.ops.convert_to_numpy(model(images)).argmax(1)
    labels[:3] += 1
    labels %= 3
    counts = [1, 12]
    attacks = [dataclasses.replace(ATTACK, threat_model=kr.Linf(0.04), steps=count) for count in counts]
    report = kr.evaluate(model, (images, labels), attacks, verbose=False)
    robust = [report.record["details"][attack.name]["robust"] for attack in attacks]
    found = curve(model, (images, labels), attacks[0], counts)
    assert 1 > found["accuracy"][0] > found["accuracy"][1] > 0
    assert found["accuracy"] == [np.mean(robust[0]), np.logical_and(*robust).mean()]
    assert [at is None for at in found["broken_at"]] == np.logical_and(*robust).tolist()
    assert found["broken_at"][:3] == [0, 0, 0]


@pytest.mark.parametrize(("counts", "broken_at"), [((1, 3, 8), 3), ((1, 8), None)])
def test_what_is_broken_at_a_listed_count_stays_broken(counts, broken_at):
    """Steps of 0.01 up from 0.5, with a wrong answer only between 0.525 and 0.545: at iterations 3 and 4."""

    def band(x):
        x = tf.reshape(x, (-1, 1))
        wrong = tf.where((x > 0.525) & (x < 0.545), 1.0, -1.0) + x - tf.stop_gradient(x)
        return tf.concat([tf.zeros_like(wrong), wrong], axis=1)

    attack = dataclasses.replace(ATTACK, threat_model=kr.Linf(0.2))
    found = curve(band, (np.full((2, 1, 1, 1), 0.5, np.float32), [0, 1]), attack, counts)
    assert found["broken_at"] == [broken_at, 0]
    assert found["accuracy"] == [0.5 if broken_at is None or count < broken_at else 0 for count in counts]


def test_without_a_step_size_it_is_that_of_the_attack_as_given(problem):
    images, labels, kernel = problem
    attack = kr.attacks.PGD(kr.Linf(0.05), steps=10)
    found = curve(linear(kernel), (images, labels), attack, (1, 2))
    assert found["attack"] == "PGD-2 (Linf 0.05, step 0.0125)"


def test_the_seed_decides_the_start_and_the_targets(problem):
    images, labels, kernel = problem
    attack = kr.attacks.PGD(kr.Linf(EPSILON), step_size=EPSILON / 4, target="random")
    labels = keras.utils.to_categorical(labels, 2)
    runs = [curve(linear(kernel), (images, labels), attack, (1, 2), seed=seed) for seed in (1, 1, 2)]
    broken = [run["broken_at"] for run in runs]
    assert broken[0] == broken[1] != broken[2]


@pytest.mark.graph
def test_few_examples_are_no_larger_batch(problem):
    """Batches of 128 classify the clean images; the run is of as many rows as are right."""
    images, labels, kernel = problem
    sizes = []

    def model_fn(x):
        sizes.append(x.shape[0])
        return linear(kernel)(x)

    found = curve(model_fn, (images, labels), ATTACK, (1, 2))
    right = sum(at != 0 for at in found["broken_at"])
    assert right < 100
    assert sizes[0] == 128
    assert set(sizes[1:]) == {right}


def test_a_classifier_that_is_always_wrong_has_nothing_to_lose(problem):
    images, _, kernel = problem
    labels = 1 - (images.reshape(100, 16) @ kernel).argmax(1)
    found = curve(linear(kernel), (images, labels), ATTACK, (1, 2))
    assert found["accuracy"] == [0, 0]
    assert found["broken_at"] == [0] * 100


@pytest.mark.multi_device
def test_two_replicas_find_the_same(problem, two_replicas):
    images, labels, kernel = problem
    with two_replicas.scope():
        found = curve(linear(kernel), (images, labels), ATTACK, (1, 2, 4), batch_size=32)
    assert found["broken_at"] == first_broken(*problem, [1, 2, 4])


CASES = {
    "not PGD": ({"attack": kr.attacks.APGD(kr.Linf(0.1))}, "attack must be of class PGD.*Received: attack=APGD"),
    "restarts": ({"attack": kr.attacks.PGD(kr.Linf(0.1), restarts=2)}, "restarts=2"),
    "no iterations": ({"iterations": ()}, r"iterations=\(\)"),
    "a number": ({"iterations": 10}, "iterations=10"),
    "zero iterations": ({"iterations": (0, 1)}, r"iterations=\(0, 1\)"),
    "falling": ({"iterations": (2, 1)}, r"iterations=\(2, 1\)"),
    "twice": ({"iterations": (1, 1, 2)}, r"iterations=\(1, 1, 2\)"),
    "fractions": ({"iterations": (1.5, 4.0)}, r"iterations=\(1.5, 4.0\)"),
    "too close": ({"iterations": (10, 19)}, r"at least twice the first.*iterations=\(10, 19\)"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
    "model": ({"model": 3}, "model=3"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_of_an_iteration_curve_are_named(problem, options, message):
    images, labels, kernel = problem
    given = {"model": linear(kernel), "attack": ATTACK, "iterations": (1, 2), **options}
    with pytest.raises(ValueError, match=message):
        curve(given.pop("model"), (images, labels), given.pop("attack"), given.pop("iterations"), **given)
