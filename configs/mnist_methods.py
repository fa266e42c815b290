"""Every training method on MNIST, each for five minutes on 2 CPU cores. A variant is a row of methods_mnist.

Command:  python launch/train.py --config=configs/mnist_methods.py:trades --workdir=runs/trades --data_dir=DATA_DIR
Results:  docs/RESULTS.md, methods_mnist

LeNet, batch 64, Adam with one cycle of the learning rate. Attacks in training are PGD-8 at Linf 0.3, unless a variant
differs. They compute in bfloat16 if it is faster on the machine, as it was for the results.
`VARIANTS` gives the number of batches that fit in five minutes, including validation. For `clean_logit_pairing_hour`,
it is the number that fits in an hour.
"""

import ml_collections

VALIDATIONS = 5

PGD = {"name": "pgd", "epsilon": 0.3, "steps": 8, "compute_dtype": "auto"}
KL = PGD | {"objective": "kl_divergence", "random_start": "normal"}
FGSM = {"name": "fgsm", "epsilon": 0.3}
FAST = {"name": "pgd", "epsilon": 0.3, "steps": 1, "step_size": 0.375}
CLEAN_LOGIT_PAIRING = {"name": "clean_logit_pairing", "pairing_weight": 0.5, "input_noise": 0.5}
VIRTUAL = {"name": "virtual_adversarial", "norm": "l2", "epsilon": 1.5}

# Name: (method, attack, batches, other fields)
VARIANTS = {
    "natural": ({"name": "natural_training"}, None, 6000, {}),
    # Trained with PGD-8, Square broke 7.7 % of 300 images that gradient attacks did not break; with PGD-16, none.
    "mixed_minibatch_pgd": (
        {"name": "adversarial_training", "clean_fraction": 1.0},
        PGD | {"steps": 16},
        850,
        {},
    ),
    "pgd": ({"name": "adversarial_training"}, PGD, 1600, {}),
    "adversarial_logit_pairing": ({"name": "adversarial_logit_pairing", "pairing_weight": 1.0}, PGD, 1350, {}),
    "feature_pairing": ({"name": "feature_pairing", "layers": ["hidden"]}, PGD, 1350, {}),
    "clean_logit_pairing": (CLEAN_LOGIT_PAIRING, None, 6000, {}),
    "clean_logit_pairing_hour": (CLEAN_LOGIT_PAIRING, None, 72_000, {}),
    "logit_squeezing": ({"name": "logit_squeezing", "squeezing_weight": 0.5, "input_noise": 0.5}, None, 5800, {}),
    "label_smoothing": ({"name": "natural_training"}, None, 6000, {"label_smoothing": 0.1}),
    "mixup": ({"name": "mixup", "alpha": 1.0}, None, 6000, {}),
    "virtual_adversarial_training": ({"name": "virtual_adversarial_training"}, VIRTUAL, 2250, {}),
    "free": ({"name": "free_adversarial_training", "replays": 8}, FGSM, 720, {}),
    "mixture_batch_norm": (
        {"name": "adversarial_training", "clean_fraction": 1.0},
        PGD,
        1120,
        {"classifier": {"name": "lenet", "normalization": "mixture_batch"}},
    ),
    "trades": ({"name": "trades", "divergence_weight": 1.0}, KL, 1300, {}),
    "mart": ({"name": "mart"}, PGD | {"random_start": "normal"}, 1350, {}),
    "fast": ({"name": "fast_adversarial_training"}, FAST, 3500, {}),
    "weight_perturbation": (
        {"name": "adversarial_training"},
        PGD,
        1350,
        {"weight_perturbation": {"gamma": 0.005}},
    ),
}


def get_config(variant: str = "pgd") -> ml_collections.ConfigDict:
    """Returns the config of a variant, a key of `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {sorted(VARIANTS)}. Received: variant={variant!r}")
    method, attack, batches, fields = VARIANTS[variant]
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist"
    config.train_split = "train[:59000]"
    config.validation_split = "train[59000:59500]"
    config.classifier = {"name": "lenet"}
    config.method = method
    config.attack = attack
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 20}
    config.optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 2e-3}}
    config.batch_size = 64
    config.steps_per_epoch = batches // VALIDATIONS
    config.epochs = VALIDATIONS
    config.seed = 0
    config.deterministic = False
    config.update(fields)
    return config
