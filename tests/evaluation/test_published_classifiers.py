"""AutoAttack on classifiers that others published, against published numbers and the reference implementation's."""

import json
import os
import pathlib

import numpy as np
import pytest
from published_classifiers import first_digits, keras_classifier

import keras_robust as kr
from keras_robust.evaluation import AutoAttack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared_data("KERAS_ROBUST_CLASSIFIERS_DIR", "KERAS_ROBUST_MNIST_DIR"),
]
BALL = kr.Linf(0.3)
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "published.json"


@pytest.fixture
def folder():
    """Where the weights are."""
    return pathlib.Path(os.environ["KERAS_ROBUST_CLASSIFIERS_DIR"])


def digits(examples):
    return first_digits(os.environ["KERAS_ROBUST_MNIST_DIR"], examples)


def evaluate(path, dataset, attacks):
    report = kr.evaluate(keras_classifier(path), dataset, attacks, checks=False, batch_size=250, verbose=False)
    print(report)
    return report


def test_published_accuracy_on_all_test_digits(folder):
    """Fast adversarial training (Wong et al., 2020): 82.93 % under AutoAttack on the 10,000 test images."""
    report = evaluate(folder / "fast_fgsm.npz", digits(10_000), AutoAttack(BALL))
    assert report.clean_accuracy == pytest.approx(0.985, abs=5e-4)
    assert report.robust_accuracy == pytest.approx(0.8293, abs=0.004)


@pytest.mark.parametrize(
    ("name", "clean", "after"),
    [
        ("fast_fgsm", 0.983, [0.850, 0.831, 0.828, 0.797]),
        ("advertorch_adv", 0.982, [0.899, 0.894, 0.893, 0.876]),
    ],
)
def test_every_stage_agrees_with_the_reference(folder, name, clean, after):
    """What the PyTorch implementation leaves of the first 1,000 after each attack, seed 0."""
    report = evaluate(folder / f"{name}.npz", digits(1000), AutoAttack(BALL))
    assert report.clean_accuracy == clean
    assert report.robust_accuracy == pytest.approx(after[-1], abs=0.006)
    np.testing.assert_allclose(list(report.attacks.values()), after, atol=0.01)


def clean_accuracy(path, dataset):
    images, labels = dataset
    return np.mean(keras_classifier(path).predict(images, batch_size=500, verbose=0).argmax(axis=1) == labels)


def test_trades(folder):
    """TRADES (Zhang et al., 2019): 99.48 % clean and 92.81 % under AutoAttack, on the 10,000 test images.

    Of 200 images the attacked accuracy is within 4 standard deviations of that, sqrt(0.9281 * 0.0719 / 200) = 0.018.
    """
    assert clean_accuracy(folder / "trades.npz", digits(10_000)) == 0.9948
    report = evaluate(folder / "trades.npz", digits(200), AutoAttack(BALL))
    assert report.robust_accuracy == pytest.approx(0.9281, abs=4 * 0.0183)


def test_no_attack_finds_more_than_the_certified_error(folder):
    """Wong & Kolter (2018): at Linf 0.1 the error is certified to be at most 5.8 %; 1.80 % without an attack."""
    path = folder / "convex_mnist.npz"
    assert clean_accuracy(path, digits(10_000)) == 0.982
    report = evaluate(path, digits(1000), AutoAttack(kr.Linf(0.1)))
    assert report.robust_accuracy >= 1 - 0.058


def test_accuracy_between_bounds_that_are_proven(folder):
    """At 2/255 the true robust accuracy of these 200 images is between 48.5 and 50.0 % (alpha-beta-CROWN)."""
    images, labels = np.load(folder / "small_images.npy"), np.load(folder / "small_labels.npy")
    report = evaluate(folder / "small_adv.npz", (images, labels), AutoAttack(kr.Linf(2 / 255)))
    assert 0.485 <= report.robust_accuracy <= 0.505


@pytest.mark.parametrize("stage", range(4), ids=["apgd-ce", "apgd-t", "fab-t", "square"])
@pytest.mark.parametrize("name", ["fast_fgsm", "advertorch_adv"])
def test_each_attack_alone_agrees_with_the_reference(folder, name, stage):
    attack = list(AutoAttack(BALL).attacks_for(10).values())[stage]
    golden = json.loads(GOLDEN.read_text())
    expected = list(golden["robust"][name].values())[stage]
    report = evaluate(folder / f"{name}.npz", digits(golden["examples"]), attack)
    assert report.robust_accuracy == pytest.approx(expected, abs=0.01)
