"""The distribution strategy, which says on which devices a model trains, by name."""

import functools
import json
import os

import tensorflow as tf

TASKS_PER_NODE = 1024
"""Largest number of Slurm tasks on a node without GPUs."""
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str = "auto", *, tpu: str | None = None) -> tf.distribute.Strategy:
    """Returns the strategy with this name.

    Args:
        name: one of

            - "one": one device;
            - "mirrored": all GPUs of this machine, or all its logical CPUs if it has no GPU;
            - "multi_worker": the machines in the environment variable TF_CONFIG, or else in Slurm's variables;
            - "tpu": a TPU;
            - "auto": "tpu" if `tpu` is given, else "multi_worker" if TF_CONFIG names several workers, else "mirrored"
              if there are several GPUs, else "one".
        tpu: name or grpc address of a Cloud TPU, or "local" on a TPU VM with one host.

    Raises:
        ValueError: if `name` is unknown, `tpu` is given for another strategy, the TPU cannot be reached, TF_CONFIG is
            malformed, or "multi_worker" finds no workers.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}. Received: strategy={name!r}")
    if tpu is not None and name not in ("auto", "tpu"):
        raise ValueError(f"tpu needs the strategy 'tpu' or 'auto'. Received: strategy={name!r}, tpu={tpu!r}")
    if name == "tpu" or tpu is not None:
        return _tpu(tpu)
    if name == "multi_worker" or (name == "auto" and _workers_of_environment() > 1):
        return _multi_worker()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


# The strategies below are cached: two strategies over the same devices in one process mix up their collective
# operations.


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(list(devices))


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    if _workers_of_environment() > 0:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_PROCID" in os.environ:
        resolver = _slurm_cluster()
    else:
        raise ValueError(
            "The strategy 'multi_worker' needs the addresses of its workers in TF_CONFIG, or Slurm's variables. "
            f"Received: TF_CONFIG={os.environ.get('TF_CONFIG', '')!r} and no SLURM_PROCID"
        )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _slurm_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the tasks of a Slurm job step. The tasks on a node share its GPUs."""
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.cluster_resolver.SlurmClusterResolver()
    # The resolver assigns GPUs to tasks even if there are none. It lists all tasks if it is told of enough GPUs.
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=TASKS_PER_NODE, gpus_per_task=1, auto_set_gpu=False
    )


@functools.cache
def _tpu(address: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(address)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]  # further lines list kernels and devices
        raise ValueError(
            f"tpu must name a TPU that this machine can reach. Received: tpu={address!r} ({reason})"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _workers_of_environment() -> int:
    """Returns the number of workers in TF_CONFIG, the chief included."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        cluster = json.loads(text or "{}").get("cluster", {})
        return len(cluster.get("chief", [])) + len(cluster.get("worker", []))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON with a cluster and a task, for example "
            '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: TF_CONFIG={text!r}"
        ) from error
