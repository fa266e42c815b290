"""Measures clean and robust accuracy of a model and writes record.json, report.md, index.html and samples.npz.

Command:  python launch/evaluate.py --model=runs/demo/best.keras --dataset=mnist_small --attack=pgd --epsilon=0.3 \
              --steps=40 --step_size=0.01 --restarts=5 --output=runs/demo/report
Command:  python launch/evaluate.py --model=runs/demo/best.keras --dataset=mnist_small --suite=autoattack \
              --epsilon=0.3 --output=runs/demo/autoattack

A model with classes of yours: --import=my_package.networks, the module that registers them with Keras.
Progress is kept in OUTPUT/progress: the same command after a kill goes on where it stopped.
"""

import shutil

from absl import flags

import keras_robust as kr
from keras_robust.training import build_attack, command_line

MODEL = flags.DEFINE_string("model", None, "A .keras file or SavedModel folder.")
SUITE = flags.DEFINE_enum("suite", None, kr.evaluation.SUITES, "A named evaluation instead of one attack.")
VERSION = flags.DEFINE_enum("version", "standard", ("standard", "plus", "rand"), "Of AutoAttack.")
MODELS = flags.DEFINE_list("models", [], "Further models of a transfer matrix: NAME=FILE,NAME=FILE.")
TRANSFER_STEPS = flags.DEFINE_list("transfer_steps", [], "Numbers of PGD steps of a transfer matrix: 1,4,8.")
TOP_K = flags.DEFINE_integer("top_k", 1, "Measure accuracies among the top k, too.")
SOURCE = flags.DEFINE_string("source", None, "Black box: craft the examples on this model instead.")
DATASET = flags.DEFINE_string(
    "dataset", None, "A TFDS data set, mnist_small, folder:PATH with images in PATH/SPLIT/CLASS, or MODULE:FUNCTION."
)
SPLIT = flags.DEFINE_string("split", "test", "Split, in TFDS's syntax: test[:1000].")
OFFICIAL_ORDER = flags.DEFINE_bool(
    "official_order", False, "Take slices of the split in its published order, not in that in which TFDS keeps it."
)
IMAGE_SIZE = flags.DEFINE_string(
    "image_size", None, "Size of the images, 64 or HEIGHTxWIDTH; where it is not given and they differ, the model's."
)
ON_BAD_IMAGE = flags.DEFINE_enum(
    "on_bad_image", "error", ("error", "skip"), "Of a folder: skip leaves out files that cannot be read, and logs them."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Download a data set that is missing.")
BRANCH = flags.DEFINE_enum("branch", None, kr.layers.BRANCHES, "Of a model with mixture batch normalisation.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples attacked at a time.")
COMPILE_ATTACK = flags.DEFINE_enum(
    "compile_attack", "auto", ("auto", "True", "False"), "Compile attacks with XLA; auto is where there is a GPU."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the attacks.")
KEEP_ADVERSARIALS = flags.DEFINE_bool("keep_adversarials", False, "Write every attacked image, as adversarials.npz.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
flags.DEFINE_string("attack", "pgd", "pgd, fgsm, rfgsm, bim, cw, apgd, fab, square, spsa or hop_skip_jump.")
flags.DEFINE_string("norm", "linf", "linf, l2 or l1.")
flags.DEFINE_float("epsilon", None, "Radius of the ball, in the units of images in [0, 1].")
flags.DEFINE_integer("steps", None, "Gradient steps.")
flags.DEFINE_float("step_size", None, "Size of a step; 2.5 epsilon / steps where not given (bim: epsilon / steps).")
flags.DEFINE_integer("restarts", None, "Random starts; an example counts as robust if none breaks it.")
flags.DEFINE_integer("eot_iter", None, "Passes a gradient is averaged over, of classifiers random at inference.")
flags.DEFINE_string("objective", None, "cross_entropy, margin, dlr or kl_divergence.")
flags.DEFINE_integer("targeted", None, "apgd: classes to target; with --objective=dlr, 9 is APGD-T.")
flags.DEFINE_integer("targets", None, "fab: classes to target; 9 is FAB-T.")
flags.DEFINE_integer("queries", None, "square: queries per start; hop_skip_jump: queries per image.")
flags.DEFINE_string("target", None, "untargeted, untargeted_from_prediction, random, random_any or least_likely.")
flags.adopt_module_key_flags(command_line)
flags.mark_flags_as_required(["model", "dataset", "epsilon", "output"])

ATTACK_FLAGS = (
    "norm",
    "epsilon",
    "steps",
    "step_size",
    "restarts",
    "eot_iter",
    "objective",
    "target",
    "targeted",
    "targets",
    "queries",
)


def check_flags() -> None:
    """Raises `ValueError` if flags were given that the evaluation would ignore: its numbers would seem stronger."""
    ignored = []
    if SUITE.value in ("autoattack", "paper"):
        given = [name for name in ("attack", *ATTACK_FLAGS) if not flags.FLAGS[name].using_default_value]
        ignored += [name for name in given if name not in ("norm", "epsilon")]
    if SUITE.value not in ("autoattack", "all") and not flags.FLAGS["version"].using_default_value:
        ignored.append("version")
    if TRANSFER_STEPS.value and not MODELS.value:
        ignored.append("transfer_steps")
    if ignored:
        raise ValueError(f"Flags that play no part here. Received: --{' --'.join(ignored)} with --suite={SUITE.value}")


def main(_: list[str]) -> None:
    """Evaluates."""
    check_flags()
    options = {name: flags.FLAGS[name].value for name in ATTACK_FLAGS if flags.FLAGS[name].value is not None}
    attack = build_attack({"name": flags.FLAGS["attack"].value, **options})
    dataset = kr.evaluation.dataset_for(
        MODEL.value,
        DATASET.value,
        SPLIT.value,
        batch_size=BATCH_SIZE.value,
        image_size=command_line.image_size(IMAGE_SIZE.value),
        data_dir=DATA_DIR.value,
        download=DOWNLOAD.value,
        on_bad_image=ON_BAD_IMAGE.value,
        order="official" if OFFICIAL_ORDER.value else "tfds",
    )
    progress = f"{OUTPUT.value}/progress"
    report = kr.evaluation.evaluate_suite(
        SUITE.value,
        MODEL.value,
        dataset,
        attack,
        source=SOURCE.value,
        models=command_line.named_files(MODELS.value),
        transfer_steps=[int(steps) for steps in TRANSFER_STEPS.value],
        version=VERSION.value,
        keep_adversarials=KEEP_ADVERSARIALS.value,
        top_k=TOP_K.value,
        batch_size=BATCH_SIZE.value,
        seed=SEED.value,
        branch=BRANCH.value,
        dataset_name=f"{DATASET.value} {SPLIT.value}, {'official' if OFFICIAL_ORDER.value else 'TFDS'} order",
        journal=progress,
        compile_attack={"True": True, "False": False}.get(COMPILE_ATTACK.value, "auto"),
    )
    report.save(OUTPUT.value)
    shutil.rmtree(progress)
    print(report)
    print(f"Report: {OUTPUT.value}/index.html")


if __name__ == "__main__":
    command_line.run(main)
