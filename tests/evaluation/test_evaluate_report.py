"""What a report of `kr.evaluate` holds and says."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.evaluation.record import provenance

EPSILON = 0.05
ATTACK = kr.attacks.PGD(kr.Linf(EPSILON), steps=5, step_size=EPSILON)


def test_the_record_names_what_was_measured_and_how(problem, solution, tmp_path):
    images, labels, _ = problem
    report = kr.evaluate(solution, (images, labels), ATTACK, seed=3, dataset_name="made up")
    report.save(tmp_path / "new" / "report")
    record = json.loads((tmp_path / "new" / "report" / "record.json").read_text())
    assert record == report.record
    assert record["clean_accuracy"] == report.clean_accuracy
    assert record["robust_accuracy"] == report.robust_accuracy
    assert (record["seed"], record["dataset"], record["examples"]) == (3, "made up", 100)
    assert record["versions"]["tensorflow"] == tf.__version__
    assert record["batch_size"] == 128
    assert "CPU" in record["devices"]
    assert set(record["threads"]) == {"intra_op", "inter_op"}
    assert record["threat_model"] == {"norm": "linf", "epsilon": EPSILON, "bounds": [0.0, 1.0]}
    settings = record["details"][ATTACK.name]["settings"]
    assert keras.saving.deserialize_keras_object(settings) == ATTACK.resolved()
    assert {path.name for path in (tmp_path / "new" / "report").iterdir()} == {
        "record.json",
        "report.md",
        "index.html",
        "samples.npz",
    }
    again = kr.Report.load(tmp_path / "new" / "report")
    assert again.record == report.record
    np.testing.assert_array_equal(again.samples["attacked"], report.samples["attacked"])


@pytest.mark.parametrize(
    ("told", "environment", "expected"),
    [((3, 2), {}, (3, 2)), ((0, 0), {"TF_NUM_INTRAOP_THREADS": "5"}, (5, None)), ((0, 0), {}, (None, None))],
)
def test_threads_are_as_many_as_run(monkeypatch, told, environment, expected):
    """What TensorFlow was told, or else the environment, or else one per core that may be used."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name, number in zip(("intra", "inter"), told, strict=True):
        monkeypatch.setattr(tf.config.threading, f"get_{name}_op_parallelism_threads", lambda number=number: number)
    cores = len(os.sched_getaffinity(0))
    found = provenance()["threads"]
    assert tuple(found.values()) == tuple(number or cores for number in expected)


def test_the_record_has_the_pixel_range_of_attacks_of_different_epsilons(problem, solution):
    images, labels, _ = problem
    attacks = [kr.attacks.FGSM(kr.Linf(epsilon, bounds=(-1, 1))) for epsilon in (0.1, 0.2)]
    record = kr.evaluate(solution, (images, labels), attacks).record
    assert record["threat_model"] is None
    assert record["bounds"] == [-1, 1]


def test_samples_show_broken_examples_before_robust_ones(problem, solution):
    images, labels, _ = problem
    samples = kr.evaluate(solution, (images, labels), ATTACK).samples
    wrong = samples["attacked_predictions"] != samples["labels"]
    assert wrong.tolist() == [True] * 4 + [False] * 4
    assert np.abs(samples["attacked"] - samples["images"]).max() == pytest.approx(EPSILON, rel=1e-5)


def test_the_text_of_a_report_never_gives_robust_accuracy_without_its_attack(problem, solution, capsys):
    images, labels, _ = problem
    report = kr.evaluate(solution, (images, labels), ATTACK)
    assert f"{100 * report.robust_accuracy:.1f} %  {ATTACK.name}" in str(report)
    assert f"{ATTACK.name}, white box" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"), [("", "8 examples, white box"), ("digits", "8 examples of digits, white box")]
)
def test_the_first_line_names_the_data_set_if_it_has_a_name(linear_classifier, batch, name, line):
    images, labels = batch(count=8, shape=(4, 4, 1))
    report = kr.evaluate(
        linear_classifier(), (images, labels), kr.attacks.FGSM(kr.Linf(0.1)), dataset_name=name, verbose=False
    )
    assert str(report).splitlines()[0] == line
