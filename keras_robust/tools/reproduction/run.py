"""Runs experiments: trains their models and measures them. A later run skips what is finished.

WORKDIR/SCALE/models/MODEL/                  the folder of a training run, with seconds.csv
WORKDIR/SCALE/evaluations/MODEL/EVALUATION/  a report
"""

import copy
import dataclasses
import gc
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from etils import epath

from keras_robust import data, evaluation
from keras_robust.evaluation.record import HISTORY_FILE, provenance, read_history
from keras_robust.evaluation.report import RECORD_FILE
from keras_robust.tools.reproduction.experiment import (
    SMOKE,
    Column,
    Experiment,
    ModelSpec,
    Row,
    load_config,
    load_experiments,
)
from keras_robust.tools.reproduction.results import results_table, write_page, write_results
from keras_robust.training import build_attack, train
from keras_robust.training.config import resolve
from keras_robust.training.workdir import Workdir

ALL = "all"
SECONDS_FILE, FINISHED_FILE = "seconds.csv", "finished"
SECONDS_OF_A_PART = 5
LAST_MODEL, AVERAGED_MODEL = "last.keras", "averaged.keras"
"""Evaluated files. last.keras has the weights that training resumes from; averaged.keras has their averages."""
SMOKE_SPLIT = "test[:16]"
SMOKE_STEPS = 2
SMOKE_BATCH_SIZE = 8
"""A smoke test only shows that an experiment runs from beginning to end. Its numbers mean nothing."""
ITERATIONS = ("steps", "queries", "iterations")
REPETITIONS = ("restarts", "targets", "targeted", "eot_iter")


def reproduce(names: Sequence[str], runner: "Runner", results: pathlib.Path) -> pathlib.Path:
    """Runs experiments, writes their records and the page of all records in the folder, and returns the page's path.

    Args:
        names: names of experiments. "all" means all that can be run at the scale of the runner.
        runner: trains and evaluates.
        results: folder of the records. The page, RESULTS.md, is written next to this folder.

    Raises:
        ValueError: if an experiment is unknown or cannot be run at that scale. Nothing is run in this case.
    """
    experiments = load_experiments(runner.configs)
    unknown = [name for name in names if name not in (*experiments, ALL)]
    if unknown:
        raise ValueError(f"An experiment must be one of {sorted(experiments)}, or 'all'. Received: {unknown}")
    if ALL in names:
        names = [name for name, experiment in experiments.items() if experiment.runs_at(runner.scale)]
    for name in names:
        experiments[name].at(runner.scale)
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        measured = runner.run(experiments[name])
        write_results(experiments[name], measured, results)
        if runner.verbose:
            print(f"\n{name}\n{results_table(experiments[name], measured)}\n", flush=True)
    return write_page(experiments, results)


class Stopwatch(keras.callbacks.Callback):
    """Appends the seconds of each epoch, including validation, to a file.

    It writes every few seconds, because a run may be killed at any moment.

    Args:
        path: the file. Each row has the number of an epoch and the seconds since the row before.
    """

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._epoch = epoch
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a row if the last one is more than `SECONDS_OF_A_PART` old."""
        if time.perf_counter() - self._start > SECONDS_OF_A_PART:
            self._write()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Writes a row, because another callback may end the run before `on_epoch_end` of this one is called."""
        self._write()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the rest of the epoch."""
        self._write()

    def _write(self) -> None:
        now = time.perf_counter()
        with self.path.open("a") as file:
            file.write(f"{self._epoch},{now - self._start:.3f}\n")
        self._start = now


def seconds_of_training(folder: pathlib.Path) -> float | None:
    """Returns the seconds of a run, or None if an epoch of its history was not timed.

    Steps that were lost when the run was killed, and then repeated, count twice.
    """
    path = folder / SECONDS_FILE
    if not path.exists():
        return None
    rows = [line.split(",") for line in path.read_text().splitlines()]
    timed = {float(epoch) for epoch, _ in rows}
    epochs = read_history(folder / HISTORY_FILE).get("epoch", [])
    return sum(float(seconds) for _, seconds in rows) if timed.issuperset(epochs) else None


@dataclasses.dataclass(frozen=True)
class Runner:
    """Trains and evaluates at one scale, in one folder.

    Attributes:
        scale: one of `SCALES`.
        workdir: folder of the models and reports of all experiments.
        configs: folder of the training configs.
        data_dir: folder of prepared data sets. None means TFDS's default.
        download: whether TFDS may download a data set that is missing.
        verbose: see `keras.Model.fit`; 0 prints nothing.
    """

    scale: str
    workdir: pathlib.Path
    configs: pathlib.Path
    data_dir: str | None = None
    download: bool = False
    verbose: str | int = "auto"

    def run(self, experiment: Experiment) -> dict[str, Any]:
        """Trains and evaluates what is not finished, and returns the results.

        Returns:
            The experiment's name, the scale, where the results come from, and for each row the values by title of the
            column. Accuracies are fractions.

        Raises:
            ValueError: if the experiment has no model at this scale, or a config or data set is wrong.
        """
        experiment = experiment.at(self.scale)
        rows = {}
        try:
            for row in experiment.rows:
                rows[row.label] = self._measure(experiment, row)
                # TensorFlow keeps graphs with a custom gradient for ever. Without `freeze`, each garbage collection
                # would visit them, and each row would take longer than the one before.
                gc.freeze()
        finally:
            gc.unfreeze()
        return {"experiment": experiment.name, "scale": self.scale, "rows": rows, **provenance()}

    def _measure(self, experiment: Experiment, row: Row) -> dict[str, Any]:
        """Returns the values of a row by title of the column, its model, and the commits of its reports."""
        model = row.model_at(self.scale)
        if model is None:
            return {"values": {}, "model": None, "commits": []}
        folder = self.trained(model)
        split = SMOKE_SPLIT if self.scale == SMOKE else experiment.split[self.scale]
        values: dict[str, Any] = {}
        commits = set()
        for column in experiment.columns:
            if column.evaluation:
                report = self._report(column, row, model, split)
                record = json.loads((report / RECORD_FILE).read_text())
                commits.add(record["commit"] or "unknown")
                values[column.title] = self._measured(column, record, report)
            else:
                values[column.title] = self._trained_with(column, folder)
        return {
            "values": values,
            "model": model.name,
            "seconds": seconds_of_training(folder),
            "commits": sorted(commits),
        }

    def _report(self, column: Column, row: Row, model: ModelSpec, split: str) -> pathlib.Path:
        """Returns the folder of the report that has a column's value. Evaluates first if the report is missing."""
        fields = {"split": split, **column.evaluation}
        if "attack" in fields:
            attack = {**fields["attack"], **row.attack}
            fields["attack"] = smoke_attack(attack) if self.scale == SMOKE else attack
        return self.evaluated(model, fields, column.source_at(self.scale))

    def _measured(self, column: Column, record: Mapping[str, Any], report: pathlib.Path) -> float | str | bool | None:
        """Returns the value of a column that comes from an evaluation."""
        kind, _, name = column.measure.partition("/")
        if kind == "report":
            return str(report.relative_to(self.workdir))
        if kind == "masked":
            return any(check["suspicious"] for check in record["checks"]) if record["checks"] else None
        return record[kind][name] if name else record[kind]

    def _trained_with(self, column: Column, folder: pathlib.Path) -> float | None:
        """Returns the value of a column that comes from training."""
        if column.measure == "minutes":
            seconds = seconds_of_training(folder)
            return None if seconds is None else seconds / 60
        return read_history(folder / HISTORY_FILE)[column.measure.removeprefix("history/")][-1]

    def config_of(self, model: ModelSpec) -> dict[str, Any]:
        """Returns the training config of a model at this scale."""
        config = load_config(self.configs, model)
        return smoke_config(config) if self.scale == SMOKE else config

    def name_of(self, model: ModelSpec) -> str:
        """Returns the name of a model's folder. Models with equal smoke tests share one folder."""
        if self.scale != SMOKE:
            return model.name
        content = json.dumps(self.config_of(model), sort_keys=True)
        return f"{model.config.partition(':')[0]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def final_model(self, model: ModelSpec) -> pathlib.Path:
        """Returns the file of a trained model, with averaged weights if its optimizer averages them."""
        return self._model_folder(model) / (AVERAGED_MODEL if self._averages(model) else LAST_MODEL)

    def trained(self, model: ModelSpec) -> pathlib.Path:
        """Trains a model, or resumes its training, and returns its folder. A finished model is not trained again."""
        folder = self._model_folder(model)
        Workdir(epath.Path(folder)).check(resolve(self.config_of(model)))
        not_averaged = self._averages(model) and not (folder / AVERAGED_MODEL).exists()
        if not_averaged or not (folder / FINISHED_FILE).exists():
            self._say(f"Training {self.name_of(model)}")
            self._train(model, folder)
            _forget_models()
        return folder

    def evaluated(self, model: ModelSpec, fields: Mapping[str, Any], source: ModelSpec | None) -> pathlib.Path:
        """Evaluates a model, or resumes its evaluation, and returns the folder of the report.

        Args:
            model: a trained model.
            fields: the evaluation, with keys of `EVALUATION_FIELDS`. They give the folder its name. For a network
                without branches, "branch" is ignored.
            source: the model on which the attacks are crafted. None, or the model itself, means white-box attacks.
        """
        source = None if source == model else source
        if self.config_of(model)["classifier"].get("normalization") != "mixture_batch":
            fields = {key: value for key, value in fields.items() if key != "branch"}
        name = _name({**fields, "source": source and self.name_of(source)})
        folder = self.workdir / self.scale / "evaluations" / self.name_of(model) / name
        if source is not None:
            self.trained(source)
        models = [self.final_model(each) for each in (model, source) if each is not None]
        record = folder / RECORD_FILE
        # A record that is older than a model is out of date, because the model was trained again.
        if not record.exists() or record.stat().st_mtime < max(each.stat().st_mtime for each in models):
            self._say(f"Evaluating {self.name_of(model)}: {name}")
            self._evaluate(model, fields, source, folder)
            _forget_models()
        return folder

    def _train(self, model: ModelSpec, folder: pathlib.Path) -> None:
        trained = train(
            self.config_of(model),
            folder,
            data_dir=self.data_dir,
            download=self.download,
            callbacks=[Stopwatch(folder / SECONDS_FILE)],
            verbose=self.verbose,
        )
        if self._averages(model):
            trained.save(folder / "averaged.partial.keras")
            (folder / "averaged.partial.keras").rename(folder / AVERAGED_MODEL)
        (folder / FINISHED_FILE).touch()

    def _evaluate(
        self, model: ModelSpec, fields: Mapping[str, Any], source: ModelSpec | None, folder: pathlib.Path
    ) -> None:
        config = self.config_of(model)
        name, batch_size = config["dataset"], min(128, config["batch_size"])
        dataset = data.evaluation_batches(
            name,
            fields["split"],
            batch_size=batch_size,
            image_size=config.get("image_size", 0),
            data_dir=self.data_dir,
        )
        progress = folder / "progress"
        report = evaluation.evaluate_suite(
            fields.get("suite"),
            str(self.final_model(model)),
            dataset,
            build_attack(fields["attack"]),
            source=None if source is None else str(self.final_model(source)),
            branch=fields.get("branch"),
            top_k=fields.get("top_k", 1),
            batch_size=batch_size,
            dataset_name=f"{name} {fields['split']}",
            journal=progress,
            verbose=bool(self.verbose),
        )
        report.save(folder)
        shutil.rmtree(progress)

    def _averages(self, model: ModelSpec) -> bool:
        return self.config_of(model)["optimizer"].get("use_ema", False)

    def _model_folder(self, model: ModelSpec) -> pathlib.Path:
        return self.workdir / self.scale / "models" / self.name_of(model)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)


def _name(fields: Mapping[str, Any]) -> str:
    """Returns the name of an evaluation's folder, which has everything that the evaluation depends on."""
    parts = []
    for key, value in fields.items():
        if isinstance(value, Mapping):
            parts += [f"{name}={entry}" for name, entry in value.items()]
        elif value is not None:
            parts.append(f"{key}={value}")
    return ",".join(parts).replace("/", "_")


def _forget_models() -> None:
    """Frees the graphs of finished models, because one process trains and evaluates dozens of them."""
    keras.backend.clear_session()
    gc.collect()


def smoke_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a training config reduced to one or two epochs of two steps, on a few embedded digits of MNIST.

    Method, normalisation and optimizer stay. The classifier is always a LeNet.
    """
    small = copy.deepcopy(dict(config))
    small |= {
        "dataset": "mnist_small",
        "train_split": "train[:64]",
        "validation_split": SMOKE_SPLIT,
        "batch_size": SMOKE_BATCH_SIZE,
        "steps_per_epoch": SMOKE_STEPS,
        "epochs": 1,
        "steps_per_execution": 1,
        "precision": "float32",
    }
    small |= dict.fromkeys(set(small) & {"image_size", "early_stopping_patience", "epsilon_warmup_epochs"}, 0)
    small |= dict.fromkeys(set(small) & {"augmentation"}, None)
    if small.get("freeze_batch_statistics_epochs"):
        small |= {"freeze_batch_statistics_epochs": 1, "epochs": 2}
    normalization = config["classifier"].get("normalization")
    small["classifier"] = {"name": "lenet", "normalization": normalization}
    for section in ("attack", "validation_attack"):
        if small.get(section):
            small[section] = smoke_attack(small[section])
    return small


def smoke_attack(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an attack reduced to at most two iterations and one repetition."""
    limits = dict.fromkeys(ITERATIONS, SMOKE_STEPS) | dict.fromkeys(REPETITIONS, 1)
    return {name: min(value, limits[name]) if name in limits else value for name, value in attack.items()}
