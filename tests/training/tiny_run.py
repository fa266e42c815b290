"""What the smallest training runs have in common: three steps an epoch, on digits of 8 x 8."""

TINY = {
    "config_format": 1,
    "dataset": "mnist_small",
    "train_split": "train[:96]",
    "validation_split": "train[96:160]",
    "classifier": {"name": "lenet"},
    "image_size": 8,
    "batch_size": 32,
}
