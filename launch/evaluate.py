"""Measures clean and robust accuracy of a model. Writes record.json, report.md, index.html and samples.npz.

Command:  python launch/evaluate.py --model=runs/demo/best.keras --dataset=mnist_small --attack=pgd --epsilon=0.3 \
              --steps=40 --step_size=0.01 --restarts=5 --output=runs/demo/report
Command:  python launch/evaluate.py --model=runs/demo/best.keras --dataset=mnist_small --suite=autoattack \
              --epsilon=0.3 --output=runs/demo/autoattack

For a model with your own classes, --import=my_package.networks names the module that registers them with Keras.
OUTPUT/progress keeps the progress, so that after a kill the same command resumes where it stopped.
"""

import shutil

from absl import flags

import keras_robust as kr
from keras_robust.training import build_attack, command_line

MODEL = flags.DEFINE_string("model", None, "A .keras file or SavedModel folder.")
SUITE = flags.DEFINE_enum("suite", None, kr.evaluation.SUITES, "Run a named evaluation instead of one attack.")
VERSION = flags.DEFINE_enum("version", "standard", ("standard", "plus", "rand"), "Version of AutoAttack.")
MODELS = flags.DEFINE_list("models", [], "Further models for a transfer matrix: NAME=FILE,NAME=FILE.")
TRANSFER_STEPS = flags.DEFINE_list("transfer_steps", [], "Numbers of PGD steps for a transfer matrix: 1,4,8.")
TOP_K = flags.DEFINE_integer("top_k", 1, "If above 1, also measure top-k accuracies.")
SOURCE = flags.DEFINE_string("source", None, "Black-box attack: craft the adversarial images on this model.")
DATASET = flags.DEFINE_string(
    "dataset", None, "A TFDS data set, mnist_small, folder:PATH with images in PATH/SPLIT/CLASS, or MODULE:FUNCTION."
)
SPLIT = flags.DEFINE_string("split", "test", "Split in TFDS's syntax, such as test[:1000].")
OFFICIAL_ORDER = flags.DEFINE_bool(
    "official_order", False, "Take slices of the split in its published order instead of the order of TFDS."
)
IMAGE_SIZE = flags.DEFINE_string(
    "image_size",
    None,
    "Size of the images, such as 64 or 64x96. By default it is unchanged, or the model's if the images differ in size.",
)
ON_BAD_IMAGE = flags.DEFINE_enum(
    "on_bad_image",
    "error",
    ("error", "skip"),
    "For folder:PATH. skip leaves out files that cannot be read, and logs them.",
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data sets; by default that of TFDS.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Let TFDS download a data set that is missing.")
BRANCH = flags.DEFINE_enum("branch", None, kr.layers.BRANCHES, "Branch of a model with mixture batch normalisation.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Number of images attacked at a time.")
COMPILE_ATTACK = flags.DEFINE_enum(
    "compile_attack", "auto", ("auto", "True", "False"), "Compile attacks with XLA; auto compiles if there is a GPU."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the attacks.")
KEEP_ADVERSARIALS = flags.DEFINE_bool("keep_adversarials", False, "Write all attacked images to adversarials.npz.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write the report to.")
flags.DEFINE_string("attack", "pgd", "Attack: pgd, fgsm, rfgsm, bim, cw, apgd, fab, square, spsa or hop_skip_jump.")
flags.DEFINE_string("norm", "linf", "Norm of the perturbation: linf, l2 or l1.")
flags.DEFINE_float("epsilon", None, "Largest norm of the perturbation, for images in [0, 1].")
flags.DEFINE_integer("steps", None, "Number of gradient steps.")
flags.DEFINE_float("step_size", None, "Size of a step; by default 2.5 epsilon / steps (bim: epsilon / steps).")
flags.DEFINE_integer("restarts", None, "Number of random starts; an example counts as robust if no start succeeds.")
flags.DEFINE_integer("eot_iter", None, "Number of passes to average a gradient over, for randomized classifiers.")
flags.DEFINE_string("objective", None, "Objective of the attack: cross_entropy, margin, dlr or kl_divergence.")
flags.DEFINE_integer("targeted", None, "apgd: number of target classes; with --objective=dlr, 9 is APGD-T.")
flags.DEFINE_integer("targets", None, "fab: number of target classes; 9 is FAB-T.")
flags.DEFINE_integer("queries", None, "Number of queries: per start for square, per image for hop_skip_jump.")
flags.DEFINE_string(
    "target", None, "Target: untargeted, untargeted_from_prediction, random, random_any or least_likely."
)
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
    """Raises `ValueError` if the evaluation would ignore a given flag. Its result would then seem to mean more."""
    ignored = []
    if SUITE.value in ("autoattack", "paper"):
        given = [name for name in ("attack", *ATTACK_FLAGS) if not flags.FLAGS[name].using_default_value]
        ignored += [name for name in given if name not in ("norm", "epsilon")]
    if SUITE.value not in ("autoattack", "all") and not flags.FLAGS["version"].using_default_value:
        ignored.append("version")
    if TRANSFER_STEPS.value and not MODELS.value:
        ignored.append("transfer_steps")
    if ignored:
        raise ValueError(
            "Leave out flags that this evaluation does not use. "
            f"Received: --{' --'.join(ignored)} with --suite={SUITE.value}"
        )


def main(_: list[str]) -> None:
    """Evaluates the model."""
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
