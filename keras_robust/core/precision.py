"""Dtypes: of what must not be rounded (images, logits, losses), and of an attack where the machine decides."""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

ROUNDS = 4
"""In which float32 and bfloat16 take turns; the first does not count, and of the others the shortest does."""


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

    TPUs and GPUs are asked: all TPUs multiply in bfloat16, and NVIDIA's GPUs from compute capability 8.0 on; others
    count as slower. On a CPU a convolution and its input gradient are timed, once per process and in less than a
    second. Asking would not do: it depends on the processor (AVX512-BF16 or AMX), on how TensorFlow was built, and on
    environment variables of oneDNN. On an Intel Xeon with AVX512-BF16 the bfloat16 of this convolution takes 0.3 times
    as long as its float32, with AVX512 alone 2 times, without oneDNN 9 times; below AVX512 it may not run at all.
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
        except tf.errors.OpError:  # oneDNN, told by ONEDNN_MAX_CPU_ISA to do without what its bfloat16 needs
            return False
    single, half = (min(timings) for timings in zip(*rounds, strict=True))
    return half < single


def _convolution(dtype: str) -> Callable[[], None]:
    """Returns what runs a convolution of LeNet's second layer and its input gradient, on 8 images."""
    images, kernel = tf.zeros((8, 14, 14, 32), dtype), tf.zeros((5, 5, 32, 64), dtype)
    options: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    def run() -> None:
        outputs = tf.raw_ops.Conv2D(input=images, filter=kernel, **options)
        tf.raw_ops.Conv2DBackpropInput(
            input_sizes=images.shape, filter=kernel, out_backprop=outputs, **options
        ).numpy()  # waits for it

    return run


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
