"""Reports: one Markdown file and one self-contained HTML page, made from an evaluation record and a few images only.

write_report(json.loads(path.read_text()), samples, folder)
write_comparison(records, folder)

The libraries that draw and fill in templates are loaded with the first of these functions.
"""

from keras_robust._imports import on_first_use

__getattr__ = on_first_use(
    __name__,
    {
        "compare_records": "keras_robust.reports.comparison:compare_records",
        "render_html": "keras_robust.reports.page:render_html",
        "render_markdown": "keras_robust.reports.markdown:render_markdown",
        "write_comparison": "keras_robust.reports.comparison:write_comparison",
        "write_report": "keras_robust.reports.page:write_report",
    },
)

__all__ = ["compare_records", "render_html", "render_markdown", "write_comparison", "write_report"]
