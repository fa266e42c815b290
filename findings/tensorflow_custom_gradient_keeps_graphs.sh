#!/usr/bin/env bash
# tf.custom_gradient: a traced function that uses it is never freed, nor is anything in its graph.
#
# Versions   tensorflow 2.21.0, Python 3.11
# Behaviour  Each trace of a function with tf.custom_gradient registers its gradient under a new name for the life of the
#            process. What is registered holds the results, and so the whole graph around them. A program that compiles
#            functions again and again, such as one that evaluates a model in a loop, grows without end.
# Otherwise  one expects a tf.function that nobody holds to be garbage, as it is without a custom gradient.
# Seen       2026-11-30:  graphs alive after 10 were traced and dropped: 0 plain, 10 with a custom gradient
#
# Exits with 0 if that is still so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import gc
import weakref

import tensorflow as tf


def plain(x):
    return 2.0 * x


@tf.custom_gradient
def custom(x):
    return 2.0 * x, lambda upstream: 2.0 * upstream


def trace(function):
    """Returns a weak reference to the graph of a function that is traced and dropped."""
    traced = tf.function(lambda x: function(x) + 1.0, autograph=False)
    return weakref.ref(traced.get_concrete_function(tf.TensorSpec((4,))).graph)


alive = []
for function in (plain, custom):
    graphs = [trace(function) for _ in range(10)]
    gc.collect()
    alive.append(sum(graph() is not None for graph in graphs))
print(f"graphs alive after 10 were traced and dropped: {alive[0]} plain, {alive[1]} with a custom gradient")
assert alive == [0, 10], f"This has changed: {alive}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py"
