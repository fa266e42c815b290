"""A small evaluation record and its sample images, complete and consistent."""

from typing import Any

import numpy as np
import pytest

ATTACK = "PGD-40 Linf 0.3, step 0.01, 5 restarts"


@pytest.fixture
def record() -> dict[str, Any]:
    """Ten examples: nine correct without an attack, seven under it."""
    labels = list(range(10))
    linf = {"class_name": "Linf", "module": "keras_robust", "config": {"epsilon": 0.3, "bounds": [0.0, 1.0]}}
    settings = {"class_name": "PGD", "config": {"threat_model": linf, "steps": 40, "step_size": 0.01, "target": None}}
    detail = {"settings": settings, "seconds": 71.2, "restarts": 5, "predictions": labels}
    return {
        "schema_version": 1,
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.7,
        "attacks": {ATTACK: 0.7},
        "checks": [
            {
                "name": "full_epsilon_reaches_zero",
                "value": 0.083,
                "threshold": 0.01,
                "suspicious": False,
                "reason": "An unbounded attack leaves almost nothing.",
                "source": "Athalye et al. (2018)",
            }
        ],
        "examples": 10,
        "threat_model": {"norm": "linf", "epsilon": 0.3, "bounds": [0.0, 1.0]},
        "details": {ATTACK: detail | {"robust": [True] * 7 + [False] * 3}},
        "labels": labels,
        "clean_predictions": [*range(9), 0],
        "model": {"source": "runs/demo/best.keras", "parameters": 3274634},
        "black_box_source": None,
        "dataset": "mnist_small test",
        "seed": 0,
        "seconds": 80.1,
        "versions": {"keras_robust": "0.1.0", "keras": "3.15.1"},
        "commit": None,
        "command": "launch/evaluate.py --model=runs/demo/best.keras",
        "created": "2026-11-20T07:00:00+00:00",
        "training": {
            "config": {"attack": {"name": "pgd", "steps": 7}},
            "history": {
                "epoch": [0, 1],
                "loss": [2.0, 1.0],
                "val_loss": [2.1, None],
                "accuracy": [0.5, 0.9],
                "val_robust_accuracy": [0.4, 0.653],
                "learning_rate": [0.1, 0.01],
            },
        },
    }


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    """Two grey images of 4 x 5 pixels; the attack changes the second prediction."""
    images = np.full((2, 4, 5, 1), 0.5, np.float32)
    attacked = images.copy()
    attacked[:, 0, 0] += 0.3
    attacked[:, 1, 1] -= 0.15
    return {
        "images": images,
        "attacked": attacked,
        "labels": np.array([3, 4]),
        "clean_predictions": np.array([3, 4]),
        "attacked_predictions": np.array([3, 9]),
        "attack_name": np.array(ATTACK),
    }


@pytest.fixture
def two_attacks(record) -> dict[str, Any]:
    """A second attack breaks one more example: six withstand both."""
    record["attacks"]["Square"] = 0.6
    robust = [False, False, True, True, True, True, True, True, False, False]
    record["details"]["Square"] = {"settings": {"queries": 100}, "seconds": 8.0, "robust": robust}
    record["robust_accuracy"] = 0.5
    return record
