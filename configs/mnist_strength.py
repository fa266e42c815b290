"""Attack strength and staleness on MNIST: table 1 and figures 3 to 8 of Bhat et al. (2018), section 6.

Command:  python launch/train.py --config=configs/mnist_strength.py:8 --workdir=runs/strength8 --data_dir=DATA_DIR
Variants: STEPS or STEPS,STALENESS: number of attack steps in training, and age of the attacks in updates.
Result:   in the paper, 89 to 91 % robust and 98 % clean with 8 or more steps, and about 90 % robust up to a staleness
          of 32. Not measured here.

As in the paper: attack steps of 2.5 epsilon / STEPS, Adam, batch 128, 60,000 updates, 55,000 training images. The paper
does not give the learning rate; 1e-4 is from Madry et al. (2018), whose network it uses.
"""

import ml_collections

UPDATES_PER_VALIDATION = 1000


def get_config(variant: str = "8") -> ml_collections.ConfigDict:
    """Returns the config of a variant "STEPS" or "STEPS,STALENESS"."""
    steps, _, staleness = variant.partition(",")
    if not steps.isdigit() or int(steps) < 1 or not (staleness or "0").isdigit():
        raise ValueError(f"variant must be STEPS or STEPS,STALENESS. Received: variant={variant!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist"
    config.train_split = "train[:55000]"
    config.validation_split = "train[55000:]"
    config.classifier = {"name": "lenet", "initialization": "madry"}
    if staleness:
        config.method = {"name": "stale_adversarial_training", "staleness": int(staleness)}
    else:
        config.method = {"name": "adversarial_training"}
    config.attack = {"name": "pgd", "epsilon": 0.3, "steps": int(steps)}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": int(steps)}
    config.optimizer = {"name": "adam", "learning_rate": 1e-4}
    config.batch_size = 128
    config.steps_per_epoch = UPDATES_PER_VALIDATION
    config.epochs = 60
    config.seed = 0
    config.deterministic = False
    return config
