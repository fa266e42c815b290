"""Definitions of experiments: what they hold, and what is refused."""

import pathlib

import pytest

from keras_robust.tools.reproduction import Experiment, ModelSpec, load_config, load_experiments

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PGD = {"name": "pgd", "epsilon": 0.3, "steps": 4}
DEFINITION = {
    "title": "a title",
    "source": "A. Author (2018), table 1",
    "columns": {"White box": {"attack": PGD}, "Strong": {"attack": PGD, "suite": "autoattack", "scales": ["small"]}},
    "rows": {
        "ALP": {"model": {"paper": "mnist_alp:alp", "small": "mnist_methods:pgd"}, "published": {"White box": 96.4}},
        "Theirs": {"published": {"White box": 1.5}},
        "Small only": {"model": {"small": {"config": "mnist_methods:pgd", "seed": 1}}},
    },
}


def changed(**fields):
    return {**DEFINITION, **fields}


def test_a_scale_has_its_own_rows_and_columns():
    """A row without a model is shown for its published numbers at every scale; the smoke test is the paper's."""
    experiment = Experiment.from_definition("name", DEFINITION)
    paper, small, smoke = (experiment.at(scale) for scale in ("paper", "small", "smoke"))
    assert [row.label for row in paper.rows] == ["ALP", "Theirs"]
    assert [row.label for row in small.rows] == ["ALP", "Theirs", "Small only"]
    assert [row.label for row in smoke.rows] == ["ALP", "Theirs"]
    assert [column.title for column in paper.columns] == ["White box"]
    assert [column.title for column in small.columns] == ["White box", "Strong"]
    assert smoke.rows[0].model_at("smoke") == ModelSpec("mnist_alp:alp")


def test_models_are_named_after_what_they_are():
    model = ModelSpec.from_definition({"config": "mnist_methods:pgd", "seed": 1, "attack.steps": 4})
    assert model.name == "mnist_methods-pgd,attack.steps=4,seed=1"
    assert model == ModelSpec.from_definition({"attack.steps": 4, "config": "mnist_methods:pgd", "seed": 1})
    config = load_config(CONFIGS, model)
    assert (config["attack"]["steps"], config["seed"]) == (4, 1)
    assert load_config(CONFIGS, ModelSpec("mnist_methods:pgd"))["attack"]["steps"] == 8


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (changed(colums={}), "did you mean 'columns'.*Received: 'colums' in name"),
        ({"title": "a"}, "lacks .*'columns'"),
        (changed(columns={"A": {"atack": PGD}}), "did you mean 'attack'.*in name, A"),
        (changed(columns={"A": {"attack": PGD, "measure": "robustness"}}), "Received: 'robustness' in name, A"),
        (changed(columns={"A": {"attack": PGD, "measure": "minutes"}}), "fields of an evaluation.* but not both"),
        (changed(columns={"A": {}}), "fields of an evaluation.* but not both"),
        (changed(rows={"ALP": {"modell": {}}}), "did you mean 'model'.*in name, ALP"),
        (changed(rows={"ALP": {"published": {"Black box": 97.5}}}), "Received: {'Black box': 97.5} in the row 'ALP'"),
    ],
)
def test_a_wrong_definition_is_named(definition, message):
    with pytest.raises(ValueError, match=message):
        Experiment.from_definition("name", definition)


def test_scales_that_are_not_there_are_named():
    experiment = Experiment.from_definition("name", changed(rows={"ALP": {"model": {"paper": "mnist_alp:alp"}}}))
    assert not experiment.runs_at("small")
    with pytest.raises(ValueError, match=r"at the scales \['paper', 'smoke'\]. Received: scale='small'"):
        experiment.at("small")
    with pytest.raises(ValueError, match="Received: scale='large'"):
        experiment.at("large")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match="Received: configs="):
        load_experiments(tmp_path)
    with pytest.raises(ValueError, match="Received: 'mnist_apl:paper'"):
        load_config(CONFIGS, ModelSpec("mnist_apl:paper"))


def test_two_experiments_of_one_name_are_refused(tmp_path):
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.py").write_text(f"EXPERIMENTS = {{'table1': {DEFINITION!r}}}\n")
    with pytest.raises(ValueError, match=r"Received: 'table1' twice, again in .*b\.py"):
        load_experiments(tmp_path)
