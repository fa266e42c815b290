"""Says what the training run of a config costs: operations, memory, hours and price; see docs/planning.md.

Command:  python launch/plan.py --config=configs/imagenet_scale.py --accelerators=128xV100-16GB \
              [--price_per_device_hour=2.5] [--output=plan.json]
Command:  python launch/plan.py --config=configs/mnist_methods.py:pgd --accelerators=2xcpu

Accelerators are a number and a name, such as 8xH100; a slice of a TPU pod, such as tpu-v5e-64; or the cores of this
machine, such as 2xcpu, which are measured.
"""

from absl import flags

from keras_robust.tools.planning import UTILIZATION, plan
from keras_robust.training import command_line, training_flags

CONFIG = training_flags.define_config()
ACCELERATORS = flags.DEFINE_string("accelerators", None, "Such as 8xH100, tpu-v5e-64 or 2xcpu.")
UTILIZATION_FLAG = flags.DEFINE_float("utilization", UTILIZATION, "Share of the published peaks that is reached.")
PRICE = flags.DEFINE_float("price_per_device_hour", None, "Of a GPU, TPU chip or CPU core, in any currency.")
EXAMPLES = flags.DEFINE_integer("examples", None, "In the training split, where the data set is not known.")
VALIDATION_EXAMPLES = flags.DEFINE_integer("validation_examples", None, "In the validation split, likewise.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the plan to, too.")
flags.mark_flags_as_required(["config", "accelerators"])


def main(_: list[str]) -> None:
    """Plans."""
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
