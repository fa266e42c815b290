"""Adversarial training on your own folder of images: PATH/SPLIT/CLASS/*.jpg, *.png and other formats.

Command:  python launch/train.py --config=configs/image_folder.py:10 --config.dataset=folder:PATH --workdir=runs/mine
Variants: the number of classes.

These settings are a starting point: images of 32 x 32 pixels, a ResNet-20, PGD-3 at Linf 4/255, ten passes over the
images. `--config.image_size=48,64` changes the size of the images, (height, width), and the input of the classifier.

The splits are "train" and "validation". If there is only one split, divide it with
`--config.train_split='train[:90%]' --config.validation_split='train[90%:]'`.
"""

import ml_collections

EPSILON = 4 / 255


def get_config(classes: str) -> ml_collections.ConfigDict:
    """Returns the config for a number of classes."""
    if not classes.isdigit() or int(classes) < 2:
        raise ValueError(f"variant must be the number of classes, at least 2. Received: variant={classes!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "folder:images"
    config.train_split = "train"
    config.validation_split = "validation"
    config.image_size = ml_collections.config_dict.placeholder(object)  # allows a number or (height, width)
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
