"""Trains the model of a config while Ray workers attack its batches. With the same workdir, it resumes.

Command:  python launch/train_async.py --config=configs/mnist_small_pgd.py --workdir=runs/async --workers=1
See docs/asynchronous.md.
"""

from absl import flags

from keras_robust.training import command_line, train_async, training_flags

ARGUMENTS = training_flags.define(["auto", "one", "mirrored"])
flags.adopt_module_key_flags(training_flags)
WORKERS = flags.DEFINE_integer("workers", 1, "Number of workers that attack batches.")
PUBLISH_EVERY = flags.DEFINE_integer("publish_every", 10, "Training steps between two sets of weights for workers.")
MAX_STALENESS = flags.DEFINE_integer(
    "max_staleness", None, "Drop attacks that are older, in steps; by default publish_every + 2 capacity."
)
CAPACITY = flags.DEFINE_integer(
    "capacity", None, "Largest number of batches with the workers; by default 3 per worker."
)
RAY_ADDRESS = flags.DEFINE_string(
    "ray_address", None, "Address of a Ray cluster; by default, Ray starts on this machine."
)
WORKER_CPUS = flags.DEFINE_integer("worker_cpus", 1, "CPU cores of each worker.")
WORKER_GPUS = flags.DEFINE_float("worker_gpus", 0.0, "GPUs of each worker; with a fraction, several share one.")


def main(_: list[str]) -> None:
    """Trains the model."""
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
