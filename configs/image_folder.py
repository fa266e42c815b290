"""Adversarial training on a folder of images of one's own, PATH/SPLIT/CLASS/*.jpg, *.png and others.

Command:  python launch/train.py --config=configs/image_folder.py:10 --config.dataset=folder:PATH --workdir=runs/mine
Variants: the number of classes.

`--config.image_size=48,64` has images of another size, (height, width), and with them the classifier.

A place to start from: images of 32 x 32 pixels, a ResNet-20, PGD-3 at Linf 4/255, ten passes over the images. The
splits are "train" and "validation"; `--config.validation_split='train[90%:]'` and `--config.train_split='train[:90%]'`
where there is one.
"""

import ml_collections

EPSILON = 4 / 255


def get_config(classes: str) -> ml_collections.ConfigDict:
    """Returns the config for a number of classes."""
    if not classes.isdigit() or int(classes) < 2:
        raise ValueError(f"A variant is the number of classes, at least 2. Received: variant={classes!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "folder:images"
    config.train_split = "train"
    config.validation_split = "validation"
    config.image_size = ml_collections.config_dict.placeholder(object)  # a number or (height, width)
    config.image_size = 32
    config.augmentation = "inception_crop"
    config.classifier = {"name": "resnet20", "num_classes": int(classes)}
    config.method = {"name": "adversarial_training"}
    config.attack = {"name": "pgd", "epsilon": EPSILON, "steps": 3}
    config.validation_attack = {"name": "pgd", "epsilon": EPSILON, "steps": 10}
    config.optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 4e-3}}
    config.batch_size = 64
    config.epochs = 10
    config.seed = 0
    config.deterministic = False
    return config
