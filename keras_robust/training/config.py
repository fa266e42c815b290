"""The fields of a training config, their defaults, and their checks.

A config file returns an `ml_collections.ConfigDict` with fields of `DEFAULTS`. It must give the fields whose default is
`REQUIRED`.
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
"""Number of this format. It goes up whenever an existing config would otherwise change its meaning."""

REQUIRED = "required"
OBJECT = "object"
"""Key in a resolved config. Its value is the module and name of an object that was passed to `train` for a field."""
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

DEFAULTS: dict[str, Any] = {
    "config_format": REQUIRED,
    # TFDS name, "mnist_small", "folder:PATH", or path of a function, "my_package.data:digits": see data.load_split.
    "dataset": REQUIRED,
    "train_split": REQUIRED,  # in TFDS's split syntax, such as "train[:95%]"
    "validation_split": REQUIRED,
    "image_size": 0,  # images are resized to (height, width), or one number for both; 0: all have one size
    "on_bad_image": "error",  # for a folder: "skip" leaves out files that cannot be read: see data.load_split
    "augmentation": None,  # a name in data.augmentation, for training images
    "classifier": REQUIRED,  # a section. Its name may be "my_package.networks:MyNet": see training.build
    "method": REQUIRED,
    "attack": None,  # for methods that attack during training
    "validation_attack": None,
    "epsilon_warmup_epochs": 0,  # epochs in which the attack's epsilon rises linearly from 0
    "weight_perturbation": None,  # arguments of AdversarialWeightPerturbation
    "freeze_batch_statistics_epochs": 0,  # number of last epochs: see FreezeBatchStatistics
    "early_stopping_patience": 0,  # epochs without a better (robust) validation accuracy; 0: never stop
    "optimizer": REQUIRED,
    "rates_for_batch_size": 0,  # scale the learning rate by batch_size divided by this number; 0: do not scale
    "label_smoothing": 0.0,
    "batch_size": REQUIRED,  # images of all replicas together
    "epochs": REQUIRED,
    # Steps from one validation to the next. 0: a pass over the training data, rounded down to a multiple of
    # steps_per_execution.
    "steps_per_epoch": 0,
    "steps_per_execution": 1,  # steps that run without Python in between: more are faster on accelerators
    "precision": "float32",  # of the classifier's layers; also "mixed_bfloat16", "mixed_float16" (with loss scaling)
    "seed": 0,
    "deterministic": False,  # same weights, bit for bit, in every run on the same machine; slower
}


def resolve(config: Mapping[str, Any], **objects: Any) -> dict[str, Any]:
    """Returns a config as plain JSON data, with defaults filled in.

    Args:
        config: a config with fields of `DEFAULTS`.
        **objects: objects that replace a field, such as `classifier=model`. None leaves the field unchanged.

    Raises:
        ValueError: if a field is unknown, missing or out of its range, or if the config has another `config_format`.
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
            f"The config must have config_format={CONFIG_FORMAT}, the format that this version reads. "
            f"Received: config_format={given.get('config_format')!r}"
        )
    resolved = {**DEFAULTS, **given}
    missing = [name for name, value in resolved.items() if isinstance(value, str) and value == REQUIRED]
    if missing:
        raise ValueError(f"The config lacks the fields {missing}, which have no default. Received: {sorted(given)}")
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
        raise ValueError(f"precision must be one of {PRECISIONS}. Received: precision={resolved['precision']!r}")
    if not 0 <= resolved["label_smoothing"] < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1). Received: label_smoothing={resolved['label_smoothing']!r}"
        )
    return resolved


def steps_of_epoch(config: Mapping[str, Any], steps_per_pass: int) -> int:
    """Returns the number of batches from one validation to the next.

    This is `steps_per_epoch`, or a pass over the training data rounded down to a multiple of `steps_per_execution`.

    Args:
        config: a config that `resolve` returned.
        steps_per_pass: batches in a pass over the training data.

    Raises:
        ValueError: if `steps_per_epoch` is not a multiple of `steps_per_execution`, or a pass is shorter than one
            execution. `fit` would always finish an execution, and so go beyond the epoch.
    """
    steps, per_execution = config["steps_per_epoch"], config["steps_per_execution"]
    if steps % per_execution:
        raise ValueError(
            "steps_per_epoch must be a multiple of steps_per_execution. Received: "
            f"steps_per_epoch={steps}, steps_per_execution={per_execution}"
        )
    if not steps and per_execution > steps_per_pass:
        raise ValueError(
            f"steps_per_execution must be at most {steps_per_pass}, the number of batches in a pass over the training "
            f"data. Received: steps_per_execution={per_execution}"
        )
    return steps or steps_per_pass - steps_per_pass % per_execution
