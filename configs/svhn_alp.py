"""Adversarial and clean logit pairing on SVHN: tables 2 and 8 of Kannan et al. (2018).

Command:  python launch/train.py --config=configs/svhn_alp.py:alp --workdir=runs/svhn_alp --data_dir=DATA_DIR
Variants: mpgd, alp, clp.
Result:   accuracy under PGD-10 in the paper: 44.4 % (mpgd), 46.9 % (alp), 39.1 % (clp). Not measured here.

From the paper: RevNet-9; PGD at 12/255 with 10 steps of 3/255; weight 0.5 of adversarial logit pairing (section 5.2).
The paper does not give the optimizer. Momentum 0.9, batch 100, and 80,000 updates with learning rate 0.1, divided by 10
after 40,000 and 60,000, are from Gomez et al. (2017) for CIFAR. The paper does not give weight and noise of clean
logit pairing. The weight here is also 0.5. The noise is epsilon, as that of Mosbach et al. (2018) for Tiny ImageNet;
for MNIST they use 0.5.
"""

import ml_collections

PGD = {"name": "pgd", "epsilon": 12 / 255, "steps": 10, "step_size": 3 / 255}
METHODS = {
    "mpgd": {"name": "adversarial_training", "clean_fraction": 1.0},
    "alp": {"name": "adversarial_logit_pairing", "pairing_weight": 0.5},
    "clp": {"name": "clean_logit_pairing", "pairing_weight": 0.5, "input_noise": 12 / 255},
}
EPOCHS = 113  # each has 710 updates, together about 80,000
DROPS = (40_000 / 710, 60_000 / 710)


def get_config(variant: str = "alp") -> ml_collections.ConfigDict:
    """Returns the config of a variant, a key of `METHODS`."""
    if variant not in METHODS:
        raise ValueError(f"variant must be one of {sorted(METHODS)}. Received: variant={variant!r}")
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "svhn_cropped"
    config.train_split = "train[:71000]"
    config.validation_split = "train[71000:]"
    config.classifier = {"name": "revnet", "depth": 9, "weight_decay": 1e-4}
    config.method = METHODS[variant]
    config.attack = PGD if variant != "clp" else None
    config.validation_attack = PGD
    schedule = {"name": "step_decay", "initial": 0.1, "epochs": DROPS}
    config.optimizer = {"name": "sgd", "momentum": 0.9, "learning_rate": schedule}
    config.batch_size = 100
    config.epochs = EPOCHS
    config.seed = 0
    config.deterministic = False
    return config
