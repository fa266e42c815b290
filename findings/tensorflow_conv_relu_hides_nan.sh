#!/usr/bin/env bash
# TensorFlow on CPU: in a compiled graph, convolution + bias + ReLU turns NaN into 0; op by op it stays NaN.
#
# Versions   tensorflow 2.21.0, Python 3.11, CPU with oneDNN (the default on x86-64 Linux)
# Behaviour  With a kernel of NaN, relu(conv2d(x) + bias) is NaN in eager mode and all zeros inside tf.function, where the
#            three operations are rewritten into one. The same holds for matmul + bias + ReLU. ReLU alone keeps NaN in
#            both modes. So a network whose first kernel became NaN has finite outputs and a finite loss in a compiled
#            training step, and a callback that watches the loss (keras.callbacks.TerminateOnNaN) sees nothing.
# Otherwise  one expects a graph to compute what its operations compute one by one, and NaN to reach the loss.
# Seen       2026-11-30:  eager conv nan=1.0 dense nan=1.0 relu nan=1.0
#                         graph conv nan=0.0 dense nan=0.0 relu nan=1.0
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

images = tf.random.normal((2, 8, 8, 3))
kernel, matrix, bias = tf.fill((3, 3, 3, 4), float("nan")), tf.fill((3, 4), float("nan")), tf.zeros(4)


def conv(x):
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))


def dense(x):
    return tf.nn.relu(tf.nn.bias_add(tf.matmul(x[:, 0, 0], matrix), bias))


def relu(x):
    return tf.nn.relu(x * float("nan"))


found = {}
for mode, wrap in (("eager", lambda function: function), ("graph", tf.function)):
    shares = {f.__name__: float(np.isnan(wrap(f)(images)).mean()) for f in (conv, dense, relu)}
    print(mode, *(f"{name} nan={share}" for name, share in shares.items()))
    found[mode] = list(shares.values())
assert found == {"eager": [1.0, 1.0, 1.0], "graph": [0.0, 0.0, 1.0]}, f"This has changed: {found}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py"
