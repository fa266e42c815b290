"""Mixture batch normalisation on CIFAR-10 with a ResNet-20 (after Xie & Yuille, 2020, section 4.2).

Command:  python launch/train.py --config=configs/cifar10_mixture_batch_norm.py --workdir=runs/mixture \
              --data_dir=DATA_DIR
Results:  docs/methods.md

Clean and attacked images in equal parts, each through its own branch. An hour of training on 2 CPU cores: far fewer
updates than for a number to compare with published ones, enough for the difference of the branches.
"""

import ml_collections

EPSILON = 8 / 255


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "cifar10"
    config.train_split = "train[:49000]"
    config.validation_split = "train[49000:]"
    config.augmentation = "flip_and_crop"
    config.classifier = {"name": "resnet20", "normalization": "mixture_batch", "weight_decay": 2.5e-4}
    config.method = {"name": "adversarial_training", "clean_fraction": 1.0}
    config.attack = {"name": "pgd", "epsilon": EPSILON, "steps": 3}
    config.validation_attack = {"name": "pgd", "epsilon": EPSILON, "steps": 10}
    schedule = {"name": "one_cycle", "peak": 0.1}
    config.optimizer = {"name": "sgd", "momentum": 0.9, "nesterov": True, "learning_rate": schedule}
    config.batch_size = 128
    config.epochs = 15
    config.seed = 0
    config.deterministic = False
    return config
