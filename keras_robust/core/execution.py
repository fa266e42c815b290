"""How computations run: precision, graphs, batches, replicas, and gradients written by hand."""

import functools
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.keras_private import without_tracing_warning
from keras_robust.core.seeds import Tensor

BatchFunction = Callable[..., Any]
"""Maps a nest of arrays (batch, ...), scalars, and a seed as last argument, to a nest of arrays (batch, ...)."""

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


def padded_batches(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (row numbers of a batch, how many of them count). The last batch is filled up with its last row."""
    for begin in range(0, count, batch_size):
        rows = np.arange(begin, min(begin + batch_size, count))
        yield np.pad(rows, (0, batch_size - len(rows)), mode="edge"), len(rows)


def by_batch(
    function: Callable[[Any, int], Any],
    values: Any,
    batch_size: int,
) -> Any:
    """Calls `function(batch, batch number)` on padded batches of `values`, and concatenates the rows of its results.

    Args:
        function: maps a nest of arrays with `batch_size` rows to another such nest.
        values: a nest of arrays with the same number of rows, at least 1.
        batch_size: rows per call.
    """
    count = len(tf.nest.flatten(values)[0])
    parts = []
    for index, (rows, kept) in enumerate(padded_batches(count, batch_size)):
        result = function(tf.nest.map_structure(lambda array, rows=rows: array[rows], values), index)
        parts.append(tf.nest.map_structure(lambda array, kept=kept: array[:kept], result))
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def check_compile_attack(compile_attack: Any) -> None:
    """Raises `ValueError` unless `compile_attack` is True, False or "auto"."""
    if compile_attack not in (True, False, "auto"):
        raise ValueError(f"compile_attack must be True, False or 'auto'. Received: compile_attack={compile_attack!r}")


def uses_xla(compile_attack: bool | str) -> bool:
    """Returns whether attacks are compiled with XLA: as given; for "auto", if there is a GPU."""
    return bool(tf.config.list_logical_devices("GPU")) if compile_attack == "auto" else bool(compile_attack)


def make_batch_function(
    function: BatchFunction, strategy: tf.distribute.Strategy, compile_attack: bool | str = "auto"
) -> BatchFunction:
    """Returns the graph of a function of a batch: it maps a nest of NumPy arrays, scalars and a seed to NumPy arrays.

    Each replica of a strategy gets a part of the batch and its own seed.

    Args:
        function: see `BatchFunction`.
        strategy: over whose replicas a batch is spread.
        compile_attack: with XLA: True, False, or "auto" for where there is a GPU; on CPU XLA makes attacks slower.
    """
    run = make_tf_function(function, jit_compile=uses_xla(compile_attack))
    replicas = strategy.num_replicas_in_sync

    def run_alone(batch: Any, *scalars_and_seed: Any) -> Any:
        return _to_numpy(run(tf.nest.map_structure(tf.constant, batch), *map(tf.constant, scalars_and_seed)))

    def run_replica(batch: Any, *scalars_and_seed: Any) -> Any:
        *scalars, seed = scalars_and_seed

        def own(batch: Any) -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return run(batch, *scalars, seeds.fold(seed, replica))

        return strategy.run(own, args=(batch,))

    run_replicas = make_tf_function(run_replica)

    def run_spread(batch: Any, *scalars_and_seed: Any) -> Any:
        def part(values: np.ndarray) -> Any:
            size = len(values) // replicas
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(values[context.replica_id_in_sync_group * size :][:size])
            )

        spread = run_replicas(tf.nest.map_structure(part, batch), *map(tf.constant, scalars_and_seed))
        parts = [
            tf.nest.map_structure(
                lambda values, index=index: strategy.experimental_local_results(values)[index], spread
            )
            for index in range(replicas)
        ]
        return tf.nest.map_structure(lambda *values: np.concatenate(values), *map(_to_numpy, parts))

    return run_alone if replicas == 1 else run_spread


def _to_numpy(nest: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), nest)


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
