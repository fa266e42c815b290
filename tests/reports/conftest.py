"""Small evaluation records and their sample images, complete and consistent."""

import copy
from typing import Any

import numpy as np
import pytest

from keras_robust.reports.record import wilson_interval

ATTACK = "PGD-40 Linf 0.3, step 0.01, 5 restarts"
NOTE = "Of 10 classes all 9 wrong ones were targets."
ITERATION_CURVE = {
    "kind": "iteration_curve",
    "seconds": 12.0,
    "attack": "PGD (Linf 0.3, step 0.01)",
    "iterations": [10, 40, 2000],
    "accuracy": [0.8, 0.7, 0.65],
    "flat": False,
    "verdict": "Accuracy still falls at 2,000 iterations.",
}
EPSILON_CURVE = {
    "kind": "epsilon_curve",
    "seconds": 5.0,
    "attack": "PGD-40 (Linf, step 0.01)",
    "norm": "linf",
    "epsilons": [0, 0.15, 0.3],
    "accuracy": [0.9, 0.8, 0.0],
    "verdict": "Accuracy falls to zero.",
}
TRANSFER_MATRIX = {
    "kind": "transfer_matrix",
    "seconds": 7.5,
    "sources": ["runs/plain/best.keras", "runs/robust/best.keras"],
    "targets": ["runs/robust/best.keras"],
    "attacks": ["FGSM (Linf 0.3)", "PGD-40 (Linf 0.3)"],
    "accuracy": [[[0.5], [0.75]], [[0.625], [0.25]]],
    "white_box": [[False], [True]],
    "verdicts": [
        {
            "target": "runs/robust/best.keras",
            "attack": "FGSM (Linf 0.3)",
            "source": "runs/plain/best.keras",
            "white_box": 0.75,
            "transferred": 0.5,
            "shattered": True,
            "reason": "Transferred examples are stronger.",
        }
    ],
}
LOSS_SURFACE = {
    "kind": "loss_surface",
    "seconds": 1.5,
    "axes": ["gradient", "random"],
    "norm": "linf",
    "radius": 0.3,
    "first": [-0.3, 0.0, 0.3],
    "second": [-0.3, 0.3],
    "losses": [[[0.5, 0.25], [1.0, 1.5], [2.0, 3.0]]] * 5,
    "labels": [4, 3, 2, 1, 0],
    "verdict": "The surface is smooth.",
}
LARGE_EPSILON_IMAGES = {
    "kind": "large_epsilon_images",
    "seconds": 2.0,
    "attack": "PGD-50 (Linf 1)",
    "epsilon": 1.0,
    "arrays": "large_epsilon",
}


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


@pytest.fixture
def suite_record(record) -> dict[str, Any]:
    """A cascade of two attacks that stops below the top 5: 7 of 10 withstand the first, 5 both, 8 stay in the top 5."""
    record = copy.deepcopy(record)
    ranks = {"APGD-CE": [0] * 7 + [1, 6, 9], "Square": [0] * 5 + [4, 1, 1, 6, 9]}
    record["attacks"] = {name: float(np.mean(np.equal(values, 0))) for name, values in ranks.items()}
    record["details"] = {
        name: {
            "settings": {"class_name": name, "config": {"steps": 100}},
            "seconds": 3.0,
            "attacked": attacked,
            "robust": np.equal(ranks[name], 0).tolist(),
            "ranks": ranks[name],
        }
        for name, attacked in (("APGD-CE", 9), ("Square", 8))
    }
    interval = wilson_interval(8, 10)
    top_attacks = {"APGD-CE": 0.8, "Square": 0.8}
    top_k = {"k": 5, "clean_accuracy": 1.0, "robust_accuracy": 0.8, "robust_accuracy_interval": interval}
    return record | {
        "robust_accuracy": 0.5,
        "robust_accuracy_interval": list(wilson_interval(5, 10)),
        "suite": {"name": "AutoAttack standard (Linf 0.3)", "settings": {"class_name": "AutoAttack"}, "notes": [NOTE]},
        "top_k": top_k | {"attacks": top_attacks},
        "batch_size": 128,
    }


@pytest.fixture
def analyses() -> list[dict[str, Any]]:
    """One analysis of every kind."""
    return copy.deepcopy([ITERATION_CURVE, EPSILON_CURVE, TRANSFER_MATRIX, LOSS_SURFACE, LARGE_EPSILON_IMAGES])


@pytest.fixture
def full_record(suite_record, analyses) -> dict[str, Any]:
    """A record with all that a record may hold."""
    check = {"threshold": 0.5, "reason": "There is no gradient-free attack.", "source": "Carlini et al. (2019)"}
    suite_record["checks"].append({"name": "gradient_free", "value": None, "suspicious": False} | check)
    suite_record["model"]["sha256"] = "ab" * 32
    suite_record["analyses"] = analyses
    return suite_record


@pytest.fixture
def full_samples(samples) -> dict[str, np.ndarray]:
    """The samples of `full_record`: the attack erases three images."""
    images = np.linspace(0, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5, 1)
    large = {
        "images": images,
        "attacked": 1 - images,
        "labels": np.array([0, 1, 2]),
        "attacked_predictions": np.array([5, 6, 2]),
    }
    return samples | {f"large_epsilon/{name}": values for name, values in large.items()}
