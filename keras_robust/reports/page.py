"""The report as one HTML page. It needs no other file, no network and no script."""

import dataclasses
import pathlib
from typing import Any

import jinja2

from keras_robust.reports import analyses, analysis_plots, formatting, images, plots, tables, wording
from keras_robust.reports.canvas import Picture
from keras_robust.reports.markdown import render_markdown
from keras_robust.reports.record import LARGE_EPSILON, Record, Samples, check_record, check_samples

TEMPLATE = "report.html"


def write_report(record: Record, samples: Samples, folder: pathlib.Path) -> None:
    """Writes `report.md` and `index.html` into an existing folder. If rendering fails, it writes neither.

    Args:
        record: the evaluation record, as read from JSON. `record.py` lists its fields.
        samples: arrays by name.

            - "images" and "attacked": (n, height, width, channels) or (n, ...) float32 in the bounds of the threat
              model;
            - "labels", "clean_predictions" and "attacked_predictions": (n,) integers;
            - "attack_name": a 0-d string;
            - for each analysis that shows images: "images", "attacked", "labels" and "attacked_predictions" again,
              with the prefix `analysis["arrays"]` and a slash.
        folder: an existing folder.

    Raises:
        ValueError: if a field is missing, the record contradicts itself, or the samples do not fit together.
    """
    markdown = render_markdown(record)
    page = render_html(record, samples)
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class AnalysisView:
    """One analysis on the page: its text, its plots, and its pairs of clean and attacked images."""

    section: analyses.Section
    pictures: list[Picture]
    pairs: list[images.PairCard]


def render_html(record: Record, samples: Samples) -> str:
    """Returns the report as a self-contained HTML page.

    Args:
        record: the evaluation record, as read from JSON.
        samples: see `write_report`. The arrays may have no rows.

    Raises:
        ValueError: if a field is missing, the record contradicts itself, or the samples do not fit together.
    """
    check_record(record)
    check_samples(record, samples)
    access, explanation = wording.access(record)
    training = record["training"]
    figures = plots.curve_figures(training["history"]) if training else []
    return render_template(
        TEMPLATE,
        title=wording.title(record),
        verdict=wording.verdict(record),
        access=access,
        access_explanation=explanation,
        is_black_box=bool(record["black_box_source"]),
        notes=record.get("notes", []),
        accuracy_table=tables.accuracy_table(record),
        accuracy_notes=wording.accuracy_notes(record),
        target_table=tables.target_table(record),
        target_notes=wording.target_notes(record),
        settings_rows=tables.settings_rows(record),
        checks_summary=wording.checks_summary(record),
        check_table=tables.check_table(record),
        is_suspicious=any(row.suspicious for row in tables.check_rows(record)),
        analyses=_analyses(record, samples),
        figures=figures,
        training_caption=wording.training_attacks(record) if figures else wording.NO_HISTORY,
        sample_attack=str(samples["attack_name"]),
        sample_cards=images.sample_cards(record, samples),
        provenance_rows=tables.provenance_rows(record),
        settings=_settings(record),
    )


def _analyses(record: Record, samples: Samples) -> list[AnalysisView]:
    return [
        AnalysisView(
            section,
            analysis_plots.pictures(analysis),
            images.pair_cards(record, samples, analysis["arrays"]) if analysis["kind"] == LARGE_EPSILON else [],
        )
        for section, analysis in zip(analyses.sections(record), record.get("analyses") or [], strict=True)
    ]


def _settings(record: Record) -> list[tuple[str, str]]:
    """Returns all settings as (heading, JSON): of the suite, of every attack and of the training run."""
    settings = tables.full_settings(record)
    if record["training"]:
        settings.append(("Training configuration", record["training"]["config"]))
    return [(heading, formatting.pretty_json(value)) for heading, value in settings]


def render_template(template: str, **content: Any) -> str:
    """Returns a Jinja template of this folder filled with `content`. Text is escaped. A missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
