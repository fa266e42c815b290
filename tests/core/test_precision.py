"""The dtype of images and logits."""

import pytest
import tensorflow as tf

from keras_robust.core.precision import full_precision


@pytest.mark.parametrize("dtype", ["float16", tf.bfloat16, "float32", tf.uint8])
def test_all_but_float64_are_float32(dtype):
    assert full_precision(dtype) == "float32"
    assert full_precision() == "float32"


def test_float64(float64):
    assert full_precision() == full_precision(tf.float64) == "float64"
    assert full_precision("float32") == "float32"
