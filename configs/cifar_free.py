"""Free adversarial training on CIFAR-10 and CIFAR-100: tables 1 and 2 and figures 1 to 3 of Shafahi et al. (2019).

Command:  python launch/train.py --config=configs/cifar_free.py:free,8 --workdir=runs/free8 --data_dir=DATA_DIR
Variants: free,M (M replays); natural,M (natural training with M replays; M = 1 is plain); pgd,K (K attack steps). Each
          may end with `,cifar100` for that data set, and with `,small` for a ResNet-8 that trains for at most six
          minutes on 2 CPU cores.
Result:   free,8 in the paper, with a WRN-32-10: 85.96 % clean, 46.82 % under PGD-20. RobustBench lists a model as
          WRN-34-10: 86.11 % clean, 41.47 % under AutoAttack. docs/RESULTS.md has our results with `small`.

Settings from the authors' code: 80,000 updates for every M; learning rate 0.1, divided by 10 after 40,000 and 60,000
updates; momentum 0.9; weight decay 2e-4 on kernels; batch 128; crops of images padded by 2 pixels; attack steps of size
epsilon. PGD training follows the code of Madry et al. (2018), whose model the paper evaluates: steps of 2/255, attacks
in training mode, no training on clean images. All of them train on 50,000 images. Here, 1,000 of these are for
validation.
"""

import ml_collections

EPSILON = 8 / 255
FGSM = {"name": "fgsm", "epsilon": EPSILON}
WIDE = {
    "name": "wide_resnet",
    "depth": 32,
    "width": 10,
    "weight_decay": 1e-4,
}  # half of 2e-4, which multiplies half of the sum of squares
SMALL = {"name": "cifar_resnet", "depth": 8, "weight_decay": 1e-4}
DATASETS = {"cifar10": 10, "cifar100": 100}
KINDS = ("free", "natural", "pgd")
UPDATES, DROPS = 80_000, (40_000, 60_000)
SMALL_UPDATES = {"free": 2000, "natural": 2100, "pgd": 340}
"""Updates on batches of 128 that take about five minutes; for `pgd`, with seven attack steps."""


def get_config(variant: str = "free,8") -> ml_collections.ConfigDict:
    """Returns the config of a variant "KIND,NUMBER", which may end with ",cifar100" and ",small"."""
    kind, number, dataset, small = _parse(variant)
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = dataset
    config.train_split = "train[:49000]"
    config.validation_split = "train[49000:]"
    config.augmentation = "flip_and_crop_2_pixels"
    config.classifier = (SMALL if small else WIDE) | {"num_classes": DATASETS[dataset]}
    replays = 1 if kind == "pgd" else number
    if kind == "pgd":
        config.method = {"name": "adversarial_training", "attack_in_training_mode": True}
        config.attack = {"name": "pgd", "epsilon": EPSILON, "steps": number, "step_size": 2 / 255}
    elif kind == "natural" and number == 1:
        config.method = {"name": "natural_training"}
    else:
        config.method = {"name": "free_adversarial_training", "replays": number, "still_when_clipped": True}
        config.attack = FGSM if kind == "free" else FGSM | {"epsilon": 0.0}
    config.validation_attack = {"name": "pgd", "epsilon": EPSILON, "steps": 20, "step_size": 2 / 255}
    if small:
        schedule = {"name": "one_cycle", "peak": 0.1}
        updates, validations = SMALL_UPDATES[kind], 2
        config.validation_split = "train[49000:49500]"
    else:
        updates_per_epoch = 49_000 // 128 * replays
        schedule = {"name": "step_decay", "initial": 0.1, "epochs": [drop / updates_per_epoch for drop in DROPS]}
        updates, validations = UPDATES, 80
    config.optimizer = {"name": "sgd", "momentum": 0.9, "learning_rate": schedule}
    config.batch_size = 128
    config.steps_per_epoch = updates // replays // validations
    config.epochs = validations
    config.seed = 0
    config.deterministic = False
    return config


def _parse(variant: str) -> tuple[str, int, str, bool]:
    kind, number, *further = [*variant.split(","), ""]
    further = [part for part in further if part]
    dataset = next((part for part in further if part in DATASETS), "cifar10")
    small = "small" in further
    if kind not in KINDS or not number.isdigit() or int(number) < 1 or set(further) - {"small", dataset}:
        raise ValueError(
            f"variant must be KIND,NUMBER with a KIND of {KINDS}. It may end with ',cifar100' and ',small'. "
            f"Received: variant={variant!r}"
        )
    return kind, int(number), dataset, small
