"""The report in Markdown: the same content as the page, without pictures."""

import dataclasses
from collections.abc import Iterable, Sequence

from keras_robust.reports import formatting, plots, tables, wording
from keras_robust.reports.record import Record, check_record

# Characters that would end a table cell or start a tag, a link, an image, emphasis or code.
_ESCAPES = str.maketrans(
    {"\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "[": r"\[", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def render_markdown(record: Record) -> str:
    """The report as Markdown with tables as GitHub reads them.

    Raises:
        ValueError: a field is missing, or the record contradicts itself.
    """
    check_record(record)
    access, explanation = wording.access(record)
    parts = [
        f"# {_escape(wording.title(record))}",
        f"**{_escape(wording.verdict(record))}**",
        f"**{access}.** {_escape(explanation)}",
        "## Accuracy",
        _accuracy_table(record),
        wording.INTERVALS,
        "## Gradient masking checks",
        *_checks(record),
        "## Training",
        *_training(record),
        "## Provenance",
        _table(("What", "Value"), "ll", tables.provenance_rows(record)),
        "## Attack settings",
        *_attack_settings(record),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy_table(record: Record) -> str:
    rows = [dataclasses.astuple(row) for row in tables.accuracy_rows(record)]
    return _table(tables.ACCURACY_COLUMNS, "lrrrrl", rows)


def _checks(record: Record) -> list[str]:
    rows = [
        (row.name, row.verdict, row.value, row.threshold, row.reason, row.source) for row in tables.check_rows(record)
    ]
    return [wording.checks_summary(record), *([_table(tables.CHECK_COLUMNS, "llrrll", rows)] if rows else [])]


def _training(record: Record) -> list[str]:
    if record["training"] is None:
        return [wording.NO_HISTORY]
    history = record["training"]["history"]
    values = [
        (f"{heading}, {label}", value)
        for heading, metric in plots.FIGURES
        for label, value in plots.final_values(plots.find_curves(history, metric), heading)
    ]
    if not values:
        parts = [wording.NO_HISTORY]
    else:
        last = plots.epochs(history)[-1]
        parts = [_table(("Measure", f"After epoch {last}"), "lr", values), _escape(wording.training_attacks(record))]
    return [*parts, "Training configuration:", _code_block(record["training"]["config"])]


def _attack_settings(record: Record) -> list[str]:
    parts: list[str] = []
    for name in record["attacks"]:
        parts += [f"{_escape(name)}:", _code_block(record["details"][name]["settings"])]
    return parts or ["No attack was run."]


def _table(columns: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]) -> str:
    rule = ["---:" if side == "r" else "---" for side in alignment]
    lines = [list(columns), rule, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _code_block(value: object) -> str:
    # A line of JSON never starts with a fence: line breaks inside its strings are escaped.
    return f"```json\n{formatting.pretty_json(value)}\n```"


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPES)
