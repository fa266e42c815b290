"""Files that version 0.1 wrote load with today's code and go on as they would have gone on then.

The files, and what the code of that time made of them, are in tests/golden/version_0_1: see make_version_0_1.py.
"""

import json
import math
import pathlib
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_robust as kr

FILES = pathlib.Path(__file__).parents[1] / "golden" / "version_0_1"
METHODS = [name.removesuffix(".keras") for name in sorted(zipfile.ZipFile(FILES / "methods.zip").namelist())]
ATOL = 1e-6  # steps are run eagerly here, and processors differ in the order of their sums
QUIET = {"batch_size": 8, "verbose": False}
# Since then averaged weights have statistics of batch normalisation of their own, with which `fit` ends.
OTHER_STATISTICS = "averages_batch_normalization"
# Batch normalisation takes the bias before it out again. Its gradient is nothing but rounding, of which Adam makes
# steps of its learning rate, 0.01.
ROUNDING = {("adversarial_logit_pairing", path): 0.03 for path in ("convolution/bias", "normalization/moving_mean")}


@pytest.fixture(scope="module")
def arrays():
    with np.load(FILES / "data.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def ends():
    with np.load(FILES / "methods.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def classifiers():
    """The two classifiers of the evaluations."""
    return [keras.models.load_model(FILES / f"{name}.keras") for name in ("classifier", "another")]


@pytest.fixture(scope="module")
def examples(arrays):
    """The examples of the evaluations."""
    return arrays["images"][:20], arrays["labels"][:20]


def load(name, folder):
    """A model of a training method."""
    with zipfile.ZipFile(FILES / "methods.zip") as archive:
        return keras.models.load_model(archive.extract(f"{name}.keras", folder))


def go_on(model, arrays):
    """Trains for two steps, evaluates, and returns the metrics of both."""
    images, labels, weights = (arrays[name] for name in ("images", "labels", "weights"))
    if isinstance(model, kr.Mixup):
        labels = keras.utils.to_categorical(labels, 3)
    batch = (images[8:16], labels[8:16])
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    if model.validation_attack:
        options["validation_data"] = batch
    history = model.fit(*batch, sample_weight=weights[8:16], **options).history
    evaluated = model.evaluate(images[16:], labels[16:], batch_size=4, verbose=0, return_dict=True)
    return {"fit": {name: values[0] for name, values in history.items()}, "evaluate": evaluated}


@pytest.mark.parametrize("name", METHODS)
def test_training_goes_on(name, arrays, ends, tmp_path):
    model = load(name, tmp_path)
    assert int(model.steps_taken) == 2
    metrics = go_on(model, arrays)
    assert int(model.steps_taken) == 4
    expected = json.loads(str(ends[f"{name}/metrics"]))
    if name == OTHER_STATISTICS:
        del expected["evaluate"], metrics["evaluate"]
    assert metrics == {phase: pytest.approx(values, abs=1e-5) for phase, values in expected.items()}
    for index, weight in enumerate(model.classifier.weights):
        if name != OTHER_STATISTICS or weight.trainable:
            atol = ROUNDING.get((name, weight.path), ATOL)
            np.testing.assert_allclose(weight, ends[f"{name}/weight/{index}"], atol=atol, err_msg=weight.path)


STATES = {"free_adversarial_training": ["perturbation"], "stale_adversarial_training": ["images", "labels", "weights"]}


@pytest.mark.parametrize("name", STATES)
def test_what_a_method_keeps_from_step_to_step_goes_on(name, arrays, ends, tmp_path):
    """Saved and loaded once more, so that the test looks at files alone."""
    model = load(name, tmp_path)
    go_on(model, arrays)
    model.save(tmp_path / "again.keras")
    with zipfile.ZipFile(tmp_path / "again.keras") as archive:
        weights = archive.extract("model.weights.h5", tmp_path)
    with h5py.File(weights) as file:
        for key in STATES[name]:
            saved = np.asarray(file[f"vars/replica_state_{key}"])
            np.testing.assert_allclose(saved, ends[f"{name}/state/{key}"], atol=ATOL)


REPORTS = sorted(path.name for path in (FILES / "reports").iterdir())


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_read_and_written_again(name, tmp_path):
    report = kr.Report.load(FILES / "reports" / name)
    assert f"{100 * report.robust_accuracy:.1f} %" in str(report)
    report.save(tmp_path)
    assert json.loads((tmp_path / "record.json").read_text()) == report.record
    page, text = (tmp_path / "index.html").read_text(), (tmp_path / "report.md").read_text()
    for attack in report.attacks:
        assert attack in page
        assert attack in text


def test_reports_are_compared(tmp_path):
    kr.evaluation.compare([FILES / "reports" / name for name in REPORTS], tmp_path)
    text = (tmp_path / "compare.md").read_text()
    for name in REPORTS:
        assert name in text


def record_of(name):
    return json.loads((FILES / "reports" / name / "record.json").read_text())


def assert_same_results(record, expected, attacks):
    """The same for each example, under each of these attacks."""
    for field in ("labels", "clean_predictions", "clean_accuracy"):
        assert record[field] == expected[field]
    for attack in attacks:
        for field in ("attacked", "predictions", "ranks", "robust"):
            assert record["details"][attack][field] == expected["details"][attack][field], (attack, field)
        assert record["attacks"][attack] == expected["attacks"][attack]


@pytest.mark.graph  # as it was then: the sign of a gradient near 0 depends on the kernels
def test_the_same_evaluations_find_the_same(classifiers, examples):
    model, another = classifiers
    pgd = kr.attacks.PGD(kr.Linf(0.12), steps=10, restarts=2)
    curve = kr.attacks.PGD(kr.Linf(0.12), steps=8)
    record = kr.evaluate(model, examples, pgd, **QUIET).record
    assert_same_results(record, record_of("pgd"), record["attacks"])
    record = kr.evaluate(model, examples, [pgd, curve], source=another, top_k=2, **QUIET).record
    assert_same_results(record, record_of("black_box"), record["attacks"])
    assert record["top_k"] == record_of("black_box")["top_k"]


def approximately(values):
    """`values`, in which floats are compared approximately, and what took time or is a sentence not at all."""
    if isinstance(values, dict):
        return {key: approximately(value) for key, value in values.items() if key not in ("seconds", "verdict")}
    if isinstance(values, list):
        return [approximately(value) for value in values]
    return pytest.approx(values, abs=1e-5) if isinstance(values, float) else values


@pytest.mark.graph  # as it was then: the sign of a gradient near 0 depends on the kernels
def test_the_same_analyses_find_the_same(classifiers, examples):
    model, another = classifiers
    evaluation, curve = kr.evaluation, kr.attacks.PGD(kr.Linf(0.12), steps=8)
    with np.load(FILES / "reports" / "pgd" / "samples.npz") as file:
        samples = dict(file)
    images, arrays = evaluation.large_epsilon_images(
        model, examples, kr.attacks.BIM(kr.Linf(0.4), steps=8), examples=3, batch_size=8
    )
    found = {
        "iteration_curve": evaluation.iteration_curve(model, examples, curve, (1, 2, 8), **QUIET),
        "epsilon_curve": evaluation.epsilon_curve(model, examples, curve, (0.05, 0.2, math.inf), **QUIET),
        "transfer_matrix": evaluation.transfer_matrix({"first": model, "second": another}, examples, curve, **QUIET),
        "loss_surface": evaluation.loss_surface(model, examples, 0.1, points=5, examples=2, batch_size=8),
        "large_epsilon_images": images,
        "normalization_statistics": evaluation.normalization_statistics(model, examples, curve, batch_size=8),
    }
    expected = {analysis["kind"]: analysis for analysis in record_of("pgd")["analyses"]}
    assert set(found) == set(expected)
    for kind, analysis in expected.items():
        kept = {key: found[kind][key] for key in analysis if key not in ("seconds", "verdict")}
        assert kept == approximately(analysis), kind
    for name, array in arrays.items():
        np.testing.assert_allclose(array, samples[name], atol=1e-5)


BALL = kr.Linf(0.12)
ATTACKS = [
    kr.attacks.PGD(BALL, steps=5, restarts=3),
    kr.attacks.APGD(BALL, steps=20, restarts=2),
    kr.attacks.FAB(BALL, steps=10),
    kr.attacks.Square(BALL, queries=60),
]


def resume(name, attacks, folder, model, examples):
    """The record of the evaluation whose progress was `name`."""
    journal = shutil.copytree(FILES / "journals" / name, folder / "journal")
    options = {"batch_size": 8, "seed": 2, "verbose": False, "checks": False}
    return kr.evaluate(model, examples, attacks, journal=journal, **options).record


@pytest.mark.graph  # as it was then: the sign of a gradient near 0 depends on the kernels
@pytest.mark.parametrize("name", ["in_pgd", "in_apgd", "in_fab", "in_square"])
def test_a_killed_evaluation_goes_on(name, classifiers, examples, tmp_path):
    """To the same result for each example; what was finished is not done again."""
    record = resume(name, ATTACKS, tmp_path, classifiers[0], examples)
    expected = json.loads((FILES / "journals" / "attacks.json").read_text())
    assert_same_results(record, expected, expected["attacks"])
    assert list(record["attacks"]) == list(expected["attacks"])
    finished = sorted(path.name for path in (FILES / "journals" / name).glob("attack*.npz"))[:-1]
    for file in finished:
        before, after = (folder / file for folder in (FILES / "journals" / name, tmp_path / "journal"))
        assert after.read_bytes() == before.read_bytes()


def test_a_killed_autoattack_is_refused(classifiers, examples, tmp_path):
    """Since then its Square has the schedule of the published suite: the result would be that of neither version."""
    with pytest.raises(ValueError, match="progress of an evaluation with another attacks"):
        resume("autoattack", kr.evaluation.AutoAttack(BALL), tmp_path, classifiers[0], examples)


@pytest.mark.slow
def test_autoattack_but_for_square_finds_the_same(classifiers, examples):
    expected = record_of("autoattack")
    suite = kr.evaluation.AutoAttack(BALL)
    names = [name for name in expected["attacks"] if not name.startswith("Square")]
    record = kr.evaluate(classifiers[0], examples, suite, checks=False, **QUIET).record
    assert_same_results(record, expected, names)


@pytest.mark.graph  # as it was then: the sign of a gradient near 0 depends on the kernels
def test_a_killed_run_of_training_goes_on(tmp_path):
    """From its checkpoint in the middle of the second epoch to the same weights and history."""
    workdir = shutil.copytree(FILES / "workdir", tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    options = {"data_dir": str(tmp_path / "data"), "checkpoint_steps": 2, "verbose": 0}
    model = kr.training.train(config, workdir, **options)
    assert int(model.steps_taken) == 6
    with np.load(FILES / "workdir.npz") as expected:
        for index, weight in enumerate(model.classifier.get_weights()):
            np.testing.assert_allclose(weight, expected[f"arr_{index}"], atol=ATOL)
    history, expected = (
        np.genfromtxt(path, delimiter=",", names=True) for path in (workdir / "history.csv", FILES / "history.csv")
    )
    assert history.dtype == expected.dtype
    np.testing.assert_allclose(history.tolist(), expected.tolist(), atol=1e-5)
