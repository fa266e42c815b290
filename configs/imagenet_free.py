"""Free adversarial training on ImageNet: tables 3 to 5 and figure 4 of Shafahi et al. (2019).

Command:  python launch/train.py --config=configs/imagenet_free.py:4,2 --workdir=gs://BUCKET/free \
              --data_dir=DATA_DIR
Variants: M,EPSILON or M,EPSILON,DEPTH: number of replays, 255 times the radius, and depth of the ResNet (default 50).
          M = 1 is natural training. `pgd,EPSILON` is adversarial training with two steps of epsilon / 2 (table 4).
Result:   4,2 in the paper: 64.4 % clean, 43.4 % under PGD-100. Not measured here.

Settings from the authors' code: 90 / M epochs, rounded up; learning rate 0.1, divided by 10 every 30 / M epochs,
rounded up; batch 256 (64 on each of 4 GPUs, each with its own batch statistics); momentum 0.9; weight decay 1e-4 (on
all weights there, on kernels here); torchvision's ResNet.
"""

import math

import ml_collections

EPOCHS, DROP = 90, 30


def get_config(variant: str = "4,2") -> ml_collections.ConfigDict:
    """Returns the config of a variant "M,EPSILON", "M,EPSILON,DEPTH" or "pgd,EPSILON"."""
    kind, epsilon, depth = [*variant.split(","), "50"][:3] if variant.count(",") in (1, 2) else ("", "", "")
    if not epsilon.isdigit() or not depth.isdigit() or not (kind == "pgd" or (kind.isdigit() and int(kind) > 0)):
        raise ValueError(f"variant must be M,EPSILON or M,EPSILON,DEPTH or pgd,EPSILON. Received: variant={variant!r}")
    replays = 1 if kind == "pgd" else int(kind)
    radius = int(epsilon) / 255
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "imagenet2012"
    config.train_split = "train"
    config.validation_split = "validation"
    config.image_size = 224
    config.augmentation = "inception_crop"
    config.classifier = {"name": "resnet", "depth": int(depth), "zero_init_residual": False}
    config.classifier.weight_decay = 5e-5  # half of PyTorch's 1e-4, which multiplies half of the sum of squares
    if kind == "pgd":
        config.method = {"name": "adversarial_training"}
        config.attack = {"name": "pgd", "epsilon": radius, "steps": 2, "step_size": radius / 2}
    elif replays == 1:
        config.method = {"name": "natural_training"}
    else:
        config.method = {"name": "free_adversarial_training", "replays": replays, "still_when_clipped": True}
        config.attack = {"name": "fgsm", "epsilon": radius}
    config.validation_attack = {"name": "pgd", "epsilon": radius, "steps": 10, "step_size": 1 / 255}
    drop = math.ceil(DROP / replays)  # each batch has M updates
    schedule = {"name": "step_decay", "initial": 0.1, "epochs": (drop, 2 * drop)}
    config.optimizer = {"name": "sgd", "momentum": 0.9, "learning_rate": schedule}
    config.batch_size = 256
    config.epochs = math.ceil(EPOCHS / replays)
    config.seed = 0
    config.deterministic = False
    return config
