"""What a runner keeps of training and evaluation, both of which only pretend here."""

import dataclasses
import gc
import json
import pathlib
import shutil
import weakref

import pytest

import keras_robust as kr
from keras_robust.tools.reproduction import Experiment, ModelSpec, Runner, run
from keras_robust.training.config import resolve

CONFIG = """
import ml_collections

def get_config(variant=""):
    return ml_collections.ConfigDict({
        "config_format": 1,
        "dataset": "mnist_small",
        "train_split": "train",
        "validation_split": "validation",
        "classifier": {"name": "lenet", "normalization": "mixture_batch" if variant == "mixture" else None},
        "method": {"name": "natural_training"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "use_ema": variant == "averaged"},
        "batch_size": 8,
        "epochs": 3,
    })
"""
RAW, AVERAGED, MIXTURE = (ModelSpec(f"natural{variant}") for variant in ("", ":averaged", ":mixture"))
PGD = {"name": "pgd", "epsilon": 0.3, "steps": 100, "restarts": 10}
FIELDS = {"split": "test", "attack": {"name": "fgsm", "epsilon": 0.1}}
FGSM = kr.attacks.FGSM(kr.Linf(0.1))
ALIVE = weakref.WeakSet()

MASKED = {"attack": PGD, "measure": "masked"}

EXPERIMENT = {
    "title": "a title",
    "source": "A. Author (2018), table 1",
    "columns": {
        "White box": {"attack": PGD},
        "Black box": {"attack": PGD, "source": {"paper": "natural"}},
        "Again": {"attack": PGD},
        "Top 2": {"attack": PGD, "branch": "clean", "top_k": 2, "measure": "top_k/clean_accuracy"},
    },
    "rows": {
        "averaged": {"model": {"paper": "natural:averaged"}},
        "averaged, small epsilon": {"model": {"paper": "natural:averaged"}, "attack": {"epsilon": 0.1}},
    },
}


class TrainedModel:
    """Stands for the model that `train` returns: with averaged weights. All that are left are in `ALIVE`."""

    def __init__(self):
        ALIVE.add(self)

    def save(self, path):
        path.write_text("averages")


class Evaluation:
    """Stands for `evaluate_suite`, and for the report that it returns; `calls` are its arguments."""

    def __init__(self):
        self.error = None
        self.calls = []

    def __call__(self, suite, model, dataset, attack, *, journal, **options):
        self.calls.append({"suite": suite, "model": model, "attack": attack, **options})
        journal.mkdir(parents=True, exist_ok=True)
        return self

    def save(self, folder):
        if self.error:
            raise self.error
        record = {"commit": None, "robust_accuracy": 0.25, "top_k": {"clean_accuracy": 0.75}}
        (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def trainings(monkeypatch):
    """Lets training write what it does without averages, and lists the folders."""
    folders = []

    def train(config, folder, **options):
        folders.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(resolve(config)))
        (folder / "last.keras").write_text("weights")
        return TrainedModel()

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "_forget_models", lambda: None)
    return folders


@pytest.fixture
def evaluation(monkeypatch):
    fake = Evaluation()
    monkeypatch.setattr(run.evaluation, "evaluate_suite", fake)
    monkeypatch.setattr(run.data, "evaluation_batches", lambda *args, **kwargs: None)
    return fake


@pytest.fixture
def runner(tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "natural.py").write_text(CONFIG)
    return Runner("paper", tmp_path, configs, verbose=0)


def test_averaged_weights_are_evaluated_where_the_optimizer_keeps_them(runner, trainings, evaluation):
    """Of the attacked model and of the source of transferred attacks; without averages it is the last model."""
    for model, source, expected in (
        (AVERAGED, RAW, ("averages", "weights")),
        (RAW, AVERAGED, ("weights", "averages")),
    ):
        runner.trained(model)
        runner.evaluated(model, FIELDS, source)
        call = evaluation.calls[-1]
        assert tuple(pathlib.Path(call[name]).read_text() for name in ("model", "source")) == expected
    assert len(trainings) == 2


def test_a_run_that_was_finished_without_its_averages_is_gone_on_with(runner, trainings):
    folder = runner.trained(AVERAGED)
    (folder / "averaged.keras").unlink()
    assert runner.trained(AVERAGED) == folder
    assert trainings == [folder, folder]
    assert {path.name for path in folder.iterdir()} == {"config.json", "last.keras", "averaged.keras", "finished"}


def test_the_progress_of_an_evaluation_is_kept_until_its_report_is_saved(runner, trainings, evaluation):
    runner.trained(RAW)
    evaluation.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        runner.evaluated(RAW, FIELDS, None)
    (progress,) = runner.workdir.glob("paper/evaluations/*/*/progress")
    evaluation.error = None
    assert runner.evaluated(RAW, FIELDS, None) == progress.parent
    assert [path.name for path in progress.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("again", [RAW, MIXTURE])
def test_what_is_trained_again_is_evaluated_again(runner, trainings, evaluation, again):
    """The model, and the source of transferred attacks; otherwise a report is made once."""
    for _ in range(2):
        runner.trained(RAW)
        runner.evaluated(RAW, FIELDS, MIXTURE)
    assert len(evaluation.calls) == 1
    shutil.rmtree(runner.trained(again))
    runner.trained(again)
    runner.evaluated(RAW, FIELDS, MIXTURE)
    assert len(evaluation.calls) == 2


def test_without_checks_nothing_is_said_of_masking(runner):
    column = Experiment.from_definition("table1", {**EXPERIMENT, "columns": {"Masked": MASKED}}).columns[0]
    for checks, expected in (([], None), ([{"suspicious": False}], False), ([{"suspicious": True}], True)):
        assert runner._measured(column, {"checks": checks}, runner.workdir) is expected


def test_an_evaluation_is_of_what_the_column_says(runner, trainings, evaluation):
    """Its attack, suite, source, branch and number of best classes; only networks with branches have one."""
    fields = FIELDS | {"suite": "autoattack", "top_k": 2, "branch": "clean"}
    runner.trained(MIXTURE)
    runner.trained(RAW)
    cases = [
        (MIXTURE, fields, RAW, (FGSM, "autoattack", 2, "clean")),
        (MIXTURE, fields, MIXTURE, (FGSM, "autoattack", 2, "clean")),
        (RAW, fields, None, (FGSM, "autoattack", 2, None)),
        (MIXTURE, FIELDS, None, (FGSM, None, 1, None)),
    ]
    for model, wanted, source, expected in cases:
        runner.evaluated(model, {**wanted, "split": f"test[:{len(evaluation.calls) + 1}]"}, source)
        call = evaluation.calls[-1]
        assert tuple(call[name] for name in ("attack", "suite", "top_k", "branch")) == expected
        assert call["model"] == str(runner.final_model(model))
        assert call["source"] == (str(runner.final_model(RAW)) if source is RAW else None)
        assert call["dataset_name"] == f"mnist_small test[:{len(evaluation.calls)}]"


def test_seconds_are_summed_over_the_parts_of_each_epoch(tmp_path):
    """As of a run without interruption that wrote a line for each of its epochs; it need not have had them all."""
    (tmp_path / "seconds.csv").write_text("0,4.0\n0,1.5\n1,2.0\n")
    (tmp_path / "history.csv").write_text("epoch,loss\n0,0.3\n1,0.2\n")
    assert run.seconds_of_training(tmp_path) == 7.5
    (tmp_path / "history.csv").write_text("epoch,loss\n0,0.3\n1,0.2\n2,0.1\n")
    assert run.seconds_of_training(tmp_path) is None


def test_an_interrupted_epoch_is_timed_to_the_last_seconds(tmp_path, monkeypatch):
    """Steps take 3 s and validation 2 s: killed in step 4, the first two are known; the rest counts when it is run."""
    seconds = [0.0]
    monkeypatch.setattr(run.time, "perf_counter", lambda: seconds[0])
    stopwatch = run.Stopwatch(tmp_path / "seconds.csv")

    def steps(count):
        stopwatch.on_epoch_begin(0)
        for step in range(count):
            seconds[0] += 3
            stopwatch.on_train_batch_end(step)

    steps(3)
    steps(2)
    stopwatch.on_test_begin()
    seconds[0] += 2
    (tmp_path / "history.csv").write_text("epoch,loss\n0,0.3\n")
    assert run.seconds_of_training(tmp_path) == 12
    stopwatch.on_epoch_end(0)
    assert run.seconds_of_training(tmp_path) == 14


def test_the_evaluations_are_those_of_the_columns(runner, trainings, evaluation):
    """Columns of one evaluation share it; the epsilon is that of the row; steps and restarts are cut.

    A network without branches has one evaluation for both.
    """
    runner = dataclasses.replace(runner, scale="smoke")
    results = runner.run(Experiment.from_definition("table1", EXPERIMENT))
    values = {"White box": 0.25, "Black box": 0.25, "Again": 0.25, "Top 2": 0.75}
    assert [row["values"] for row in results["rows"].values()] == [values, values]
    names = sorted(path.name for path in (runner.workdir / "smoke" / "evaluations").glob("*/*"))
    start = "split=test[:16],name=pgd"
    source = runner.name_of(RAW)
    assert names == [
        f"{start},epsilon=0.1,steps=2,restarts=1",
        f"{start},epsilon=0.1,steps=2,restarts=1,source={source}",
        f"{start},epsilon=0.1,steps=2,restarts=1,top_k=2",
        f"{start},epsilon=0.3,steps=2,restarts=1",
        f"{start},epsilon=0.3,steps=2,restarts=1,source={source}",
        f"{start},epsilon=0.3,steps=2,restarts=1,top_k=2",
    ]
    assert len(trainings) == 2


def test_a_trained_model_is_freed_before_the_next_one_is_made(runner, trainings, monkeypatch):
    alive = []
    monkeypatch.setattr(run, "_forget_models", lambda: alive.append(len(ALIVE)))
    runner.trained(RAW)
    runner.trained(AVERAGED)
    assert alive == [0, 0]


def test_what_a_row_leaves_is_not_searched_for_garbage_until_the_run_ends(runner, trainings, evaluation, monkeypatch):
    """However it ends; TensorFlow never frees it, and looking through it made each row slower than the one before."""
    frozen = []
    monkeypatch.setattr(run, "_forget_models", lambda: frozen.append(gc.get_freeze_count()))
    experiment = Experiment.from_definition("table1", EXPERIMENT)
    runner.run(experiment)
    assert frozen[0] < 10_000 < frozen[-1]
    assert gc.get_freeze_count() < 10_000
    shutil.rmtree(next(runner.workdir.glob("paper/evaluations/*/*epsilon=0.1*")))
    evaluation.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        runner.run(experiment)
    assert gc.get_freeze_count() < 10_000
