"""PGD adversarial training with a chosen number of steps on 9,500 embedded digits (Bhat et al., 2018, section 4).

Command:  python launch/train.py --config=configs/mnist_small_pgd.py:8 --workdir=runs/pgd8
Variants: the number of attack steps, 8 by default. docs/evaluation.md uses 1, 4 and 8.
"""

import ml_collections


def get_config(steps: str = "8") -> ml_collections.ConfigDict:
    """Returns the config for PGD with this number of steps, each of size 2.5 epsilon / steps."""
    if not steps.isdigit() or int(steps) < 1:
        raise ValueError(f"variant must be the number of attack steps, at least 1. Received: variant={steps!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist_small"
    config.train_split = "train[:9500]"
    config.validation_split = "train[9500:]"
    config.batch_size = 128
    config.epochs = 20
    config.classifier = {"name": "lenet"}
    config.method = {"name": "adversarial_training"}
    config.attack = {"name": "pgd", "epsilon": 0.3, "steps": int(steps)}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": int(steps)}
    config.optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 2e-3}}
    config.seed = 0
    config.deterministic = False
    return config
