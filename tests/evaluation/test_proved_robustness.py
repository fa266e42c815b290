"""AutoAttack on networks of the verification competitions: complete verifiers proved which boxes hold an adversary.

The folder has `loader.py`, with `load(name)`, a Keras model of images in [0, 1] to logits, and `instances(name)`: its
images, labels, Linf epsilons and verdicts. "unsat" says that no image of the box is misclassified,
"sat" that one is.
"""

import importlib.util
import os
import pathlib

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation import AutoAttack

pytestmark = [pytest.mark.slow, pytest.mark.shared_data("KERAS_ROBUST_VNNCOMP_DIR")]
LEAST_FOUND = 0.9
NETWORKS = [
    *("cora_mnist_set", "mnist_256x2", "mnist_256x4", "verivital_avgpool", "verivital_maxpool"),
    *("oval_base", "oval_deep", "oval_wide", "resnet_2b", "sri_resnet_a", "sri_resnet_b"),
]


@pytest.fixture(scope="module")
def loader():
    path = pathlib.Path(os.environ["KERAS_ROBUST_VNNCOMP_DIR"]) / "loader.py"
    spec = importlib.util.spec_from_file_location("loader_of_proved_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def broken_by_autoattack(model, images, labels, epsilons):
    """Returns which examples are broken, (examples,) bool; those of one epsilon are evaluated together."""
    broken = np.zeros(len(labels), bool)
    for epsilon in np.unique(epsilons):
        rows = np.flatnonzero(epsilons == epsilon)
        suite, dataset = AutoAttack(kr.Linf(float(epsilon))), (images[rows], labels[rows])
        report = kr.evaluate(model, dataset, suite, checks=False, batch_size=len(rows), verbose=False)
        assert report.clean_accuracy == 1.0
        broken[rows] = ~np.array(list(report.record["details"].values())[-1]["robust"])
        assert broken[rows].mean() == pytest.approx(1 - report.robust_accuracy)
    return broken


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_proved_is_broken_and_most_of_the_rest_is(loader, name):
    """A broken "unsat" instance would be a point outside the ball, or a wrong count; a missed "sat" one is weakness."""
    cases = loader.instances(name)
    decided = cases["verdict"] != "unknown"
    images, labels, epsilons = (cases[key][decided] for key in ("image", "label", "epsilon"))
    breakable = cases["verdict"][decided] == "sat"
    broken = broken_by_autoattack(loader.load(name), images, labels, epsilons)
    counts = [f"{broken[which].sum()} of {which.sum()}" for which in (breakable, ~breakable)]
    print(f"{name}: {counts[0]} sat found, {counts[1]} unsat broken")
    assert not broken[~breakable].any()
    assert broken[breakable].sum() >= LEAST_FOUND * breakable.sum()
