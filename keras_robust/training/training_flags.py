"""The flags that all training scripts share.

With `flags.adopt_module_key_flags(training_flags)`, `--help` of a script shows them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags


def define_config() -> flags.FlagHolder:
    """Defines --config, and --config.FIELD=VALUE for every field, including those that the config file does not set.

    An unknown field is an error only when the config is resolved.
    """
    help_string = "Config file, and a variant after a colon: configs/mnist_alp.py or configs/mnist_alp.py:mpgd."
    return config_flags.DEFINE_config_file("config", None, help_string, lock_config=False, accept_new_attributes=True)


def define(strategies: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """Defines absl flags. Returns a function that, after they are parsed, returns them as arguments of `train`.

    Args:
        strategies: names of the strategies that the script supports.
    """
    config = define_config()
    holders = {
        "workdir": flags.DEFINE_string("workdir", None, "Folder of the run, for its models, history and config."),
        "data_dir": flags.DEFINE_string("data_dir", None, "Folder of prepared data sets; by default that of TFDS."),
        "download": flags.DEFINE_bool("download", False, "Let TFDS download a data set that is missing."),
        "data_service": flags.DEFINE_string(
            "data_service", None, "grpc://HOST:PORT of a tf.data service that prepares the batches."
        ),
        "strategy": flags.DEFINE_enum("strategy", "auto", strategies, "Devices to train on."),
        "checkpoint_steps": flags.DEFINE_integer(
            "checkpoint_steps", 1000, "Steps from one checkpoint to the next in an epoch; 0: only after epochs."
        ),
    }
    flags.mark_flags_as_required(["config", "workdir"])
    return lambda: {"config": config.value} | {name: holder.value for name, holder in holders.items()}
