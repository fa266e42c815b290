"""Predicts what the training run of a config costs: operations, memory, hours and price. See docs/planning.md.

Command:  python launch/plan.py --config=configs/imagenet_scale.py --accelerators=128xV100-16GB \
              [--price_per_device_hour=2.5] [--output=plan.json]
Command:  python launch/plan.py --config=configs/mnist_methods.py:pgd --accelerators=2xcpu

--accelerators is a number and a name, such as 8xH100, or a slice of a TPU pod, such as tpu-v5e-64. 2xcpu means the two
CPU cores of this machine, which are measured.
"""

from absl import flags

from keras_robust.tools.planning import UTILIZATION, plan
from keras_robust.training import command_line, training_flags

CONFIG = training_flags.define_config()
ACCELERATORS = flags.DEFINE_string("accelerators", None, "Devices, such as 8xH100, tpu-v5e-64 or 2xcpu.")
UTILIZATION_FLAG = flags.DEFINE_float("utilization", UTILIZATION, "Share of the published peaks that training reaches.")
PRICE = flags.DEFINE_float("price_per_device_hour", None, "Price of a GPU, TPU chip or CPU core, in any currency.")
EXAMPLES = flags.DEFINE_integer("examples", None, "Number of examples in the training split of an unknown data set.")
VALIDATION_EXAMPLES = flags.DEFINE_integer(
    "validation_examples", None, "Number of examples in the validation split of an unknown data set."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data sets; by default that of TFDS.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the plan to.")
flags.mark_flags_as_required(["config", "accelerators"])


def main(_: list[str]) -> None:
    """Prints the plan."""
    planned = plan(
        CONFIG.value,
        ACCELERATORS.value,
        utilization=UTILIZATION_FLAG.value,
        price_per_device_hour=PRICE.value,
        examples=EXAMPLES.value,
        validation_examples=VALIDATION_EXAMPLES.value,
        data_dir=DATA_DIR.value,
    )
    print(planned)
    if OUTPUT.value:
        planned.save(OUTPUT.value)


if __name__ == "__main__":
    command_line.run(main)
