"""Trains the model of a config while Ray workers attack its batches; started again, goes on where it stopped.

Command:  python launch/train_async.py --config=configs/mnist_small_pgd.py --workdir=runs/async --workers=1
See docs/asynchronous.md.
"""

from absl import flags

from keras_robust.training import command_line, train_async, training_flags

ARGUMENTS = training_flags.define(["auto", "one", "mirrored"])
flags.adopt_module_key_flags(training_flags)
WORKERS = flags.DEFINE_integer("workers", 1, "Workers that attack batches.")
PUBLISH_EVERY = flags.DEFINE_integer("publish_every", 10, "Training steps between two sets of weights for workers.")
MAX_STALENESS = flags.DEFINE_integer("max_staleness", None, "Older attacks are dropped; publish_every + 2 capacity.")
CAPACITY = flags.DEFINE_integer("capacity", None, "Batches that workers have at most; 3 per worker.")
RAY_ADDRESS = flags.DEFINE_string("ray_address", None, "Of a Ray cluster; none starts Ray on this machine.")
WORKER_CPUS = flags.DEFINE_integer("worker_cpus", 1, "CPU cores of each worker.")
WORKER_GPUS = flags.DEFINE_float("worker_gpus", 0.0, "GPUs of each worker; a fraction lets several share one.")


def main(_: list[str]) -> None:
    """Trains."""
    arguments = ARGUMENTS()
    train_async(
        **arguments,
        workers=WORKERS.value,
        publish_every=PUBLISH_EVERY.value,
        max_staleness=MAX_STALENESS.value,
        capacity=CAPACITY.value,
        ray_address=RAY_ADDRESS.value,
        worker_cpus=WORKER_CPUS.value,
        worker_gpus=WORKER_GPUS.value,
    )
    print(f"Models and history: {arguments['workdir']}")


if __name__ == "__main__":
    command_line.run(main)
