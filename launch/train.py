"""Trains the model of a config; started again on the same workdir, goes on where it stopped.

Command:  python launch/train.py --config=configs/mnist_small_alp.py --workdir=runs/demo [--config.epochs=5]

SIGTERM ends it with exit code 75 after a checkpoint, and so does the loss of another worker: start it again to go on.
"""

from absl import flags
from ml_collections import config_flags

from keras_robust.distribution import STRATEGIES
from keras_robust.training import command_line, train

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/mnist_pgd.py or ...py:fast.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: models, history, config.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Download a data set that is missing.")
STRATEGY = flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Devices to train on.")
TPU = flags.DEFINE_string("tpu", None, "Name or address of a Cloud TPU; local on a TPU VM of one host.")
CHECKPOINT_STEPS = flags.DEFINE_integer("checkpoint_steps", 1000, "Checkpoint after so many steps; 0: epochs alone.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: list[str]) -> None:
    """Trains."""
    train(
        CONFIG.value,
        WORKDIR.value,
        data_dir=DATA_DIR.value,
        download=DOWNLOAD.value,
        strategy=STRATEGY.value,
        tpu=TPU.value,
        checkpoint_steps=CHECKPOINT_STEPS.value,
    )
    print(f"Models and history: {WORKDIR.value}")


if __name__ == "__main__":
    command_line.run(main)
