"""The tables of a report as text, the same for Markdown and HTML."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_robust.reports import formatting
from keras_robust.reports.record import Record, attack_results, clean_results, wilson_interval, worst_case_results
from keras_robust.version import __version__

TARGET_COLUMNS = ("Attack", "Target", "Reached its target", "95 % interval", "Attacked")
CHECK_COLUMNS = ("Check", "Verdict", "Reason", "Value", "Threshold", "Source")
# Marks of table rows.
WORST, SUSPICIOUS = "worst", "suspicious"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text. The first column has the names of the rows.

    Attributes:
        columns: headings of the columns.
        alignment: one letter per column: "r" for numbers, aligned right; "l" for a word or two on one line; "n" for
            names, which may take several lines; "t" for long text.
        rows: a tuple of texts per row, one text per column.
        marks: one per row: `WORST`, `SUSPICIOUS` or "". The page highlights marked rows.
    """

    columns: tuple[str, ...]
    alignment: str
    rows: list[tuple[str, ...]]
    marks: list[str]


@dataclasses.dataclass(frozen=True)
class AccuracyRow:
    """One row of the accuracy table."""

    name: str
    accuracy: str
    interval: str
    top_k: str
    examples: str
    attacked: str
    seconds: str


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


def make_table(
    columns: Sequence[str], alignment: str, rows: Iterable[Sequence[str]], marks: Sequence[str] = ()
) -> Table:
    """Returns a table. Without `marks`, no row is highlighted."""
    lines = [tuple(row) for row in rows]
    return Table(tuple(columns), alignment, lines, list(marks) or [""] * len(lines))


def accuracy_table(record: Record) -> Table:
    """Returns the rows of `accuracy_rows` as a table, with columns "Top k" and "Attacked" if the record has them."""
    rows = accuracy_rows(record)
    names = {"name": "Images", "accuracy": "Accuracy", "interval": "95 % interval"}
    if record.get("top_k"):
        names["top_k"] = f"Top {record['top_k']['k']}"
    names["examples"] = "Examples"
    if any("attacked" in record["details"][name] for name in record["attacks"]):
        names["attacked"] = "Attacked"
    names["seconds"] = "Time"
    marks = [""] * len(rows)
    if record["attacks"]:
        marks[-1] = WORST
    alignment = "n" + "r" * (len(names) - 1)
    return make_table(tuple(names.values()), alignment, [[getattr(row, name) for name in names] for row in rows], marks)


def accuracy_rows(record: Record) -> list[AccuracyRow]:
    """Returns a row for clean images, a row per attack in the order of the record, and a row for the worst case.

    In a suite, the names of the rows of attacks begin with "after", and the last row has the name of the suite.
    """
    suite, top_k = record.get("suite"), record.get("top_k") or {}
    top_attacks = top_k.get("attacks", {})
    rows = [_accuracy_row("Clean", record["clean_accuracy"], clean_results(record), top_k.get("clean_accuracy"), {})]
    details = [record["details"][name] for name in record["attacks"]]
    for (name, accuracy), detail in zip(record["attacks"].items(), details, strict=True):
        row = f"after {name}" if suite else name
        rows.append(_accuracy_row(row, accuracy, attack_results(record, name), top_attacks.get(name), detail))
    if details:
        durations = [detail["seconds"] for detail in details]
        total = {"seconds": None if None in durations else sum(durations)}
        name = suite["name"] if suite else "Worst case"
        worst = worst_case_results(record)
        rows.append(_accuracy_row(name, record["robust_accuracy"], worst, top_k.get("robust_accuracy"), total))
    return rows


def target_table(record: Record) -> Table | None:
    """Returns how many examples reached their target, with one row per targeted attack. None without such attacks."""
    rows = []
    for name, success in (record.get("targeted_success") or {}).items():
        detail = record["details"][name]
        attacked = np.array([reached for reached in detail["reached_target"] if reached is not None], bool)
        interval = formatting.NOTHING
        if attacked.size:
            interval = formatting.percent_range(*wilson_interval(int(attacked.sum()), attacked.size))
        share = formatting.NOTHING if success is None else formatting.percent(success)
        rows.append((name, formatting.scalar(detail["aim"]), share, interval, f"{attacked.size:,}"))
    return make_table(TARGET_COLUMNS, "nlrrr", rows) if rows else None


def settings_rows(record: Record) -> list[tuple[str, str]]:
    """Returns the settings of every attack as (name, text in one line)."""
    return [(name, attack_settings(record["details"][name])) for name in record["attacks"]]


def attack_settings(detail: dict[str, Any]) -> str:
    """Returns the settings in one line. The number of restarts is added if the settings do not contain it."""
    summary = formatting.settings_summary(detail["settings"])
    restarts = detail.get("restarts")
    return summary if restarts is None or "restarts=" in summary else f"{summary}, restarts={restarts}".lstrip(", ")


def full_settings(record: Record) -> list[tuple[str, Any]]:
    """Returns all settings as (heading, value): of the suite, if there is one, and of every attack."""
    suite = record.get("suite")
    settings = [(f"Suite: {suite['name']}", suite["settings"])] if suite else []
    return settings + [(f"Attack: {name}", record["details"][name]["settings"]) for name in record["attacks"]]


def check_table(record: Record) -> Table:
    """Returns the rows of `check_rows` as a table."""
    rows = check_rows(record)
    lines = [(row.name, row.verdict, row.reason, row.value, row.threshold, row.source) for row in rows]
    return make_table(CHECK_COLUMNS, "nltrrn", lines, [SUSPICIOUS if row.suspicious else "" for row in rows])


def check_rows(record: Record) -> list[CheckRow]:
    """Returns one row per gradient masking check, in the order of the record."""
    return [
        CheckRow(
            name=str(check["name"]),
            suspicious=bool(check["suspicious"]),
            verdict=check_verdict(check),
            value=formatting.scalar(check["value"]),
            threshold=formatting.scalar(check["threshold"]),
            reason=formatting.sentence(formatting.scalar(check["reason"])),
            source=formatting.scalar(check["source"]),
        )
        for check in record["checks"]
    ]


def check_verdict(check: dict[str, Any]) -> str:
    """Returns the verdict of a check. A check that is not suspicious and has no value was not run."""
    if check["suspicious"]:
        return formatting.SUSPICIOUS
    return formatting.NOT_RUN if check["value"] is None else formatting.NOT_SUSPICIOUS


def provenance_rows(record: Record) -> list[tuple[str, str]]:
    """Returns what is needed to repeat the evaluation, as (name, text)."""
    model = record["model"]
    parameters = model.get("parameters")
    rows = [
        ("Model", str(model["source"])),
        ("Parameters", formatting.NOTHING if parameters is None else f"{parameters:,}"),
        ("Attacked model", str(record["black_box_source"] or "the same (white box)")),
        ("Threat model", formatting.settings_summary(record.get("threat_model") or "see the settings of each attack")),
        ("Data set", str(record["dataset"])),
        ("Examples", f"{record['examples']:,}"),
        ("Batch size", formatting.scalar(record.get("batch_size"))),
        ("Seed", formatting.scalar(record["seed"])),
        ("Evaluation time", formatting.seconds(record["seconds"])),
        ("Devices", ", ".join(record.get("devices") or [formatting.NOTHING])),
        ("CPU threads", _threads(record.get("threads"))),
        ("Created", formatting.scalar(record["created"])),
        ("Commit", formatting.scalar(record["commit"])),
        ("Command", formatting.scalar(record["command"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("Report by", f"keras_robust {__version__}"),
    ]
    extra = {key: value for key, value in model.items() if key not in ("source", "parameters") and value is not None}
    if extra:
        rows.insert(2, ("Model details", formatting.settings_summary(extra)))
    return rows


def _threads(threads: dict[str, int] | None) -> str:
    if threads is None:
        return formatting.NOTHING
    return f"{threads['intra_op']} per operation, {threads['inter_op']} operations at once"


def _accuracy_row(
    name: str, accuracy: float, results: np.ndarray, top_k: float | None, detail: dict[str, Any]
) -> AccuracyRow:
    low, high = wilson_interval(int(results.sum()), results.size)
    attacked = detail.get("attacked")
    return AccuracyRow(
        name=name,
        accuracy=formatting.percent(accuracy),
        interval=formatting.percent_range(low, high),
        top_k=formatting.NOTHING if top_k is None else formatting.percent(top_k),
        examples=f"{results.size:,}",
        attacked=formatting.NOTHING if attacked is None else f"{attacked:,}",
        seconds=formatting.seconds(detail.get("seconds")),
    )
