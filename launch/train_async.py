"""Trains the model of a config while Ray workers attack its batches; started again, goes on where it stopped.

Command:  python launch/train_async.py --config=configs/mnist_small_pgd.py --workdir=runs/async --workers=1
See docs/asynchronous.md.
"""

from absl import flags
from ml_collections import config_flags

from keras_robust.training import command_line, train_async

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/mnist_pgd.py or ...py:fast.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: models, history, config.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Download a data set that is missing.")
STRATEGY = flags.DEFINE_enum("strategy", "auto", ["auto", "one", "mirrored"], "Devices of the trainer.")
WORKERS = flags.DEFINE_integer("workers", 1, "Workers that attack batches.")
PUBLISH_EVERY = flags.DEFINE_integer("publish_every", 10, "Training steps between two sets of weights for workers.")
MAX_STALENESS = flags.DEFINE_integer("max_staleness", None, "Older attacks are dropped; publish_every + 2 capacity.")
CAPACITY = flags.DEFINE_integer("capacity", None, "Batches that workers have at most; 3 per worker.")
RAY_ADDRESS = flags.DEFINE_string("ray_address", None, "Of a Ray cluster; none starts Ray on this machine.")
WORKER_CPUS = flags.DEFINE_integer("worker_cpus", 1, "CPU cores of each worker.")
WORKER_GPUS = flags.DEFINE_float("worker_gpus", 0.0, "GPUs of each worker; a fraction lets several share one.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: list[str]) -> None:
    """Trains."""
    train_async(
        CONFIG.value,
        WORKDIR.value,
        workers=WORKERS.value,
        publish_every=PUBLISH_EVERY.value,
        max_staleness=MAX_STALENESS.value,
        capacity=CAPACITY.value,
        ray_address=RAY_ADDRESS.value,
        worker_cpus=WORKER_CPUS.value,
        worker_gpus=WORKER_GPUS.value,
        data_dir=DATA_DIR.value,
        download=DOWNLOAD.value,
        strategy=STRATEGY.value,
    )
    print(f"Models and history: {WORKDIR.value}")


if __name__ == "__main__":
    command_line.run(main)
