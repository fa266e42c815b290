"""Several records side by side: one Markdown file and one self-contained HTML page.

write_comparison([report.record for report in reports], folder, names=["plain", "robust"])
"""

import pathlib
from collections.abc import Sequence

from keras_robust.reports import analysis_plots, comparison_tables, curves, markdown_text, templates
from keras_robust.reports.analyses import Section
from keras_robust.reports.analysis_record import Analysis
from keras_robust.reports.canvas import Picture
from keras_robust.reports.comparison_tables import COMPARABLE, Named
from keras_robust.reports.curves import Axis
from keras_robust.reports.fields import Record
from keras_robust.reports.record import check_record

TEMPLATE = "compare.html"
UPPER_BOUND = (
    "Robust accuracy is an upper bound, found by the attacks named in its row: a stronger attack may find less."
)
NO_CHECKS = "No gradient masking checks were run."


def compare_records(records: Sequence[Record], names: Sequence[str] | None = None) -> tuple[str, str]:
    """The comparison as Markdown and as a self-contained HTML page.

    Args:
        records: evaluation records, as read from JSON.
        names: one per record, all different; None takes where each model came from, numbered if that repeats.

    Raises:
        ValueError: there is no record, a record is not complete or contradicts itself, or names are not what they
            must be.
    """
    for record in records:
        check_record(record)
    named = dict(zip(_names(records, names), records, strict=True))
    overlays = [overlay for kind, axis in curves.AXES.items() for overlay in _overlays(named, kind, axis)]
    return _markdown(named, overlays), _html(named, overlays)


def write_comparison(records: Sequence[Record], folder: pathlib.Path, names: Sequence[str] | None = None) -> None:
    """Writes `compare.md` and `compare.html` into an existing folder; both are rendered before either is written.

    Args:
        records: evaluation records, as read from JSON.
        folder: an existing folder.
        names: as in `compare_records`.

    Raises:
        ValueError: as `compare_records`.
    """
    markdown, page = compare_records(records, names)
    (folder / "compare.md").write_text(markdown, encoding="utf-8")
    (folder / "compare.html").write_text(page, encoding="utf-8")


def _names(records: Sequence[Record], names: Sequence[str] | None) -> list[str]:
    if not records:
        raise ValueError("A comparison needs at least one record. Received: records=[]")
    if names is not None:
        if len(names) != len(records) or len(set(names)) != len(names):
            raise ValueError(f"Expected {len(records)} different names, one per record. Received: names={names!r}")
        return list(names)
    sources = [str(record["model"]["source"]) for record in records]
    return [
        f"{source} ({sources[: position + 1].count(source)})" if sources.count(source) > 1 else source
        for position, source in enumerate(sources)
    ]


def _overlays(named: Named, kind: str, axis: Axis) -> list[tuple[Section, Picture]]:
    """The curves of one kind over each axis that several records share, in one plot."""
    groups: dict[str, dict[str, list[Analysis]]] = {}
    for name, record in named.items():
        for analysis in record.get("analyses") or []:
            if analysis["kind"] == kind:
                groups.setdefault(curves.axis_label(analysis), {}).setdefault(name, []).append(analysis)
    return [_overlay(axis, label, group) for label, group in groups.items() if len(group) > 1]


def _overlay(axis: Axis, label: str, group: dict[str, list[Analysis]]) -> tuple[Section, Picture]:
    attacks = {analysis["attack"] for analyses in group.values() for analysis in analyses}
    introduction = "Accuracy under the attack that is named with each model."
    if len(attacks) == 1:
        introduction = f"Accuracy under {next(iter(attacks))}."
    series = [
        curves.curve_of(analysis, name if len(attacks) == 1 else f"{name}, {analysis['attack']}")
        for name, analyses in group.items()
        for analysis in analyses
    ]
    section = Section(axis.heading, introduction, [], [curves.curve_table(series, label)])
    return section, analysis_plots.curve_picture(series, label, logarithmic=axis.logarithmic)


def _title(named: Named) -> str:
    return f"Comparison of {len(named)} evaluations"


def _markdown(named: Named, overlays: list[tuple[Section, Picture]]) -> str:
    attacks, checks = comparison_tables.attacks_table(named), comparison_tables.checks_table(named)
    parts = [f"# {_title(named)}", UPPER_BOUND, markdown_text.table(comparison_tables.models_table(named))]
    parts += [f"**{markdown_text.escape(note)}**" for note in comparison_tables.notes(named)]
    if attacks:
        parts += ["## Accuracy by attack", markdown_text.table(attacks)]
    parts += ["## Gradient masking checks", markdown_text.table(checks) if checks.rows else NO_CHECKS]
    for section, _ in overlays:
        parts += [f"## {section.heading}", markdown_text.escape(section.introduction)]
        parts += [markdown_text.table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _html(named: Named, overlays: list[tuple[Section, Picture]]) -> str:
    notes = comparison_tables.notes(named)
    return templates.render(
        TEMPLATE,
        title=_title(named),
        upper_bound=UPPER_BOUND,
        models_table=comparison_tables.models_table(named),
        notes=notes,
        is_comparable=notes in ([], [COMPARABLE]),
        attacks_table=comparison_tables.attacks_table(named),
        checks_table=comparison_tables.checks_table(named),
        no_checks=NO_CHECKS,
        overlays=overlays,
    )
