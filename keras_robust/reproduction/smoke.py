"""The smallest version of everything: it shows that an experiment runs from end to end, and measures nothing."""

import copy
from collections.abc import Mapping
from typing import Any

SPLIT = "test[:16]"
STEPS = 2
BATCH_SIZE = 8
_ITERATIONS = ("steps", "queries", "iterations")
_REPETITIONS = ("restarts", "targets", "targeted", "eot_iter")


def smoke_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a training config with its method, normalisation and optimizer, for two steps on a few embedded digits.

    The classifier is a LeNet, whatever it was.
    """
    small = copy.deepcopy(dict(config))
    small |= {
        "dataset": "mnist_small",
        "train_split": "train[:64]",
        "validation_split": SPLIT,
        "batch_size": BATCH_SIZE,
        "steps_per_epoch": STEPS,
        "epochs": 1,
        "steps_per_execution": 1,
        "precision": "float32",
    }
    small |= dict.fromkeys(set(small) & {"image_size", "early_stopping_patience", "epsilon_warmup_epochs"}, 0)
    small |= dict.fromkeys(set(small) & {"augmentation"}, None)
    if small.get("freeze_batch_statistics_epochs"):
        small |= {"freeze_batch_statistics_epochs": 1, "epochs": 2}
    normalization = config["classifier"].get("normalization")
    small["classifier"] = {"name": "lenet", "normalization": normalization}
    for section in ("attack", "validation_attack"):
        if small.get(section):
            small[section] = smoke_attack(small[section])
    return small


def smoke_attack(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an attack with so few steps that it finds little."""
    limits = dict.fromkeys(_ITERATIONS, STEPS) | dict.fromkeys(_REPETITIONS, 1)
    return {name: min(value, limits[name]) if name in limits else value for name, value in attack.items()}
