"""How computations run: precision, graphs, XLA, and gradients written by hand."""

import functools
import time
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.keras_private import without_tracing_warning
from keras_robust.core.seeds import Tensor

ROUNDS = 4
"""Rounds in which float32 and bfloat16 take turns. The first is a warm-up; the shortest of the others counts."""


def full_precision(dtype: Any = None) -> str:
    """Returns "float64" for that dtype and "float32" for any other; None is `keras.config.floatx()`."""
    dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    return "float64" if dtype == "float64" else "float32"


def resolve_compute_dtype(compute_dtype: str | None) -> str | None:
    """Returns "bfloat16" or "float32" for "auto", by `bfloat16_pays`, and anything else as it is."""
    if compute_dtype != "auto":
        return compute_dtype
    return "bfloat16" if bfloat16_pays() else "float32"


@functools.cache
def bfloat16_pays() -> bool:
    """Returns whether convolutions run faster in bfloat16 than in float32 on the devices of this process.

    TPUs are, and NVIDIA GPUs with compute capability 8.0 or more. Other GPUs count as slower. On a CPU a convolution
    and its input gradient are timed, once per process and in less than a second, because the result depends on the
    processor (AVX512-BF16 or AMX), on how TensorFlow was built, and on environment variables of oneDNN. On an Intel
    Xeon with AVX512-BF16 this convolution takes 0.3 times as long in bfloat16 as in float32; with AVX512 alone 2 times;
    without oneDNN 9 times. Below AVX512 it may not run at all.
    """
    if tf.config.list_physical_devices("TPU"):
        return True
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(each.get("compute_capability", (0, 0)) >= (8, 0) for each in details)
    with tf.init_scope(), tf.device("CPU:0"):  # an attack asks while it is traced
        runs = [_convolution(dtype) for dtype in ("float32", "bfloat16")]
        try:
            _, *rounds = [[_seconds(run) for run in runs] for _ in range(ROUNDS)]
        except tf.errors.OpError:  # ONEDNN_MAX_CPU_ISA forbids what bfloat16 needs
            return False
    single, half = (min(timings) for timings in zip(*rounds, strict=True))
    return half < single


def _convolution(dtype: str) -> Callable[[], None]:
    """Returns a function that runs a convolution of LeNet's second layer and its input gradient, on 8 images."""
    images, kernel = tf.zeros((8, 14, 14, 32), dtype), tf.zeros((5, 5, 32, 64), dtype)
    options: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    def run() -> None:
        outputs = tf.raw_ops.Conv2D(input=images, filter=kernel, **options)
        tf.raw_ops.Conv2DBackpropInput(
            input_sizes=images.shape, filter=kernel, out_backprop=outputs, **options
        ).numpy()  # waits for the result

    return run


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def make_tf_function(function: Callable[..., Any], **options: Any) -> Any:
    """Returns `tf.function(function, autograph=False, **options)` without the warning about retracing.

    Each attack and each model has its own functions, which are traced once or twice. TensorFlow takes functions from
    one line of code for a single function that is traced again and again, and has no public switch for its warning.
    """
    return without_tracing_warning(tf.function(function, autograph=False, **options))


def check_compile_attack(compile_attack: Any) -> None:
    """Raises `ValueError` unless `compile_attack` is True, False or "auto"."""
    if compile_attack not in (True, False, "auto"):
        raise ValueError(f"compile_attack must be True, False or 'auto'. Received: compile_attack={compile_attack!r}")


def uses_xla(compile_attack: bool | str) -> bool:
    """Returns whether attacks are compiled with XLA: as given; for "auto", if there is a GPU."""
    return bool(tf.config.list_logical_devices("GPU")) if compile_attack == "auto" else bool(compile_attack)


GRADIENTS = "_keras_robust_gradients"
"""Attribute of a graph that holds the gradient functions of its custom gradients."""


class GraphTensor:
    """A tensor of a graph, found by its name. It does not keep the graph alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._graph, self._name = weakref.ref(tensor.graph), tensor.name

    @property
    def graph(self) -> Any:
        """The graph, or None if it no longer exists."""
        return self._graph()

    def to_tensor(self, dtype: Any = None, name: Any = None, as_ref: bool = False) -> Tensor:
        """Returns the tensor itself."""
        del dtype, name, as_ref
        return self.graph.get_tensor_by_name(self._name)


tf.register_tensor_conversion_function(GraphTensor, GraphTensor.to_tensor)


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `tf.custom_gradient(function)` that frees everything but a name with the graph that uses it.

    Args:
        function: maps tensors to (results, gradient), as for `tf.custom_gradient`: `results` is a tensor or a tuple of
            tensors, `gradient` maps their gradients to those of the arguments. It must use variables only through its
            arguments.
    """

    def run(*arguments: Tensor) -> Any:
        results, gradient = function(*arguments)
        if tf.executing_eagerly():
            return results, gradient
        graph = weakref.ref(tf.compat.v1.get_default_graph())
        gradients = getattr(graph(), GRADIENTS, ())
        setattr(graph(), GRADIENTS, (*gradients, gradient))
        return tf.nest.map_structure(GraphTensor, results), _find_gradient(graph, len(gradients))

    return tf.custom_gradient(run)


def _find_gradient(graph: Callable[[], Any], number: int) -> Callable[..., Any]:
    """Returns the gradient function with that number in a graph, which is given by a weak reference."""
    return lambda *upstream: getattr(graph(), GRADIENTS)[number](*upstream)
