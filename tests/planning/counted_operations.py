"""What TensorFlow's own profiler counts in a training step, where everything that is repeated is written out."""

import contextlib

import pytest
import tensorflow as tf

from keras_robust.attacks import attack

MULTIPLY = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul")


@contextlib.contextmanager
def written_out(repeats):
    """Traces each loop as `repeats` copies of its body, and of the branches of a choice the first one alone."""

    def loop(cond, body, loop_vars):
        del cond
        for _ in range(repeats):
            loop_vars = body(*loop_vars)
        return loop_vars

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "while_loop", loop)
        patch.setattr(tf, "switch_case", lambda index, branches: branches[0]())
        patch.setattr(attack, "own_function", lambda function: function)
        yield


def profiled_operations(step, *specs, repeats):
    """Returns the floating-point operations of convolutions and matrix products in a compiled `step`.

    What TensorFlow would not run is dropped first.
    """
    with written_out(repeats):
        concrete = tf.function(step, autograph=False).get_concrete_function(*specs)
    outputs = [tensor.op.name for tensor in concrete.graph.outputs]
    stateful = [operation.name for operation in concrete.graph.control_outputs]
    graph_def = concrete.graph.as_graph_def()
    needed = {node.name for node in tf.compat.v1.graph_util.extract_sub_graph(graph_def, [*outputs, *stateful]).node}
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    profile = tf.compat.v1.profiler.profile(concrete.graph, cmd="op", options=options)
    total = 0
    while profile.children:  # cmd="op" nests the kinds of operations in each other
        (profile,) = profile.children
        if profile.name in MULTIPLY:
            total += sum(node.float_ops for node in profile.graph_nodes if node.name in needed)
    return total
