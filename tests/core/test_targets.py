"""Which class a targeted attack aims at: distributions and errors."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.core import objectives, seeds

COUNT = 20000
SEED = seeds.as_seed(1)


@pytest.mark.parametrize("one_hot", [False, True])
def test_random_target_is_uniform_over_the_wrong_classes(one_hot):
    """With label 2 of 5: classes 0, 1, 3, 4 with probability 1/4 each, 2 never."""
    labels = np.full(COUNT, 2)
    drawn = objectives.random_target(np.eye(5, dtype=np.float32)[labels] if one_hot else labels, 5, SEED)
    assert drawn.dtype == tf.int32
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / COUNT, [0.25, 0.25, 0, 0.25, 0.25], atol=0.015)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_target_is_never_the_label(classes):
    labels = np.arange(COUNT) % classes
    drawn = np.asarray(objectives.random_target(labels, classes, SEED))
    assert not np.any(drawn == labels)
    assert 0 <= drawn.min() <= drawn.max() < classes


def test_random_any_target_is_uniform_over_all_classes():
    """The label, 2 of 5, is drawn with probability 1/5 like the others."""
    drawn = objectives.random_any_target(np.full(COUNT, 2), 5, SEED)
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / COUNT, np.full(5, 0.2), atol=0.015)


def test_least_likely_target_is_the_smallest_logit():
    logits = np.array([[3.0, -1.0, 0.0], [-2.0, 5.0, -1.0]], np.float32)
    np.testing.assert_array_equal(objectives.least_likely_target(logits), [1, 0])


def test_choose_goal_classes():
    """(labels to leave, targets to reach): logits decide for "least_likely" and "untargeted_from_prediction"."""
    labels, logits = np.array([0, 2]), tf.constant([[3.0, -1.0, 0.0], [-2.0, 5.0, -1.0]])

    def choose(target: str) -> list:
        chosen = objectives.choose_goal_classes(target, labels, logits, SEED)
        return [None if classes is None else np.asarray(classes).tolist() for classes in chosen]

    assert choose("untargeted") == [[0, 2], None]
    assert choose("untargeted_from_prediction") == [[0, 1], None]
    assert choose("least_likely") == [[0, 2], [1, 0]]
    assert choose("random") == [[0, 2], np.asarray(objectives.random_target(labels, 3, SEED)).tolist()]
    assert choose("random_any") == [[0, 2], np.asarray(objectives.random_any_target(labels, 3, SEED)).tolist()]


@pytest.mark.parametrize("target", sorted(objectives.NEEDS_CLEAN_LOGITS))
def test_choose_goal_classes_needs_logits(target):
    with pytest.raises(ValueError, match="Received: clean_logits=None"):
        objectives.choose_goal_classes(target, np.array([0]), None, SEED)


@pytest.mark.parametrize("target", ["next", None, 3, True])
def test_check_target_names_what_was_received(target):
    with pytest.raises(ValueError, match=r"least_likely.*Received: target=") as error:
        objectives.check_target(target)
    assert repr(target) in str(error.value)
