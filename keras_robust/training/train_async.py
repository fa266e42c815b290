"""Training from a config while workers attack the batches."""

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
    """Trains as `train`, while Ray workers attack the batches with weights that are some steps old.

    Each epoch has the batches that `train` gives it, in an order that depends on the workers, and its history holds
    `staleness`, `own_batches`, `dropped_batches` and `replaced_workers` too. Runs are not reproducible bit for bit. A
    run that was killed goes on from its last checkpoint; where that is in the middle of an epoch, as after SIGTERM, the
    batches that workers had then are not those that are left of the epoch.

    Args:
        config: as of `train`; of a method that `asynchronous_generation` takes.
        workdir: as of `train`.
        workers: as of `asynchronous_generation`, like the others up to `worker_gpus`.
        publish_every: likewise.
        max_staleness: likewise.
        capacity: likewise.
        ray_address: likewise.
        worker_cpus: likewise.
        worker_gpus: likewise.
        **options: of `train`.

    Returns:
        The model after the last epoch, as `train`.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: as `train` and `asynchronous_generation`, or if the config asks for a deterministic run.
        FloatingPointError: as `train`.
        RuntimeError: if the workers do not start, or if none is left.
    """
    objects = {"classifier": options.get("classifier"), "dataset": options.get("data")}
    if resolve(config, **objects)["deterministic"]:
        raise ValueError("Asynchronous training is not deterministic. Received: a config with deterministic=True")
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
