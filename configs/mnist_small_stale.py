"""Stale adversarial training on 9,500 embedded digits (Bhat et al., 2018, section 5, figures 5, 6 and 8).

Command:  python benchmarks/staleness.py --workdir=runs/staleness (which trains each variant)
Variants: the staleness, in updates. That benchmark uses 0, 8, 32 and 64. So does strength_figure8 in docs/RESULTS.md,
          with 12 epochs.

As in the paper: PGD-8 with steps of 2.5 epsilon / 8, Adam, batch 128. The run has 2,220 updates instead of 60,000. The
learning rate is constant, because with one that falls to 0 stale images would end up as useful as fresh ones.
"""

import ml_collections


def get_config(staleness: str = "32") -> ml_collections.ConfigDict:
    """Returns the config for a staleness."""
    if not staleness.isdigit():
        raise ValueError(f"variant must be the staleness, at least 0. Received: variant={staleness!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist_small"
    config.train_split = "train[:9500]"
    config.validation_split = "train[9500:]"
    config.batch_size = 128
    config.epochs = 30
    config.classifier = {"name": "lenet"}
    config.method = {"name": "stale_adversarial_training", "staleness": int(staleness)}
    config.attack = {"name": "pgd", "epsilon": 0.3, "steps": 8, "compute_dtype": "auto"}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 8}
    config.optimizer = {"name": "adam", "learning_rate": 1e-3}
    config.seed = 0
    config.deterministic = False
    return config
