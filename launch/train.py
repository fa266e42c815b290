"""Trains the model of a config; started again on the same workdir, goes on where it stopped.

Command:  python launch/train.py --config=configs/mnist_small_alp.py --workdir=runs/demo [--config.epochs=5]

SIGTERM ends it with exit code 75 after a checkpoint, and so does the loss of another worker: start it again to go on.
"""

from absl import flags

from keras_robust.distribution import STRATEGIES
from keras_robust.training import command_line, train, training_flags

ARGUMENTS = training_flags.define(STRATEGIES)
flags.adopt_module_key_flags(training_flags)
TPU = flags.DEFINE_string("tpu", None, "Name or address of a Cloud TPU; local on a TPU VM of one host.")


def main(_: list[str]) -> None:
    """Trains."""
    arguments = ARGUMENTS()
    train(**arguments, tpu=TPU.value)
    print(f"Models and history: {arguments['workdir']}")


if __name__ == "__main__":
    command_line.run(main)
