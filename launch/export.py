"""Exports the classifier of a trained model as a SavedModel from images to logits.

Command:  python launch/export.py --model=runs/demo/best.keras --output=runs/demo/export

For a model with your own classes, --import=my_package.networks names the module that registers them with Keras.
"""

from absl import flags

import keras_robust as kr
from keras_robust.training import command_line

MODEL = flags.DEFINE_string("model", None, "A .keras file.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.")
BRANCH = flags.DEFINE_enum("branch", None, kr.layers.BRANCHES, "Branch of a model with mixture batch normalisation.")
flags.adopt_module_key_flags(command_line)
flags.mark_flags_as_required(["model", "output"])


def main(_: list[str]) -> None:
    """Exports the classifier."""
    kr.export(MODEL.value, OUTPUT.value, branch=BRANCH.value)
    print(f"SavedModel: {OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
