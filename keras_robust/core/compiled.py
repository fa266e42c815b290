"""Functions compiled once each, without a warning of many, and the padded batches of one size that they are run on."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Returns `tf.function(function, autograph=False, **options)`, which does not warn of retracing.

    Each attack and each model has functions of its own, which are traced once or twice. TensorFlow takes those of one
    place in the code for one and the same that is traced again and again, and has no public switch for its warning.
    """
    traced = tf.function(function, autograph=False, **options)
    traced._omit_frequent_tracing_warning = True
    return traced


def padded_batches(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (rows of a batch, how many count) of `count` rows: the last batch is filled up with its last row."""
    for begin in range(0, count, batch_size):
        rows = np.arange(begin, min(begin + batch_size, count))
        yield np.pad(rows, (0, batch_size - len(rows)), mode="edge"), len(rows)


def by_batch(
    function: Callable[[Any, int], Any],
    values: Any,
    batch_size: int,
) -> Any:
    """Calls `function(batch, batch number)` on padded batches of `values`, and puts the rows of its results together.

    Args:
        function: maps a nest of arrays of `batch_size` rows to another one.
        values: a nest of arrays of the same number of rows, at least 1.
        batch_size: rows at a time.
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
        raise ValueError(f"compile_attack is True, False or 'auto'. Received: compile_attack={compile_attack!r}")


def uses_xla(compile_attack: bool | str) -> bool:
    """Returns whether attacks are compiled with XLA: as given, and for "auto" where there is a GPU."""
    return bool(tf.config.list_logical_devices("GPU")) if compile_attack == "auto" else bool(compile_attack)
