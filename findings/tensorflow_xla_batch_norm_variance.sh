#!/usr/bin/env bash
# TensorFlow: compiled by XLA, the fused batch normalisation of inputs far from 0 has a wrong variance, or NaN.
#
# Versions   tensorflow 2.21.0, Python 3.11, CPU
# Behaviour  FusedBatchNormV3 in training mode, on inputs of standard deviation 3. In a tf.function with
#            jit_compile=True the variance is that of E[x^2] - E[x]^2 in float32: with a mean of 100 it is wrong by
#            one percent, with a mean of 3000 it can be negative, and outputs are NaN. Without XLA the same
#            operation subtracts the mean first, and is right for both.
# Otherwise  one expects XLA to compute what the operation computes, up to rounding: jit_compile is offered as a switch
#            for speed. Keras 3's own BatchNormalization, a chain of operations, is right with and without it.
# Seen       2026-12-01:  mean  100 xla False error of the variance 1e-05 share of NaN 0.0
#                         mean  100 xla True  error of the variance 1e-02 share of NaN 0.0
#                         mean 3000 xla False error of the variance 8e-05 share of NaN 0.0
#                         mean 3000 xla True  error of the variance 7e+00 share of NaN 0.2
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


def normalize(x):
    ones, zeros = tf.ones(5), tf.zeros(5)
    outputs, _, variance, *_ = tf.raw_ops.FusedBatchNormV3(x=x, scale=ones, offset=zeros, mean=[], variance=[])
    return outputs, variance


found = {}
for mean in (0, 100, 3000):
    x = np.random.default_rng(0).normal(mean, 3, (128, 32, 32, 5)).astype(np.float32)
    exact = x.astype(np.float64).var((0, 1, 2), ddof=1)
    for xla in (False, True):
        outputs, variance = tf.function(normalize, jit_compile=xla)(tf.constant(x))
        error, bad = np.abs(variance / exact - 1).max(), np.isnan(outputs).mean()
        found[mean, xla] = error, bad
        print(f"mean {mean:4d} xla {xla!s:5s} error of the variance {error:.0e} share of NaN {bad:.1f}")
assert all(found[mean, False][0] < 1e-4 and found[mean, False][1] == 0 for mean in (0, 100)), "This has changed."
assert found[100, True][0] > 3e-4 and found[3000, True][1] > 0 and found[3000, False][1] == 0, "This has changed."
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py" 2>/dev/null
