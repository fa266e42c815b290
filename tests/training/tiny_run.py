"""What the smallest training runs have in common: three steps an epoch."""

TINY = {
    "config_format": 1,
    "dataset": "mnist_small",
    "train_split": "train[:96]",
    "validation_split": "train[96:160]",
    "classifier": {"name": "lenet"},
    "batch_size": 32,
}
