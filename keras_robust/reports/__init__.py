"""Reports: one Markdown file and one self-contained HTML page, made from an evaluation record and a few images only.

write_report(json.loads(path.read_text()), samples, folder)
write_comparison(records, folder)
"""

from keras_robust.reports.comparison import compare_records, write_comparison
from keras_robust.reports.markdown import render_markdown
from keras_robust.reports.page import render_html
from keras_robust.reports.writer import write_report

__all__ = ["compare_records", "render_html", "render_markdown", "write_comparison", "write_report"]
