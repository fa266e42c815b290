"""Adversarial logit pairing on MNIST and what it is compared with, table 1 of Kannan et al. (2018).

Command:  python launch/train.py --config=configs/mnist_alp.py:alp --workdir=runs/mnist_alp --data_dir=DATA_DIR
Results:  docs/RESULTS.md, alp_table1

Variants: "alp" (published: 96.4 white box, 97.5 black box), "mpgd", mixed-minibatch PGD (93.2, 96.0), and "pgd",
adversarial training on attacked images alone. The weight 1 of the paper is that of a sum over classes in its formula,
and of a mean here, as in its code: with `--config.method.pairing_weight=10` it is that of the sum. Otherwise as Madry
et al. (2018), section 5 and their code: PGD-40 with step 0.01, Adam at 1e-4, batch 50, 100,000 updates (on 55,000
images). `configs/mnist_methods.py` trains all three on a CPU, in minutes.
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
        raise ValueError(f"A variant is one of {sorted(METHODS)}. Received: variant={variant!r}")
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
