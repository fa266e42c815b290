"""The report in Markdown: the same content as the page, without pictures."""

from keras_robust.reports import analyses, markdown_text, plots, tables, wording
from keras_robust.reports.fields import Record
from keras_robust.reports.markdown_text import escape
from keras_robust.reports.record import check_record


def render_markdown(record: Record) -> str:
    """The report as Markdown with tables as GitHub reads them.

    Raises:
        ValueError: a field is missing, or the record contradicts itself.
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
        markdown_text.table(tables.make_table(("What", "Value"), "ll", tables.provenance_rows(record))),
        "## Attack settings",
        *_attack_settings(record),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(record: Record) -> list[str]:
    notes = [escape(note) for note in wording.accuracy_notes(record)]
    settings = tables.settings_rows(record)
    return [
        markdown_text.table(tables.accuracy_table(record)),
        *notes,
        *([markdown_text.bullets(settings)] if settings else []),
    ]


def _targets(record: Record) -> list[str]:
    table = tables.target_table(record)
    if table is None:
        return []
    return ["## Targets", markdown_text.table(table), *(escape(note) for note in wording.target_notes(record))]


def _checks(record: Record) -> list[str]:
    table = tables.check_table(record)
    return [wording.checks_summary(record), *([markdown_text.table(table)] if table.rows else [])]


def _analyses(record: Record) -> list[str]:
    parts: list[str] = []
    for section in analyses.sections(record):
        parts += [f"## {section.heading}", escape(section.introduction)]
        parts += [f"**{escape(verdict.text)}**" for verdict in section.verdicts]
        parts += [markdown_text.table(table) for table in section.tables]
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
        parts = [markdown_text.table(table), escape(wording.training_attacks(record))]
    return [*parts, "Training configuration:", markdown_text.code_block(record["training"]["config"])]


def _attack_settings(record: Record) -> list[str]:
    parts: list[str] = []
    for heading, settings in tables.full_settings(record):
        parts += [f"{escape(heading)}:", markdown_text.code_block(settings)]
    return parts or ["No attack was run."]
