"""Writes both forms of a report into a folder."""

import pathlib

from keras_robust.reports.fields import Record, Samples
from keras_robust.reports.markdown import render_markdown
from keras_robust.reports.page import render_html


def write_report(record: Record, samples: Samples, folder: pathlib.Path) -> None:
    """Writes `report.md` and `index.html` into an existing folder; both are rendered before either is written.

    Args:
        record: the evaluation record, as read from JSON; its fields are in `record.py`.
        samples: "images" and "attacked", (n, height, width, channels) float32 in the bounds of the threat model, or of
            another shape, (n, ...); "labels", "clean_predictions" and "attacked_predictions", (n,) integers;
            "attack_name", a 0-d string. For an analysis that shows images, all but the clean predictions again, with
            its name and a slash in front.
        folder: an existing folder.

    Raises:
        ValueError: a field is missing, or the record contradicts itself.
    """
    markdown = render_markdown(record)
    page = render_html(record, samples)
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
