"""Where a number came from: versions, commit, command, and the training run of a saved model."""

import csv
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import keras
import tensorflow as tf

from keras_robust.version import __version__

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.csv"
"""What a training run writes beside its models."""


def provenance() -> dict[str, Any]:
    """Returns versions, commit (None outside a git checkout), command and the time, in ISO 8601."""
    return {
        "versions": {
            "keras_robust": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "command": shlex.join(sys.argv),
        "devices": devices(),
        "threads": threads(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def devices() -> list[str]:
    """Returns the devices that TensorFlow computes on, such as "CPU" and "GPU NVIDIA H200"."""
    details = tf.config.experimental.get_device_details
    return [
        " ".join([device.device_type, *filter(None, [details(device).get("device_name")])])
        for device in tf.config.list_physical_devices()
    ]


def threads() -> dict[str, int]:
    """Returns how many threads of the CPU share an operation ("intra_op"), and run operations at once ("inter_op").

    TensorFlow says 0 where it was told nothing, and then takes the environment's number, or one per core.
    """
    told = tf.config.threading
    numbers = {
        "intra_op": (told.get_intra_op_parallelism_threads(), "TF_NUM_INTRAOP_THREADS"),
        "inter_op": (told.get_inter_op_parallelism_threads(), "TF_NUM_INTEROP_THREADS"),
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {name: number or int(os.environ.get(variable) or 0) or cores for name, (number, variable) in numbers.items()}


def commit() -> str | None:
    """Returns the git commit of the toolkit, with "+changes" where files differ from it, or None outside a checkout."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def read_history(path: pathlib.Path) -> dict[str, list[float]]:
    """Returns the columns of a training run's CSV file, epoch after epoch."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def training_run(model: Any) -> dict[str, Any] | None:
    """Returns config and history of the run that saved `model`, if it is a path with these beside it.

    Raises:
        ValueError: if they are there and cannot be read.
    """
    if not isinstance(model, str | pathlib.Path):
        return None
    folder = pathlib.Path(model).parent
    if not (folder / CONFIG_FILE).exists() or not (folder / HISTORY_FILE).exists():
        return None
    try:
        return {
            "config": json.loads((folder / CONFIG_FILE).read_text()),
            "history": read_history(folder / HISTORY_FILE),
        }
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{CONFIG_FILE} and {HISTORY_FILE} beside a model are those of the run that trained it: JSON, and a table "
            f"of numbers. Move the model elsewhere, or repair them. Received: {folder} where {error}"
        ) from error
