"""The demo: adversarial logit pairing on 9,500 embedded digits of MNIST.

Command:  python launch/train.py --config=configs/mnist_small_alp.py --workdir=runs/demo
Time:     12 epochs, 888 updates; README.md says how long `make demo` takes
Result:   97.5 % clean, 89.7 % PGD-40 (step 0.01, 5 restarts), on the 2,000 embedded test digits
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist_small"
    config.train_split = "train[:9500]"
    config.validation_split = "train[9500:]"
    config.batch_size = 128
    config.epochs = 12
    config.classifier = {"name": "lenet"}
    config.method = {"name": "adversarial_logit_pairing", "pairing_weight": 1.0}
    config.attack = {"name": "pgd", "epsilon": 0.3, "steps": 5, "compute_dtype": "auto"}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 10}
    config.optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 2e-3}}
    config.seed = 0
    config.deterministic = False
    return config
