#!/usr/bin/env bash
# tf.py_function around code that is not TensorFlow has a gradient of 0.0, a scalar, where tf.numpy_function has None.
#
# Versions   tensorflow 2.21.0, Python 3.11
# Behaviour  The gradient of a NumPy (or LiteRT) classifier inside tf.py_function is tf.constant(0.0), of shape (),
#            whatever the shape of the input, eagerly and in a graph. An attack that follows it adds sign(0) = 0 by
#            broadcasting, returns every image unchanged and reports that the classifier is robust.
# Otherwise  one expects None, which GradientTape returns where no gradient is defined and which tf.numpy_function
#            returns, or at least a tensor of the shape of the input.
# Seen       2026-11-30:  py_function eager 0.0 of shape ()      numpy_function eager None
#                         py_function graph 0.0 of shape ()      numpy_function graph None
#
# Exits with 0 if that is still so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import numpy as np
import tensorflow as tf

MATRIX = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)


def by_py_function(x):
    return tf.py_function(lambda value: value.numpy() @ MATRIX, [x], tf.float32)


def by_numpy_function(x):
    return tf.numpy_function(lambda value: value @ MATRIX, [x], tf.float32)


def gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        first_logits = tf.reduce_sum(function(x)[:, 0])
    return tape.gradient(first_logits, x)


images = tf.ones((3, 4))
found = []
for function in (by_py_function, by_numpy_function):
    for mode, run in (("eager", gradient), ("graph", tf.function(gradient, autograph=False))):
        result = run(function, images)
        text = "None" if result is None else f"{result.numpy()} of shape {tuple(result.shape)}"
        print(function.__name__.removeprefix("by_"), mode, text)
        found.append(text)
assert found == ["0.0 of shape ()"] * 2 + ["None"] * 2, f"This has changed: {found}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py"
