"""What a report needs to find in an evaluation record and in its sample images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Record = dict[str, Any]
Samples = dict[str, np.ndarray]

SCHEMA_VERSION = 1
# `threat_model` is missing on purpose: a record whose attacks differ in it has none.
FIELDS = (
    "schema_version",
    "clean_accuracy",
    "robust_accuracy",
    "attacks",
    "checks",
    "examples",
    "details",
    "labels",
    "clean_predictions",
    "model",
    "black_box_source",
    "dataset",
    "seed",
    "seconds",
    "versions",
    "commit",
    "command",
    "created",
    "training",
)
DETAIL_FIELDS = ("settings", "seconds", "robust")
CHECK_FIELDS = ("name", "value", "threshold", "suspicious", "reason", "source")
SAMPLE_FIELDS = ("images", "attacked", "labels", "clean_predictions", "attacked_predictions", "attack_name")
# Accuracies are shown in percent with one decimal: a smaller difference cannot be seen.
SHOWN_PRECISION = 5e-4


def check_record(record: Record) -> None:
    """Checks that the record has every field and that its accuracies follow from its per-example results.

    Raises:
        ValueError: a field is missing, a list does not have one entry per example, or an accuracy differs from the
            per-example results by more than a report would show.
    """
    _require(record, FIELDS, "the record")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"Expected schema_version={SCHEMA_VERSION}. Received: {record['schema_version']!r}")
    if not record["examples"] > 0:
        raise ValueError(f"A report needs at least one example. Received: examples={record['examples']!r}")
    _require(record["model"], ("source",), "record['model']")
    _require(record["details"], tuple(record["attacks"]), "record['details']")
    for name in record["attacks"]:
        _require(record["details"][name], DETAIL_FIELDS, f"record['details'][{name!r}]")
    for position, check in enumerate(record["checks"]):
        _require(check, CHECK_FIELDS, f"record['checks'][{position}]")
    if record["training"] is not None:
        _require(record["training"], ("config", "history"), "record['training']")
    _check_accuracies(record)


def check_samples(samples: Samples) -> None:
    """Checks that the sample images and their predictions are complete.

    Raises:
        ValueError: a field is missing, or the arrays do not belong together.
    """
    _require(samples, SAMPLE_FIELDS, "samples")
    images, attacked = samples["images"], samples["attacked"]
    count = len(samples["labels"])
    if images.shape != attacked.shape or len(images) != count:
        raise ValueError(
            f"Expected clean and attacked images of one shape, one per label. Received: images.shape={images.shape}, "
            f"attacked.shape={attacked.shape}, {count} labels"
        )
    if count and (images.ndim != 4 or images.shape[-1] not in (1, 3)):
        raise ValueError(f"Expected images of shape (n, height, width, 1 or 3). Received: {images.shape}")
    for name in ("clean_predictions", "attacked_predictions"):
        if len(samples[name]) != count:
            raise ValueError(f"Expected {count} {name}, one per label. Received: {len(samples[name])}")


def clean_results(record: Record) -> np.ndarray:
    """Whether each example is classified correctly without an attack: (examples,) bool."""
    return np.equal(_per_example(record, record["labels"], "labels"), _clean_predictions(record))


def attack_results(record: Record, name: str) -> np.ndarray:
    """Whether each example withstood the attack of that name: (examples,) bool."""
    field = f"details[{name!r}]['robust']"
    return _per_example(record, record["details"][name]["robust"], field).astype(bool)


def worst_case_results(record: Record) -> np.ndarray:
    """Whether each example withstood every attack: (examples,) bool."""
    return np.all([attack_results(record, name) for name in record["attacks"]], axis=0)


def _clean_predictions(record: Record) -> np.ndarray:
    return _per_example(record, record["clean_predictions"], "clean_predictions")


def _per_example(record: Record, values: list[Any], field: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (record["examples"],):
        raise ValueError(f"Expected {record['examples']} values in {field}, one per example. Received: {array.shape}")
    return array


def _check_accuracies(record: Record) -> None:
    """A number that cannot be recomputed from the per-example results must not be shown."""
    measured = {"clean_accuracy": (record["clean_accuracy"], clean_results(record))}
    for name, accuracy in record["attacks"].items():
        measured[f"attacks[{name!r}]"] = (accuracy, attack_results(record, name))
    if record["attacks"]:
        measured["robust_accuracy"] = (record["robust_accuracy"], worst_case_results(record))
    for field, (accuracy, results) in measured.items():
        if not abs(accuracy - results.mean()) <= SHOWN_PRECISION:
            raise ValueError(
                f"Expected {field}={results.mean():.6g}, the mean of its per-example results. Received: {accuracy!r}"
            )


def _require(mapping: Mapping[str, Any], fields: tuple[str, ...], where: str) -> None:
    missing = [field for field in fields if field not in mapping]
    if missing:
        raise ValueError(f"Missing in {where}: {', '.join(map(repr, missing))}. Received: keys {sorted(mapping)}")
