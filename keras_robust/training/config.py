"""What a training config holds, and how it is checked.

A config file returns an `ml_collections.ConfigDict` with the fields of `DEFAULTS`; those that are `REQUIRED` have no
default.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from keras_robust.core.checks import check_integer
from keras_robust.core.serialization import path_of
from keras_robust.data.image_folder import check_on_bad_image
from keras_robust.data.source import height_and_width

CONFIG_FORMAT = 1
"""Raised whenever configs of earlier versions would mean something else."""

REQUIRED = "required"
OBJECT = "object"
"""In the place of a field whose object was given to `train`: the module and name of its class or function."""
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

DEFAULTS: dict[str, Any] = {
    "config_format": REQUIRED,
    # Name, as in TFDS, "mnist_small", "folder:PATH", or "my_package.data:digits": see data.load_split.
    "dataset": REQUIRED,
    "train_split": REQUIRED,  # in TFDS's syntax
    "validation_split": REQUIRED,
    "image_size": 0,  # (height, width) that images are resized to, or one number; 0: as they are, all of one size
    "on_bad_image": "error",  # of a folder: or "skip", which leaves out files that cannot be read: see data.load_split
    "augmentation": None,  # of training images: see data.augmentation
    "classifier": REQUIRED,  # sections, whose names may be "my_package.networks:MyNet": see training.build
    "method": REQUIRED,
    "attack": None,  # of methods that attack in training
    "validation_attack": None,
    "epsilon_warmup_epochs": 0,  # the attack's epsilon rises linearly from 0
    "weight_perturbation": None,  # arguments of AdversarialWeightPerturbation
    "freeze_batch_statistics_epochs": 0,  # the last so many: see FreezeBatchStatistics
    "early_stopping_patience": 0,  # epochs without a better (robust) validation accuracy; 0 never stops
    "optimizer": REQUIRED,
    "rates_for_batch_size": 0,  # learning rates are for batches of this size, and scaled linearly; 0: as they are
    "label_smoothing": 0.0,
    "batch_size": REQUIRED,  # of all replicas together
    "epochs": REQUIRED,
    "steps_per_epoch": 0,  # validation and checkpoint after so many steps; 0 is a pass over the training data, cut to a
    # multiple of steps_per_execution
    "steps_per_execution": 1,  # steps between two looks of Python at the training: more is faster on accelerators
    "precision": "float32",  # of the classifier's layers: or "mixed_bfloat16", "mixed_float16" (with loss scaling)
    "seed": 0,
    "deterministic": False,  # the same weights, bit for bit, on every run on the same machine; slower
}


def resolve(config: Mapping[str, Any], **objects: Any) -> dict[str, Any]:
    """Returns a config as plain JSON data, complete with the defaults.

    Args:
        config: with the fields of `DEFAULTS`.
        **objects: by field, what takes its place, such as a classifier; None leaves the field as it is.

    Raises:
        ValueError: if a field is unknown or missing, was made for another version, or is out of its range.
    """
    given = json.loads(config.to_json() if hasattr(config, "to_json") else json.dumps(dict(config)))
    given |= {field: {OBJECT: path_of(thing)} for field, thing in objects.items() if thing is not None}
    for name in given:
        if name not in DEFAULTS:
            close = difflib.get_close_matches(name, DEFAULTS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the fields are {sorted(DEFAULTS)}."
            raise ValueError(f"The config has an unknown field: {hint} Received: {name}={given[name]!r}")
    if given.get("config_format") != CONFIG_FORMAT:
        raise ValueError(
            f"The config is from another version: this one reads config_format={CONFIG_FORMAT}. "
            f"Received: config_format={given.get('config_format')!r}"
        )
    resolved = {**DEFAULTS, **given}
    missing = [name for name, value in resolved.items() if isinstance(value, str) and value == REQUIRED]
    if missing:
        raise ValueError(f"The config lacks the fields {missing}. Received: {sorted(given)}")
    counts = {"batch_size": 1, "epochs": 1, "steps_per_epoch": 0, "steps_per_execution": 1, "seed": 0}
    optional = (
        "rates_for_batch_size",
        "epsilon_warmup_epochs",
        "freeze_batch_statistics_epochs",
        "early_stopping_patience",
    )
    for name, smallest in (counts | dict.fromkeys(optional, 0)).items():
        value = resolved[name]
        check_integer(name, value, smallest)
    height_and_width(resolved["image_size"])
    check_on_bad_image(resolved["on_bad_image"])
    if resolved["precision"] not in PRECISIONS:
        raise ValueError(f"precision is one of {PRECISIONS}. Received: precision={resolved['precision']!r}")
    if not 0 <= resolved["label_smoothing"] < 1:
        raise ValueError(f"label_smoothing is in [0, 1). Received: label_smoothing={resolved['label_smoothing']!r}")
    return resolved


def steps_of_epoch(config: Mapping[str, Any], steps_per_pass: int) -> int:
    """Returns the batches from one validation to the next: as configured, or a pass cut to whole executions.

    Args:
        config: resolved.
        steps_per_pass: batches of a pass over the training data.

    Raises:
        ValueError: if it is not whole executions: `fit` would run the last one to its end, beyond the epoch.
    """
    steps, per_execution = config["steps_per_epoch"], config["steps_per_execution"]
    if steps % per_execution:
        raise ValueError(
            "Expected steps_per_epoch to be a multiple of steps_per_execution. Received: "
            f"steps_per_epoch={steps}, steps_per_execution={per_execution}"
        )
    if not steps and per_execution > steps_per_pass:
        raise ValueError(
            f"Expected steps_per_execution to be at most {steps_per_pass}, the batches of a pass over the training "
            f"data. Received: steps_per_execution={per_execution}"
        )
    return steps or steps_per_pass - steps_per_pass % per_execution
