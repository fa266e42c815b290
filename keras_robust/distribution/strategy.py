"""Which devices a model is trained on."""

import functools

import tensorflow as tf

STRATEGIES = ("auto", "one", "mirrored")


def create_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Returns the strategy that `name` asks for.

    Args:
        name: "one" device; "mirrored" over all GPUs of this machine (all logical CPUs where there is none); or "auto",
            which is mirrored where there are several GPUs.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy is one of {STRATEGIES}. Received: strategy={name!r}")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Returns the strategy of these devices: two in one process would mix up their collective operations."""
    return tf.distribute.MirroredStrategy(list(devices))
