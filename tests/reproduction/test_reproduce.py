"""Experiments from end to end, at the scale of the smoke test."""

import json
import pathlib

import pytest

from keras_robust.tools.reproduction import Runner, reproduce, smoke_config
from keras_robust.training.config import resolve

CONFIG = """
import ml_collections

def get_config(weight=""):
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "imagenet2012"
    config.train_split = "train"
    config.validation_split = "validation"
    config.classifier = {"name": "resnet", "depth": 152}
    config.method = {"name": "natural_training"}
    config.optimizer = {"name": "sgd", "learning_rate": {"name": "step_decay", "warmup_epochs": 5}}
    config.batch_size = 4096
    config.epochs = 110
    if weight:
        config.classifier["normalization"] = "mixture_batch"
        config.method = {"name": "adversarial_logit_pairing", "pairing_weight": float(weight)}
        config.attack = {"name": "pgd", "epsilon": 0.3, "steps": 30}
        config.validation_attack = {"name": "pgd", "epsilon": 0.3, "steps": 30}
        config.freeze_batch_statistics_epochs = 10
    return config
"""
PGD = {"name": "pgd", "epsilon": 0.3, "steps": 100, "restarts": 10}
CLEAN_BRANCH = {"attack": PGD, "branch": "clean", "top_k": 2}
EXPERIMENTS = {
    "table1": {
        "title": "a title",
        "source": "A. Author (2018), table 1",
        "columns": {
            "White box": CLEAN_BRANCH,
            "Black box": {"attack": PGD, "source": {"paper": "pairing"}},
            "Clean": CLEAN_BRANCH | {"measure": "clean_accuracy"},
            "Top 2": CLEAN_BRANCH | {"measure": "top_k/clean_accuracy"},
            "Training": {"measure": "history/robust_accuracy"},
            "Minutes": {"measure": "minutes"},
        },
        "rows": {
            "weight 1": {"model": {"paper": "pairing:1.0"}, "published": {"White box": 96.4}},
            "theirs": {"published": {"White box": 1.3}},
        },
    }
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    (folder / "pairing.py").write_text(CONFIG)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "paper.py").write_text(f"EXPERIMENTS = {EXPERIMENTS!r}\n")
    return folder


@pytest.fixture(scope="module")
def finished(configs, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("work")
    runner = Runner("smoke", workdir, configs, data_dir=str(data_dir), verbose=0)
    return runner, reproduce(["all"], runner, workdir / "results")


def test_an_experiment_is_trained_measured_and_written(finished):
    """Two models: that of the row, and the source of the black-box attack."""
    runner, page = finished
    assert len(list((runner.workdir / "smoke" / "models").iterdir())) == 2
    results = json.loads((page.parent / "results" / "table1-smoke.json").read_text())
    rows = results["rows"]
    assert set(rows) == {"weight 1", "theirs"}
    values = rows["weight 1"]["values"]
    assert all(0 <= values[title] <= 1 for title in ("White box", "Black box", "Top 2", "Training"))
    assert values["White box"] <= values["Clean"] <= values["Top 2"]
    assert values["Minutes"] > 0
    assert rows["theirs"]["values"] == {}
    assert "/ 96.4 |" in page.read_text()


def test_what_is_finished_is_not_done_again(finished):
    runner, page = finished
    files = [path for path in (runner.workdir / "smoke").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    reproduce(["table1"], runner, page.parent / "results")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_unknown_experiment_is_named_before_anything_is_run(finished, tmp_path):
    runner, _ = finished
    with pytest.raises(ValueError, match=r"Received: \['table2'\]"):
        reproduce(["table1", "table2"], runner, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_smoke_config_keeps_what_is_to_be_tested(configs):
    namespace = {}
    exec((configs / "pairing.py").read_text(), namespace)
    config = resolve(smoke_config(namespace["get_config"]("1.0").to_dict()))
    assert config["classifier"] == {"name": "lenet", "normalization": "mixture_batch"}
    assert config["method"] == {"name": "adversarial_logit_pairing", "pairing_weight": 1.0}
    assert config["attack"] == {"name": "pgd", "epsilon": 0.3, "steps": 2}
    assert config["freeze_batch_statistics_epochs"] == 1
    assert config["dataset"] == "mnist_small"


def test_configs_are_where_they_are_said_to_be(tmp_path):
    runner = Runner("smoke", tmp_path, pathlib.Path("nowhere"))
    with pytest.raises(ValueError, match="Received: configs=nowhere"):
        reproduce(["all"], runner, tmp_path / "results")
