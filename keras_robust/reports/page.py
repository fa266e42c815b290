"""The report as one HTML page that needs no other file, no network and no script."""

import pathlib

import jinja2

from keras_robust.reports import formatting, images, plots, tables, wording
from keras_robust.reports.record import Record, Samples, check_record, check_samples

TEMPLATE = "report.html"


def render_html(record: Record, samples: Samples) -> str:
    """The report as a self-contained HTML page.

    Args:
        record: the evaluation record, as read from JSON.
        samples: images, attacked images, labels and predictions, as in `write_report`; may hold no image.

    Raises:
        ValueError: a field is missing, or the record contradicts itself.
    """
    check_record(record)
    check_samples(samples)
    access, explanation = wording.access(record)
    training = record["training"]
    figures = plots.curve_figures(training["history"]) if training else []
    return _template().render(
        title=wording.title(record),
        verdict=wording.verdict(record),
        access=access,
        access_explanation=explanation,
        is_black_box=bool(record["black_box_source"]),
        accuracy_columns=tables.ACCURACY_COLUMNS,
        accuracy_rows=tables.accuracy_rows(record),
        has_attacks=bool(record["attacks"]),
        intervals=wording.INTERVALS,
        checks_summary=wording.checks_summary(record),
        check_columns=tables.CHECK_COLUMNS,
        check_rows=tables.check_rows(record),
        figures=figures,
        training_caption=wording.training_attacks(record) if figures else wording.NO_HISTORY,
        sample_attack=str(samples["attack_name"]),
        sample_cards=images.sample_cards(record, samples),
        provenance_rows=tables.provenance_rows(record),
        settings=_settings(record),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _settings(record: Record) -> list[tuple[str, str]]:
    """Full settings as (heading, JSON), one per attack and one of the training run."""
    settings = [
        (f"Attack: {name}", formatting.pretty_json(record["details"][name]["settings"])) for name in record["attacks"]
    ]
    if record["training"]:
        settings.append(("Training configuration", formatting.pretty_json(record["training"]["config"])))
    return settings
