"""Clean logit pairing and logit squeezing on MNIST: table 7 and figure 1 of Kannan et al. (2018).

Command:  python launch/train.py --config=configs/mnist_clean_pairing.py:squeezing,0.5 --workdir=W --data_dir=DATA_DIR
Variants: METHOD,WEIGHT: `squeezing` or `pairing`, and the weight of its penalty. Weight 0 is training with Gaussian
          noise only.
Result:   86.4 % under PGD-40 in the paper. This is gradient masking, see docs/methods.md. Not measured here, but the
          variants `logit_squeezing` and `clean_logit_pairing` of configs/mnist_methods.py are.

The paper gives no weight, noise, optimizer or number of epochs for these models. Noise 0.5 and 100 epochs are from
Mosbach et al. (2018). Adam at 1e-4 and batch 50 are from Madry et al. (2018).
"""

import ml_collections

METHODS = {
    "squeezing": ("logit_squeezing", "squeezing_weight"),
    "pairing": ("clean_logit_pairing", "pairing_weight"),
}


def get_config(variant: str = "squeezing,0.5") -> ml_collections.ConfigDict:
    """Returns the config of a variant "METHOD,WEIGHT"."""
    name, _, weight = variant.partition(",")
    if name not in METHODS or not weight.replace(".", "", 1).isdigit():
        raise ValueError(
            f"variant must be METHOD,WEIGHT with a METHOD of {sorted(METHODS)}. Received: variant={variant!r}"
        )
    method, argument = METHODS[name]
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "mnist"
    config.train_split = "train[:59000]"
    config.validation_split = "train[59000:]"
    config.classifier = {"name": "lenet", "initialization": "madry"}
    config.method = {"name": method, argument: float(weight), "input_noise": 0.5}
    config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 40, "step_size": 0.01}
    config.optimizer = {"name": "adam", "learning_rate": 1e-4}
    config.batch_size = 50
    config.epochs = 100
    config.seed = 0
    config.deterministic = False
    return config
