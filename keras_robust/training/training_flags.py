"""The flags that all scripts which train have in common.

A script lets `--help` show them by `flags.adopt_module_key_flags(training_flags)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags


def define_config() -> flags.FlagHolder:
    """Defines --config, and --config.FIELD=VALUE for any field: also one that the file leaves as it is by default.

    A field that there is not is found when the config is resolved.
    """
    help_string = "Config file, e.g. configs/mnist_alp.py or ...py:mpgd."
    return config_flags.DEFINE_config_file("config", None, help_string, lock_config=False, accept_new_attributes=True)


def define(strategies: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """Defines absl flags; returned is the function of their values, once parsed, as arguments of `train`.

    Args:
        strategies: those that the script can train with.
    """
    config = define_config()
    holders = {
        "workdir": flags.DEFINE_string("workdir", None, "Folder of the run: models, history, config."),
        "data_dir": flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given."),
        "download": flags.DEFINE_bool("download", False, "Download a data set that is missing."),
        "data_service": flags.DEFINE_string(
            "data_service", None, "grpc://HOST:PORT of a tf.data service that prepares the batches."
        ),
        "strategy": flags.DEFINE_enum("strategy", "auto", strategies, "Devices to train on."),
        "checkpoint_steps": flags.DEFINE_integer(
            "checkpoint_steps", 1000, "Checkpoint after so many steps, too; 0: after epochs alone."
        ),
    }
    flags.mark_flags_as_required(["config", "workdir"])
    return lambda: {"config": config.value} | {name: holder.value for name, holder in holders.items()}
