"""Experiments of papers. An experiment has models as rows, measurements as columns, and published numbers.

Experiments are data in `configs/experiments/*.py`. `load_experiments` reads them. `Experiment.from_definition` says
which fields they have.
"""

import dataclasses
import difflib
import importlib.util
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Self

PAPER, SMALL, SMOKE = "paper", "small", "smoke"
SCALES = (PAPER, SMALL, SMOKE)
EVALUATION_FIELDS = ("attack", "suite", "branch", "top_k", "split")
COLUMN_FIELDS = (*EVALUATION_FIELDS, "source", "measure", "scales", "x")
MEASURES = {
    "robust_accuracy": "robust accuracy",
    "clean_accuracy": "clean accuracy",
    "top_k/robust_accuracy": "robust accuracy among the top k",
    "top_k/clean_accuracy": "clean accuracy among the top k",
    "masked": "whether a check for gradient masking is suspicious",
    "report": "a report with pictures, and no number",
    "minutes": "minutes of training",
}
"""What a column shows. It may also be "history/NAME", the last value of a column of the training history."""
ROW_FIELDS = ("model", "published", "attack", "scales", "series", "x")
FIELDS = ("title", "source", "split", "columns", "rows", "figure", "remarks")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model to be trained: a config file, a variant, and fields that replace those of the config.

    Attributes:
        config: file and variant as in --config of `launch/train.py`, without folder and ".py": "mnist_methods:pgd".
        overrides: sorted pairs of a field's dotted name and its value, such as (("attack.steps", 4),).
    """

    config: str
    overrides: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_definition(cls, definition: str | Mapping[str, Any]) -> Self:
        """Reads "FILE:VARIANT", or a mapping with this text as "config" and with overrides."""
        if isinstance(definition, str):
            return cls(definition)
        overrides = {name: value for name, value in definition.items() if name != "config"}
        return cls(definition["config"], tuple(sorted(overrides.items())))

    @property
    def name(self) -> str:
        """Name of the model's folder."""
        parts = [self.config.replace(":", "-"), *(f"{name}={value}" for name, value in self.overrides)]
        return ",".join(parts).replace("/", "_")


@dataclasses.dataclass(frozen=True)
class Column:
    """A measurement of every row's model.

    Attributes:
        title: heading.
        measure: a key of `MEASURES`, or "history/NAME".
        evaluation: the evaluation that gives the value, with `EVALUATION_FIELDS` as keys. It is empty if the value
            comes from training. Its branch applies only to models with mixture batch normalisation.
        sources: by scale, the model on which the attacks are crafted. Empty for white-box attacks.
        scales: scales at which the column is measured.
        x: position on the horizontal axis of a figure over columns, or None.
    """

    title: str
    measure: str
    evaluation: Mapping[str, Any]
    sources: Mapping[str, ModelSpec]
    scales: tuple[str, ...]
    x: float | None

    def source_at(self, scale: str) -> ModelSpec | None:
        """Returns the model on which attacks are crafted. None means the model of the row."""
        return _at(self.sources, scale)


@dataclasses.dataclass(frozen=True)
class Row:
    """A model and its published numbers.

    Attributes:
        label: heading.
        models: model by scale. Empty for a row that has only published numbers.
        published: published numbers by title of the column, in percent, or in minutes for a column of minutes.
        attack: fields that replace those of the columns' attacks in this row.
        scales: scales at which the row is shown.
        series: name of the line to which the row belongs in a figure over rows.
        x: position on the horizontal axis of that figure, or None.
    """

    label: str
    models: Mapping[str, ModelSpec]
    published: Mapping[str, float]
    attack: Mapping[str, Any]
    scales: tuple[str, ...]
    series: str
    x: float | None

    def model_at(self, scale: str) -> ModelSpec | None:
        """Returns the model of a scale, or None."""
        return _at(self.models, scale)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper.

    Attributes:
        name: name such as "alp_table1".
        title: what the experiment is about.
        source: paper, and number of the table or figure.
        split: by scale, the split on which the models are evaluated, in TFDS's syntax. The configs name the data set.
        columns: measurements.
        rows: models.
        figure: empty for a table. For a figure: "x" is "rows" or "columns"; "label" is the label of that axis; "log" is
            True if it is logarithmic; and with "rows", "columns" has the titles of the columns that are plotted.
        remarks: remarks on the results, by scale.
    """

    name: str
    title: str
    source: str
    split: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    figure: Mapping[str, Any]
    remarks: Mapping[str, str]

    @classmethod
    def from_definition(cls, name: str, definition: Mapping[str, Any]) -> Self:
        """Reads the definition of an experiment.

        Args:
            name: name of the experiment.
            definition: a mapping with `FIELDS` as keys. "columns" maps titles to mappings with `COLUMN_FIELDS` as keys.
                "rows" maps labels to mappings with `ROW_FIELDS` as keys.

        Raises:
            ValueError: if a field is unknown or missing, a measure is unknown or does not fit the other fields of its
                column, or a published number has no column.
        """
        _check_fields(name, definition, FIELDS, required=("title", "source", "columns", "rows"))
        columns = tuple(_column(f"{name}, {title}", title, fields) for title, fields in definition["columns"].items())
        rows = tuple(_row(f"{name}, {label}", label, fields) for label, fields in definition["rows"].items())
        titles = {column.title for column in columns}
        for row in rows:
            if not titles >= set(row.published):
                raise ValueError(
                    f"Published numbers must be for the columns {sorted(titles)}. Received: {dict(row.published)} in "
                    f"the row {row.label!r} of {name}"
                )
        split = {PAPER: "test", SMALL: "test[:1000]"} | dict(definition.get("split", {}))
        figure, remarks = definition.get("figure", {}), definition.get("remarks", {})
        return cls(name, definition["title"], definition["source"], split, columns, rows, figure, remarks)

    def runs_at(self, scale: str) -> bool:
        """Returns whether any row has a model at a scale."""
        return any(scale in row.scales and row.model_at(scale) for row in self.rows)

    def at(self, scale: str) -> Self:
        """Returns the experiment with only the rows and columns of a scale.

        Raises:
            ValueError: if the experiment has no model at that scale, or the scale is unknown.
        """
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}. Received: scale={scale!r}")
        if not self.runs_at(scale):
            possible = [known for known in SCALES if self.runs_at(known)]
            raise ValueError(f"{self.name} can only be run at the scales {possible}. Received: scale={scale!r}")
        rows = tuple(row for row in self.rows if scale in row.scales)
        columns = tuple(column for column in self.columns if scale in column.scales)
        return dataclasses.replace(self, rows=rows, columns=columns)


def _column(where: str, title: str, fields: Mapping[str, Any]) -> Column:
    _check_fields(where, fields, COLUMN_FIELDS)
    measure = fields.get("measure", "robust_accuracy")
    if measure not in MEASURES and not measure.startswith("history/"):
        raise ValueError(
            f"measure must be one of {sorted(MEASURES)} or 'history/NAME'. Received: {measure!r} in {where}"
        )
    evaluation = {field: fields[field] for field in EVALUATION_FIELDS if field in fields}
    if bool(evaluation) == (measure == "minutes" or measure.startswith("history/")):
        raise ValueError(
            f"A column needs fields of an evaluation, which are {EVALUATION_FIELDS}, or one of the measures 'minutes' "
            f"and 'history/NAME', but not both. Received: {dict(fields)} in {where}"
        )
    scales = tuple(fields.get("scales", SCALES))
    return Column(title, measure, evaluation, _models(fields.get("source")), scales, fields.get("x"))


def _models(definitions: Mapping[str, Any] | None) -> dict[str, ModelSpec]:
    return {scale: ModelSpec.from_definition(value) for scale, value in (definitions or {}).items()}


def _at(models: Mapping[str, ModelSpec], scale: str) -> ModelSpec | None:
    """Returns the model of a scale. The smoke test uses the model of the paper."""
    return models.get(PAPER if scale == SMOKE else scale)


def _row(where: str, label: str, fields: Mapping[str, Any]) -> Row:
    _check_fields(where, fields, ROW_FIELDS)
    models = _models(fields.get("model"))
    shown_at = (*models, *([SMOKE] if PAPER in models else [])) or SCALES
    return Row(
        label,
        models,
        fields.get("published", {}),
        fields.get("attack", {}),
        tuple(fields.get("scales", shown_at)),
        fields.get("series", ""),
        fields.get("x"),
    )


def _check_fields(where: str, given: Mapping[str, Any], known: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
    for field in given:
        if field not in known:
            close = difflib.get_close_matches(field, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the fields are {known}."
            raise ValueError(f"An unknown field: {hint} Received: {field!r} in {where}")
    missing = [field for field in required if field not in given]
    if missing:
        raise ValueError(f"The experiment lacks the fields {missing}. Received: {sorted(given)} in {where}")


def load_experiments(configs: pathlib.Path) -> dict[str, Experiment]:
    """Returns the experiments of a folder of configs, by name. Each file in `experiments/` defines `EXPERIMENTS`.

    Raises:
        ValueError: if there are no experiments, two have the same name, or a definition is wrong.
    """
    found: dict[str, Experiment] = {}
    for path in sorted((configs / "experiments").glob("*.py")):
        for name, definition in _load(path).EXPERIMENTS.items():
            if name in found:
                raise ValueError(f"Each experiment must have its own name. Received: {name!r} twice, again in {path}")
            found[name] = Experiment.from_definition(name, definition)
    if not found:
        raise ValueError(f"configs must be a folder with experiments/*.py. Received: configs={configs}")
    return found


def load_config(configs: pathlib.Path, model: ModelSpec) -> dict[str, Any]:
    """Returns the training config of a model, as plain data.

    Raises:
        ValueError: if the file or the variant does not exist.
    """
    name, _, variant = model.config.partition(":")
    path = configs / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"A config must be a file in {configs}. Received: {model.config!r}")
    module = _load(path)
    config = module.get_config(variant) if variant else module.get_config()
    config.update_from_flattened_dict(dict(model.overrides))
    return config.to_dict()


def _load(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"A config must be a Python file. Received: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
