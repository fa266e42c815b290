"""Reports: a Markdown file and a self-contained HTML page, made from only an evaluation record and a few images.

write_report(json.loads(path.read_text()), samples, folder)
write_comparison(records, folder)

Matplotlib and Jinja are imported when one of these functions is first used.
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
