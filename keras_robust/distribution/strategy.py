"""Which devices a model is trained on."""

import functools
import json
import os

import tensorflow as tf

TASKS_PER_NODE = 1024
"""At most, on nodes without GPUs."""
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str = "auto", *, tpu: str | None = None) -> tf.distribute.Strategy:
    """Returns the strategy that `name` asks for.

    Args:
        name: "one" device; "mirrored" over all GPUs of this machine (all logical CPUs where there is none);
            "multi_worker" over the machines that the environment variable TF_CONFIG names, or else Slurm's variables;
            "tpu"; or "auto", which is "tpu" where `tpu` is given, "multi_worker" where TF_CONFIG names several
            workers, "mirrored" where there are several GPUs, and otherwise one device.
        tpu: name or grpc address of a Cloud TPU; "local" on a TPU VM of one host.

    Raises:
        ValueError: if the name is unknown, `tpu` is given for another strategy, or there are no workers to find.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy is one of {STRATEGIES}. Received: strategy={name!r}")
    if tpu is not None and name not in ("auto", "tpu"):
        raise ValueError(f"A tpu is for the strategy 'tpu'. Received: strategy={name!r}, tpu={tpu!r}")
    if name == "tpu" or tpu is not None:
        return _tpu(tpu)
    if name == "multi_worker" or (name == "auto" and _workers_of_environment() > 1):
        return _multi_worker()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


# Two strategies over the same devices in one process would mix up their collective operations.


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
            "The strategy 'multi_worker' finds its workers in TF_CONFIG or in Slurm's variables. "
            f"Received: TF_CONFIG={os.environ.get('TF_CONFIG', '')!r} and no SLURM_PROCID"
        )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _slurm_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the tasks of a Slurm job step; on nodes with GPUs, these are shared out among the tasks of each."""
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.cluster_resolver.SlurmClusterResolver()
    # The resolver shares out GPUs even where there are none: with enough of them it lists the tasks all the same.
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=TASKS_PER_NODE, gpus_per_task=1, auto_set_gpu=False
    )


@functools.cache
def _tpu(address: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(address)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]  # of many lines on kernels and devices
        raise ValueError(f"There is no such TPU. Received: tpu={address!r} ({reason})") from error
    return tf.distribute.TPUStrategy(resolver)


def _workers_of_environment() -> int:
    """Returns how many workers TF_CONFIG names."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        cluster = json.loads(text or "{}").get("cluster", {})
        return len(cluster.get("chief", [])) + len(cluster.get("worker", []))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG is JSON with a cluster and a task. Received: TF_CONFIG={text!r}") from error
