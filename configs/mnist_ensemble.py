"""Ensemble adversarial training on MNIST (Tramèr et al., 2018), with attacks on static models trained before.

Command:  python launch/train.py --config=configs/mnist_ensemble.py:A.keras,B.keras --workdir=W --data_dir=DATA_DIR
Variants: the files of the static models, separated by commas. They are read once, because the run saves its own copies.

R+FGSM at Linf 0.3, as many clean as attacked images, Adam with one cycle of the learning rate. Not measured here.
"""

import ml_collections


def get_config(files: str) -> ml_collections.ConfigDict:
    """Returns the config for static models."""
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist"
    config.train_split = "train[:59000]"
    config.validation_split = "train[59000:]"
    config.classifier = {"name": "lenet"}
    config.method = {"name": "ensemble_adversarial_training", "source_models": files.split(",")}
    config.attack = {"name": "rfgsm", "epsilon": 0.3}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 20}
    config.optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 2e-3}}
    config.batch_size = 128
    config.epochs = 6
    config.seed = 0
    config.deterministic = False
    return config
