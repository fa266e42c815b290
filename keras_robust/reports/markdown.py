"""The report in Markdown. It has the content of the HTML page without the pictures."""

from collections.abc import Iterable

from keras_robust.reports import analyses, formatting, plots, tables, wording
from keras_robust.reports.record import Record, check_record
from keras_robust.reports.tables import Table

# Characters that would end a table cell or start a tag, a link, an image, emphasis or code.
_ESCAPES = str.maketrans(
    {"\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "[": r"\[", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def render_markdown(record: Record) -> str:
    """Returns the report as Markdown with tables in the syntax of GitHub.

    Args:
        record: the evaluation record, as read from JSON.

    Raises:
        ValueError: if a field is missing, or the record contradicts itself.
    """
    check_record(record)
    access, explanation = wording.access(record)
    parts = [
        f"# {escape(wording.title(record))}",
        f"**{escape(wording.verdict(record))}**",
        f"**{access}.** {escape(explanation)}",
        *(f"**Note.** {escape(note)}" for note in record.get("notes", [])),
        "## Accuracy",
        *_accuracy(record),
        *_targets(record),
        "## Gradient masking checks",
        *_checks(record),
        *_analyses(record),
        "## Training",
        *_training(record),
        "## Provenance",
        format_table(tables.make_table(("What", "Value"), "ll", tables.provenance_rows(record))),
        "## Attack settings",
        *_attack_settings(record),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(record: Record) -> list[str]:
    notes = [escape(note) for note in wording.accuracy_notes(record)]
    settings = tables.settings_rows(record)
    return [
        format_table(tables.accuracy_table(record)),
        *notes,
        *([bullets(settings)] if settings else []),
    ]


def _targets(record: Record) -> list[str]:
    table = tables.target_table(record)
    if table is None:
        return []
    return ["## Targets", format_table(table), *(escape(note) for note in wording.target_notes(record))]


def _checks(record: Record) -> list[str]:
    table = tables.check_table(record)
    return [wording.checks_summary(record), *([format_table(table)] if table.rows else [])]


def _analyses(record: Record) -> list[str]:
    parts: list[str] = []
    for section in analyses.sections(record):
        parts += [f"## {section.heading}", escape(section.introduction)]
        parts += [f"**{escape(verdict.text)}**" for verdict in section.verdicts]
        parts += [format_table(table) for table in section.tables]
    return parts


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
        table = tables.make_table(("Measure", f"After epoch {plots.epochs(history)[-1]}"), "lr", values)
        parts = [format_table(table), escape(wording.training_attacks(record))]
    return [*parts, "Training configuration:", code_block(record["training"]["config"])]


def _attack_settings(record: Record) -> list[str]:
    parts: list[str] = []
    for heading, settings in tables.full_settings(record):
        parts += [f"{escape(heading)}:", code_block(settings)]
    return parts or ["No attack was run."]


def format_table(content: Table) -> str:
    """Returns a table as Markdown, with escaped texts."""
    rule = ["---:" if side == "r" else "---" for side in content.alignment]
    rows = [content.columns, *content.rows]
    lines = [[escape(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])


def bullets(items: Iterable[tuple[str, str]]) -> str:
    """Returns (name, text) pairs as a Markdown list with bold names."""
    return "\n".join(f"- **{escape(name)}**: {escape(text)}" for name, text in items)


def code_block(value: object) -> str:
    """Returns `value` as indented JSON in a fenced code block."""
    # No line of JSON starts with a fence, because line breaks inside strings are escaped.
    return f"```json\n{formatting.pretty_json(value)}\n```"


def escape(text: str) -> str:
    """Returns the text in one line, escaped so that Markdown shows it unchanged."""
    return " ".join(text.split()).translate(_ESCAPES)
