"""Ranks against a sort, and what is not finite."""

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_robust.evaluation.inputs import NOT_A_CLASS, classify, rank_labels


@given(hnp.arrays(np.float32, (6, 5), elements=st.integers(-3, 3)), hnp.arrays(np.int32, 6, elements=st.integers(0, 4)))
def test_rank_is_the_position_in_a_stable_sort(logits, labels):
    order = np.argsort(-logits, axis=1, kind="stable")
    expected = [row.tolist().index(label) for row, label in zip(order, labels, strict=True)]
    assert rank_labels(tf.constant(logits), tf.constant(labels)).numpy().tolist() == expected


@given(hnp.arrays(np.float32, (6, 5), elements=st.integers(-3, 3)), hnp.arrays(np.int32, 6, elements=st.integers(0, 4)))
def test_rank_0_is_the_prediction(logits, labels):
    ranks, predictions = rank_labels(tf.constant(logits), tf.constant(labels)), classify(tf.constant(logits))
    np.testing.assert_array_equal(ranks == 0, predictions == labels)


def test_logits_that_are_not_finite_predict_no_class():
    logits = tf.constant([[1.0, float("nan")], [2.0, 1.0], [float("inf"), 0.0]])
    assert classify(logits).numpy().tolist() == [NOT_A_CLASS, 0, NOT_A_CLASS]
    assert rank_labels(logits, tf.constant([0, 0, 0])).numpy().tolist() == [2, 0, 2]
