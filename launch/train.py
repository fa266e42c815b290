"""Trains the model of a config. With the same workdir, it resumes where it stopped.

Command:  python launch/train.py --config=configs/mnist_small_alp.py --workdir=runs/demo [--config.epochs=5]

After SIGTERM, it writes a checkpoint and ends with exit code 75. If another worker is lost, it also ends with exit code
75. Start the same command again to resume.
"""

from absl import flags

from keras_robust.distribution import STRATEGIES
from keras_robust.training import command_line, train, training_flags

ARGUMENTS = training_flags.define(STRATEGIES)
flags.adopt_module_key_flags(training_flags)
TPU = flags.DEFINE_string("tpu", None, "Name or address of a Cloud TPU; local on a TPU VM with one host.")


def main(_: list[str]) -> None:
    """Trains the model."""
    arguments = ARGUMENTS()
    train(**arguments, tpu=TPU.value)
    print(f"Models and history: {arguments['workdir']}")


if __name__ == "__main__":
    command_line.run(main)
