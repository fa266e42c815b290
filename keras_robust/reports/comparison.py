"""A comparison of several records: a Markdown file and a self-contained HTML page.

write_comparison([report.record for report in reports], folder, names=["plain", "robust"])
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keras_robust.reports import (
    analyses,
    analysis_plots,
    formatting,
    markdown,
    page,
    tables,
    wording,
)
from keras_robust.reports.analyses import Axis, Section
from keras_robust.reports.canvas import Picture
from keras_robust.reports.record import Analysis, Record, check_record, wilson_interval, worst_case_results
from keras_robust.reports.tables import Table, make_table

Named = Mapping[str, Record]

MODEL_COLUMNS = (
    "Model",
    "Clean",
    "Robust accuracy",
    "95 % interval",
    "Measured by",
    "Suspicious checks",
    "Parameters",
    "Examples",
    "Data set",
)

MAX_ATTACK_COLUMNS = 8
"""With more attacks than this, a separate table has one row per attack."""

COMPARABLE = "All models were measured on the same examples, by the same attacks with the same settings."
TEMPLATE = "compare.html"

UPPER_BOUND = (
    "Robust accuracy is an upper bound, found by the attacks named in its row. A stronger attack may find a lower one."
)

NO_CHECKS = "No gradient masking checks were run."


def compare_records(records: Sequence[Record], names: Sequence[str] | None = None) -> tuple[str, str]:
    """Returns the comparison as Markdown and as a self-contained HTML page.

    Args:
        records: evaluation records, as read from JSON.
        names: one name per record, all different. None takes the source of each model, numbered if a source repeats.

    Raises:
        ValueError: if there is no record, a record is incomplete or contradicts itself, or `names` does not have one
            different name per record.
    """
    for record in records:
        check_record(record)
    named = dict(zip(_names(records, names), records, strict=True))
    overlays = [overlay for kind, axis in analyses.AXES.items() for overlay in _overlays(named, kind, axis)]
    return _markdown(named, overlays), _html(named, overlays)


def write_comparison(records: Sequence[Record], folder: pathlib.Path, names: Sequence[str] | None = None) -> None:
    """Writes `compare.md` and `compare.html` into an existing folder. If rendering fails, it writes neither.

    Args:
        records: evaluation records, as read from JSON.
        folder: an existing folder.
        names: see `compare_records`.

    Raises:
        ValueError: see `compare_records`.
    """
    markdown, page = compare_records(records, names)
    (folder / "compare.md").write_text(markdown, encoding="utf-8")
    (folder / "compare.html").write_text(page, encoding="utf-8")


def _names(records: Sequence[Record], names: Sequence[str] | None) -> list[str]:
    if not records:
        raise ValueError("A comparison needs at least one record. Received: records=[]")
    if names is not None:
        if len(names) != len(records) or len(set(names)) != len(names):
            raise ValueError(f"names must be {len(records)} different names, one per record. Received: names={names!r}")
        return list(names)
    sources = [str(record["model"]["source"]) for record in records]
    return [
        f"{source} ({sources[: position + 1].count(source)})" if sources.count(source) > 1 else source
        for position, source in enumerate(sources)
    ]


def _overlays(named: Named, kind: str, axis: Axis) -> list[tuple[Section, Picture]]:
    """Returns one plot for each axis of curves of this kind that several records share."""
    groups: dict[str, dict[str, list[Analysis]]] = {}
    for name, record in named.items():
        for analysis in record.get("analyses") or []:
            if analysis["kind"] == kind:
                groups.setdefault(analyses.axis_label(analysis), {}).setdefault(name, []).append(analysis)
    return [_overlay(axis, label, group) for label, group in groups.items() if len(group) > 1]


def _overlay(axis: Axis, label: str, group: dict[str, list[Analysis]]) -> tuple[Section, Picture]:
    attacks = {analysis["attack"] for own in group.values() for analysis in own}
    introduction = "Accuracy under the attack that is named with each model."
    if len(attacks) == 1:
        introduction = f"Accuracy under {next(iter(attacks))}."
    series = [
        analyses.curve_of(analysis, name if len(attacks) == 1 else f"{name}, {analysis['attack']}")
        for name, own in group.items()
        for analysis in own
    ]
    section = Section(axis.heading, introduction, [], [analyses.curve_table(series, label)])
    return section, analysis_plots.curve_picture(series, label, logarithmic=axis.logarithmic)


def _title(named: Named) -> str:
    return f"Comparison of {len(named)} evaluations"


def _markdown(named: Named, overlays: list[tuple[Section, Picture]]) -> str:
    attacks, checks = attacks_table(named), checks_table(named)
    parts = [f"# {_title(named)}", UPPER_BOUND, markdown.format_table(models_table(named))]
    parts += [f"**{markdown.escape(note)}**" for note in comparability_notes(named)]
    if attacks:
        parts += ["## Accuracy by attack", markdown.format_table(attacks)]
    parts += ["## Gradient masking checks", markdown.format_table(checks) if checks.rows else NO_CHECKS]
    for section, _ in overlays:
        parts += [f"## {section.heading}", markdown.escape(section.introduction)]
        parts += [markdown.format_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _html(named: Named, overlays: list[tuple[Section, Picture]]) -> str:
    notes = comparability_notes(named)
    return page.render_template(
        TEMPLATE,
        title=_title(named),
        upper_bound=UPPER_BOUND,
        models_table=models_table(named),
        notes=notes,
        is_comparable=notes in ([], [COMPARABLE]),
        attacks_table=attacks_table(named),
        checks_table=checks_table(named),
        no_checks=NO_CHECKS,
        overlays=overlays,
    )


def models_table(records: Named) -> Table:
    """Returns a table with one row per model. It has a column per attack if there are at most `MAX_ATTACK_COLUMNS`."""
    attacks = attack_names(records)
    attacks = attacks if len(attacks) <= MAX_ATTACK_COLUMNS else []
    rows = [_model_row(name, records[name], attacks) for name in records]
    return make_table((*MODEL_COLUMNS, *attacks), "nrrrtrrrn" + "r" * len(attacks), rows)


def attacks_table(records: Named) -> Table | None:
    """Returns one row per attack and one column per model, or None if `models_table` has the columns of attacks."""
    attacks = attack_names(records)
    if len(attacks) <= MAX_ATTACK_COLUMNS:
        return None
    cells = [attack_accuracies(record) for record in records.values()]
    rows = [(name, *(accuracies.get(name, formatting.NOTHING) for accuracies in cells)) for name in attacks]
    return make_table(("Attack", *records), "n" + "r" * len(cells), rows)


def checks_table(records: Named) -> Table:
    """Returns a table with one row per gradient masking check of any record and one column per model."""
    checks = [{check["name"]: check for check in record["checks"]} for record in records.values()]
    names = list(dict.fromkeys(name for found in checks for name in found))
    rows = [(name, *(_check_cell(found.get(name)) for found in checks)) for name in names]
    return make_table(("Check", *records), "n" * (1 + len(checks)), rows)


def attack_names(records: Named) -> list[str]:
    """Returns the attacks of all records in the order of first appearance. Those of a suite begin with "after"."""
    return list(dict.fromkeys(name for record in records.values() for name in attack_accuracies(record)))


def attack_accuracies(record: Record) -> dict[str, str]:
    """Returns {row of the accuracy table: accuracy as text}, with one entry per attack."""
    rows = tables.accuracy_rows(record)[1:-1]
    return {row.name: row.accuracy for row in rows}


def comparability_notes(records: Named) -> list[str]:
    """Returns sentences on differences that make accuracies hard to compare, or one that says that there are none."""
    found = [note for heading, value in _CONDITIONS if (note := _difference(records, heading, value))]
    if not found and len({tuple(record["labels"]) for record in records.values()}) > 1:
        found.append("The labels differ: these are not the same examples, or not in the same order.")
    found += _attack_notes(records)
    found += [f"{name}: {note}" for name, record in records.items() for note in record.get("notes", [])]
    return found if found or len(records) == 1 else [COMPARABLE]


def measured_by(record: Record) -> str:
    """Returns the attacks that measured the robust accuracy, with the source model of a black-box attack."""
    names = "; ".join(wording.attackers(record))
    if not names:
        return "no attack"
    source = record["black_box_source"]
    return f"{names}, black box, crafted on {source}" if source else names


def _model_row(name: str, record: Record, attacks: list[str]) -> list[str]:
    accuracies = attack_accuracies(record)
    robust = interval = formatting.NOTHING
    if record["attacks"]:
        results = worst_case_results(record)
        robust = formatting.percent(record["robust_accuracy"])
        interval = formatting.percent_range(*wilson_interval(int(results.sum()), results.size))
    parameters = record["model"].get("parameters")
    return [
        name,
        formatting.percent(record["clean_accuracy"]),
        robust,
        interval,
        measured_by(record),
        _suspicious_checks(record),
        formatting.NOTHING if parameters is None else f"{parameters:,}",
        f"{record['examples']:,}",
        str(record["dataset"]),
        *(accuracies.get(attack, formatting.NOTHING) for attack in attacks),
    ]


def _suspicious_checks(record: Record) -> str:
    verdicts = [tables.check_verdict(check) for check in record["checks"]]
    ran = [verdict for verdict in verdicts if verdict != formatting.NOT_RUN]
    return f"{ran.count(formatting.SUSPICIOUS)} of {len(ran)}" if ran else formatting.NOTHING


def _check_cell(check: dict[str, Any] | None) -> str:
    if check is None:
        return formatting.NOTHING
    verdict = tables.check_verdict(check)
    return verdict if check["value"] is None else f"{verdict} ({formatting.scalar(check['value'])})"


def _difference(records: Named, heading: str, value: Callable[[Record], str]) -> str | None:
    names: dict[str, list[str]] = {}
    for name, record in records.items():
        names.setdefault(value(record), []).append(name)
    if len(names) == 1:
        return None
    return f"{heading}: {'; '.join(f'{text} for {_list(group)}' for text, group in names.items())}."


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _attack_notes(records: Named) -> list[str]:
    """Returns a sentence for every attack whose settings differ between records."""
    conditions = {name: _attack_conditions(record) for name, record in records.items()}
    found = []
    for attack in attack_names(records):
        ran = {name: settings[attack] for name, settings in conditions.items() if attack in settings}
        if len(set(ran.values())) > 1:
            found.append(f'The attack "{attack}" had different settings in: {_list(ran)}.')
    return found


def _attack_conditions(record: Record) -> dict[str, str]:
    """Returns {row of the accuracy table: settings}. In a suite, the settings are those of all attacks so far."""
    names = list(attack_accuracies(record))
    settings = [formatting.pretty_json(record["details"][name]["settings"]) for name in record["attacks"]]
    if record.get("suite"):
        settings = ["".join(settings[: end + 1]) for end in range(len(settings))]
    return dict(zip(names, settings, strict=True))


def _threat_model(record: Record) -> str:
    return formatting.settings_summary(record.get("threat_model") or "one for each attack")


_CONDITIONS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("The data sets differ", lambda record: str(record["dataset"])),
    ("The numbers of examples differ", lambda record: f"{record['examples']:,}"),
    ("The threat models differ", _threat_model),
    ("Robust accuracy was not measured by the same attacks", measured_by),
)
