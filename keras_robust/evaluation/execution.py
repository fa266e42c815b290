"""How functions of a batch are run: compiled once, on padded batches of one size, spread over replicas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_robust.core import seeds
from keras_robust.core.execution import by_batch, compiled, uses_xla

__all__ = ["BatchFunction", "by_batch", "compile_batch_function", "progress_bar"]

BatchFunction = Callable[..., Any]
"""Maps a nest of arrays (batch, ...), scalars, and a seed as last argument, to a nest of arrays (batch, ...)."""


def compile_batch_function(
    function: BatchFunction, strategy: tf.distribute.Strategy, compile_attack: bool | str = "auto"
) -> BatchFunction:
    """Compiles a function of a batch; returned is one of a nest of NumPy arrays, scalars and a seed, to NumPy arrays.

    Several replicas have a part of the batch and a seed of their own each.

    Args:
        function: see `BatchFunction`.
        strategy: over whose replicas a batch is spread.
        compile_attack: with XLA: True, False, or "auto" for where there is a GPU; on CPU XLA makes attacks slower.
    """
    run = compiled(function, jit_compile=uses_xla(compile_attack))
    replicas = strategy.num_replicas_in_sync

    def run_alone(batch: Any, *scalars_and_seed: Any) -> Any:
        return _to_numpy(run(tf.nest.map_structure(tf.constant, batch), *map(tf.constant, scalars_and_seed)))

    def run_replica(batch: Any, *scalars_and_seed: Any) -> Any:
        *scalars, seed = scalars_and_seed

        def own(batch: Any) -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return run(batch, *scalars, seeds.fold(seed, replica))

        return strategy.run(own, args=(batch,))

    run_replicas = compiled(run_replica)

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


def progress_bar(description: str, total: int, unit: str, verbose: bool) -> tqdm:
    """Returns a bar for the terminal or the notebook; in a terminal it goes to the standard error."""
    return tqdm(desc=description, total=total, unit=f" {unit}", unit_scale=True, disable=not verbose)
