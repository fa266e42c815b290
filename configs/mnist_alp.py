"""Adversarial logit pairing on MNIST, and the methods that it is compared with: table 1 of Kannan et al. (2018).

Command:  python launch/train.py --config=configs/mnist_alp.py:alp --workdir=runs/mnist_alp --data_dir=DATA_DIR
Results:  docs/RESULTS.md, alp_table1

Variants: alp; mpgd, mixed-minibatch PGD; pgd, adversarial training on attacked images only.
Published: alp 96.4 % white box, 97.5 % black box; mpgd 93.2 % and 96.0 %.

The paper gives the pairing weight 1. In its formula, this is the weight of a sum over classes. In its code, and here,
it is the weight of a mean; `--config.method.pairing_weight=10` is equal to weight 1 of the sum. The other settings are
from Madry et al. (2018), section 5, and their code: PGD-40 with step 0.01, Adam at 1e-4, batch 50, 100,000 updates
(there on 55,000 images). `configs/mnist_methods.py` trains all three in minutes on a CPU.
"""

import ml_collections

METHODS = {
    "alp": {"name": "adversarial_logit_pairing", "pairing_weight": 1.0},
    "mpgd": {"name": "adversarial_training", "clean_fraction": 1.0},
    "pgd": {"name": "adversarial_training"},
}


def get_config(variant: str = "alp") -> ml_collections.ConfigDict:
    """Returns the config of a variant, a key of `METHODS`."""
    if variant not in METHODS:
        raise ValueError(f"variant must be one of {sorted(METHODS)}. Received: variant={variant!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist"
    config.train_split = "train[:59000]"
    config.validation_split = "train[59000:]"
    config.classifier = {"name": "lenet", "initialization": "madry"}
    config.method = METHODS[variant]
    config.attack = {"name": "pgd", "epsilon": 0.3, "steps": 40, "step_size": 0.01}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 40, "step_size": 0.01}
    config.optimizer = {"name": "adam", "learning_rate": 1e-4}
    config.batch_size = 50
    config.epochs = 100
    config.steps_per_epoch = 1000
    config.seed = 0
    config.deterministic = False
    return config
