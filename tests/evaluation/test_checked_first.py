"""What can be known before the first attack is refused then: nothing is attacked here."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation import evaluate, evaluate_suite
from keras_robust.evaluation.attack_run import AttackRun

BALL = kr.Linf(0.1)
FGSM, PGD = kr.attacks.FGSM(BALL), kr.attacks.PGD(BALL, steps=2)
IMAGES = np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(8) % 2
VECTORS = IMAGES.reshape(8, 16)


@pytest.fixture(autouse=True)
def nothing_is_attacked(monkeypatch):
    def run(self, *arguments, **options):
        raise AssertionError("An attack ran.")

    monkeypatch.setattr(AttackRun, "run", run)


@pytest.fixture
def make(linear_classifier):
    """Makes a classifier of two classes, or of other numbers and shapes."""
    return lambda classes=2, shape=(4, 4, 1): linear_classifier(classes, shape)


def rounded(images):
    """A classifier whose gradient is cut."""
    return tf.reshape(tf.stop_gradient(tf.round(images)), (-1, 16))[:, :2]


@keras.saving.register_keras_serializable("test")
@dataclasses.dataclass(frozen=True)
class Handmade(kr.attacks.PGD):
    """A user's attack with a setting that JSON cannot hold."""

    extra: object = None

    def get_config(self):
        return {**super().get_config(), "extra": {1, 2}}


ATTACKS = {
    "DLR of two classes": ([FGSM, kr.attacks.PGD(BALL, objective="dlr")], {}, "a classifier of 2 classes"),
    "targeted DLR": (
        [FGSM, kr.attacks.PGD(BALL, objective="dlr", target="random")],
        {"classes": 3},
        "a classifier of 3 classes",
    ),
    "APGD's DLR": ([FGSM, kr.attacks.APGD(BALL, objective="dlr")], {}, "a classifier of 2 classes"),
    "targets of APGD": ([FGSM, kr.attacks.APGD(BALL, targeted=9)], {"classes": 9}, "a classifier of 9 classes"),
    "targets of FAB": ([FGSM, kr.attacks.FAB(BALL, targets=9)], {"classes": 9}, "a classifier of 9 classes"),
    "Square on vectors": ([FGSM, kr.attacks.Square(BALL)], {"shape": (16,)}, "images of shape (16,)"),
    "what JSON cannot hold": ([FGSM, Handmade(BALL, steps=2)], {}, "Handmade("),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_attacks(make, case):
    attacks, options, received = ATTACKS[case]
    images = VECTORS if "shape" in options else IMAGES
    with pytest.raises(ValueError, match="Received: ") as error:
        evaluate(make(**options), (images, LABELS), attacks, verbose=False)
    assert received in str(error.value).partition("Received: ")[2]


def test_an_attack_that_needs_gradients_after_one_that_does_not():
    given = [kr.attacks.Square(BALL, queries=5), PGD]
    with pytest.raises(ValueError, match="Received: a classifier without a gradient"):
        evaluate(rounded, (IMAGES, LABELS), given, verbose=False)
    with pytest.raises(AssertionError, match="An attack ran"):
        evaluate(rounded, (IMAGES, LABELS), given[0], verbose=False)


def in_file(tmp_path):
    (tmp_path / "progress").write_text("mine")
    return {"journal": tmp_path / "progress" / "here"}


ARGUMENTS = {
    "a journal in a file": (in_file, "journal="),
    "analyses without names": (lambda _: {"analyses": [print]}, "analyses=[<built-in"),
    "analyses that are results": (lambda _: {"analyses": {"curve": {"kind": "x"}}}, "analyses={'curve'"),
    "a name of the data that is a path": (lambda path: {"dataset_name": path}, "dataset_name="),
    "checks by name": (lambda _: {"checks": "all"}, "checks='all'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(make, tmp_path, case):
    options, received = ARGUMENTS[case]
    with pytest.raises(ValueError, match="Received: ") as error:
        evaluate(make(), (IMAGES, LABELS), FGSM, verbose=False, **options(tmp_path))
    assert received in str(error.value).partition("Received: ")[2]


@pytest.mark.parametrize("history", ["epoch,loss\n0,NA\n", "epoch,loss\n0\n"])
def test_a_training_history_that_cannot_be_read(make, tmp_path, history):
    make().save(tmp_path / "best.keras")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "history.csv").write_text(history)
    with pytest.raises(ValueError, match=r"history\.csv beside a model.*Received: "):
        evaluate(tmp_path / "best.keras", (IMAGES, LABELS), FGSM, verbose=False)


SUITES = {
    "too few images for statistics": ("normalization", {"batch_size": 5}, "8 images"),
    "no batch normalisation": ("normalization", {"model": "linear"}, "layer=None"),
    "statistics of a function": ("normalization", {"model": "function"}, "model=<function rounded"),
    "transfer to other classes": ("transfer", {"models": {"other": "of three"}}, "with 3 classes"),
    "transfer to another shape": ("transfer", {"models": {"other": "of vectors"}}, "images of shape (4, 4, 1)"),
    "transfer to a missing file": ("transfer", {"models": {"other": "gone.keras"}}, "model=gone.keras"),
    "surfaces without gradients": (
        "surface",
        {"model": "function", "attack": kr.attacks.Square(BALL)},
        "a classifier without a gradient",
    ),
    "the curve's DLR": ("all", {"attack": kr.attacks.PGD(BALL, objective="dlr")}, "a classifier of 2 classes"),
    "no attack": ("curve", {"attack": "pgd"}, "attack='pgd'"),
}


@pytest.mark.parametrize("case", SUITES)
def test_analyses_of_named_evaluations(make, conv_classifier, case):
    suite, options, received = SUITES[case]
    models = {
        "linear": make(),
        "of three": make(3),
        "of vectors": make(2, (16,)),
        "function": rounded,
        "with normalisation": conv_classifier(2, batch_norm=True),
    }
    options = {"attack": PGD, "model": "with normalisation" if suite == "normalization" else "linear", **options}
    model, attack = models[options.pop("model")], options.pop("attack")
    options["models"] = {name: models.get(other, other) for name, other in options.get("models", {}).items()}
    images = np.tile(IMAGES, (1, 2, 2, 1)) if model is models["with normalisation"] else IMAGES
    with pytest.raises(ValueError, match="Received: ") as error:
        evaluate_suite(suite, model, (images, LABELS), attack, verbose=False, **options)
    assert received in str(error.value).partition("Received: ")[2]


def test_analyses_are_of_the_white_box(make, monkeypatch):
    """A source without gradients is no reason to refuse the curves of a model that has them."""
    analyses = {
        "surface": kr.evaluation.named_suites.CheckedAnalysis(dict, kr.evaluation.named_suites._is_differentiable)
    }
    with pytest.raises(AssertionError, match="An attack ran"):
        evaluate(make(), (IMAGES, LABELS), kr.attacks.Square(BALL), source=rounded, analyses=analyses, verbose=False)


def test_values_of_an_analysis_may_be_arrays(make, monkeypatch):
    monkeypatch.undo()
    found = {"kind": "mine", "values": np.arange(3), "number": np.float32(0.5), "tensor": tf.constant([1])}
    report = evaluate(make(), (IMAGES, LABELS), FGSM, analyses={"mine": lambda: found}, verbose=False)
    assert report.record["analyses"] == [{"kind": "mine", "values": [0, 1, 2], "number": 0.5, "tensor": [1]}]
    with pytest.raises(ValueError, match="Received: <object object"):
        evaluate(make(), (IMAGES, LABELS), FGSM, analyses={"mine": lambda: {"it": object()}}, verbose=False)


def test_a_report_cannot_be_saved_into_a_file(make, tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "report").write_text("mine")
    report = evaluate(make(), (IMAGES, LABELS), FGSM, verbose=False)
    with pytest.raises(ValueError, match="Received: folder="):
        report.save(tmp_path / "report")
