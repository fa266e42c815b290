"""The rows of a report's tables: text only, shared by Markdown and HTML."""

import dataclasses
from typing import Any

import numpy as np

from keras_robust.reports import formatting
from keras_robust.reports.record import Record, attack_results, clean_results, worst_case_results
from keras_robust.reports.wilson import wilson_interval
from keras_robust.version import __version__

ACCURACY_COLUMNS = ("Images", "Accuracy", "95 % interval", "Examples", "Time", "Settings")
CHECK_COLUMNS = ("Check", "Verdict", "Value", "Threshold", "Reason", "Source")


@dataclasses.dataclass(frozen=True)
class AccuracyRow:
    """One line of the accuracy table."""

    name: str
    accuracy: str
    interval: str
    examples: str
    seconds: str
    settings: str


@dataclasses.dataclass(frozen=True)
class CheckRow:
    """One gradient masking check."""

    name: str
    suspicious: bool
    verdict: str
    value: str
    threshold: str
    reason: str
    source: str


def accuracy_rows(record: Record) -> list[AccuracyRow]:
    """Clean images first, then every attack in the order of the record, then the worst case per example."""
    rows = [_accuracy_row("Clean", "no attack", record["clean_accuracy"], clean_results(record), None)]
    durations = []
    for name, accuracy in record["attacks"].items():
        detail = record["details"][name]
        durations.append(detail["seconds"])
        settings = attack_settings(detail)
        rows.append(_accuracy_row(name, settings, accuracy, attack_results(record, name), detail["seconds"]))
    if record["attacks"]:
        total = None if None in durations else sum(durations)
        attacks = formatting.count(len(record["attacks"]), "attack")
        settings = f"per example, over {attacks}"
        worst = worst_case_results(record)
        rows.append(_accuracy_row("Worst case", settings, record["robust_accuracy"], worst, total))
    return rows


def attack_settings(detail: dict[str, Any]) -> str:
    """One line of settings, with the restarts where the settings do not name them."""
    summary = formatting.settings_summary(detail["settings"])
    restarts = detail.get("restarts")
    return summary if restarts is None or "restarts=" in summary else f"{summary}, restarts={restarts}".lstrip(", ")


def check_rows(record: Record) -> list[CheckRow]:
    """One row per gradient masking check, in the order of the record."""
    return [
        CheckRow(
            name=str(check["name"]),
            suspicious=bool(check["suspicious"]),
            verdict="⚠ Suspicious" if check["suspicious"] else "Not suspicious",
            value=formatting.scalar(check["value"]),
            threshold=formatting.scalar(check["threshold"]),
            reason=formatting.scalar(check["reason"]),
            source=formatting.scalar(check["source"]),
        )
        for check in record["checks"]
    ]


def provenance_rows(record: Record) -> list[tuple[str, str]]:
    """Everything needed to repeat the evaluation, as (name, text)."""
    model = record["model"]
    parameters = model.get("parameters")
    rows = [
        ("Model", str(model["source"])),
        ("Parameters", formatting.NOTHING if parameters is None else f"{parameters:,}"),
        ("Attacked model", str(record["black_box_source"] or "the same (white box)")),
        ("Threat model", formatting.settings_summary(record.get("threat_model") or "see the settings of each attack")),
        ("Data set", str(record["dataset"])),
        ("Examples", f"{record['examples']:,}"),
        ("Seed", formatting.scalar(record["seed"])),
        ("Evaluation time", formatting.seconds(record["seconds"])),
        ("Created", formatting.scalar(record["created"])),
        ("Commit", formatting.scalar(record["commit"])),
        ("Command", formatting.scalar(record["command"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("Report by", f"keras_robust {__version__}"),
    ]
    extra = {key: value for key, value in model.items() if key not in ("source", "parameters")}
    if extra:
        rows.insert(2, ("Model details", formatting.settings_summary(extra)))
    return rows


def _accuracy_row(
    name: str, settings: str, accuracy: float, results: np.ndarray, duration: float | None
) -> AccuracyRow:
    low, high = wilson_interval(int(results.sum()), results.size)
    return AccuracyRow(
        name=name,
        accuracy=formatting.percent(accuracy),
        interval=formatting.percent_range(low, high),
        examples=f"{results.size:,}",
        seconds=formatting.seconds(duration),
        settings=settings,
    )
