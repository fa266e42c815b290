"""`train_async`: training from a config while Ray workers attack the batches."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_robust.distribution import asynchronous_generation
from keras_robust.methods import RobustModel
from keras_robust.training.config import resolve
from keras_robust.training.train import train


def train_async(
    config: Mapping[str, Any],
    workdir: str | pathlib.Path,
    *,
    workers: int = 1,
    publish_every: int = 10,
    max_staleness: int | None = None,
    capacity: int | None = None,
    ray_address: str | None = None,
    worker_cpus: int = 1,
    worker_gpus: float = 0.0,
    **options: Any,
) -> RobustModel:
    """Trains as `train` does, while Ray workers attack the batches with weights that are some steps old.

    Each epoch has the same batches as with `train`, in an order that depends on the workers. The history has further
    columns: `staleness`, `own_batches`, `dropped_batches` and `replaced_workers`. Runs are not reproducible bit for
    bit. A run that was killed resumes from its last checkpoint. If this checkpoint is in the middle of an epoch, as
    after SIGTERM, the rest of that epoch may repeat or miss some batches, because the order was not saved.

    Args:
        config: see `train`. Its method must be one that `asynchronous_generation` supports.
        workdir: see `train`.
        workers: number of Ray workers, at least 1.
        publish_every: training steps between two sets of weights that are sent to the workers, at least 1.
        max_staleness: attacks by weights that are more than this number of steps old are dropped. None means
            `publish_every` plus twice `capacity`.
        capacity: largest number of batches that the workers have at a time. None means 3 per worker.
        ray_address: address of a running Ray cluster, or "auto". None starts Ray on this machine.
        worker_cpus: CPU cores of each worker, at least 1.
        worker_gpus: GPUs of each worker. With a fraction, several workers share one GPU.
        **options: further arguments of `train`.

    Returns:
        The model after the last epoch; see `train`.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if `train` or `asynchronous_generation` raises it, or if the config asks for a deterministic run.
        FloatingPointError: see `train`.
        Preempted: see `train`.
        RuntimeError: if the workers do not start, or if none is left.
    """
    objects = {"classifier": options.get("classifier"), "dataset": options.get("data")}
    if resolve(config, **objects)["deterministic"]:
        raise ValueError(
            "Asynchronous training cannot be deterministic: set deterministic=False. Received: deterministic=True"
        )
    generation = functools.partial(
        asynchronous_generation,
        workers=workers,
        publish_every=publish_every,
        max_staleness=max_staleness,
        capacity=capacity,
        ray_address=ray_address,
        worker_cpus=worker_cpus,
        worker_gpus=worker_gpus,
    )
    return train(config, workdir, generation=generation, **options)
